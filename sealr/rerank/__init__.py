"""Stage three of the paper (Section 2.3): an instruction-tuned LLM re-ranks the retriever's candidates."""
