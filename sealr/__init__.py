"""SEALR: sequential emotion-aware LLM-based personalised recommendation."""

__version__ = "0.1.0"
