"""Models as files that other tools read: an LLM in Hugging Face format and a retriever in ONNX."""
