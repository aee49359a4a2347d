"""SEALR: sequential emotion-aware LLM-based personalised recommendation."""

import logging

__version__ = "0.1.0"

# Says on CPUs with bfloat16 that a kernel is not there which could only be downloaded
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
