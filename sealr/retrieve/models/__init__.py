"""Sequential models by name. Each is one nn.Module with the interface of ``SASRec``: forward and score."""

from __future__ import annotations

from torch import nn

from sealr.config import RetrieveConfig
from sealr.retrieve.models.sasrec import SASRec

MODELS: dict[str, type[nn.Module]] = {"sasrec": SASRec}


def build(config: RetrieveConfig, n_items: int) -> nn.Module:
    """A model with fresh weights for items 1..n_items, drawn from torch's global generator."""
    if config.model not in MODELS:
        raise ValueError(f"no retriever is called {config.model!r}; there are: {', '.join(sorted(MODELS))}")
    return MODELS[config.model](n_items, config.hidden, config.layers, config.heads, config.max_len, config.dropout)
