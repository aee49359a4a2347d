"""Popularity: every user gets the most frequent items of the training split. Every model must beat this."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sealr.data.sequences import Sequences
from sealr.settings import RetrieveConfig


class Popularity(nn.Module):
    """Ignores the history."""

    counts: Tensor  # (n_items + 1,)

    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(n_items + 1))

    def fit(self, sequences: Sequences) -> None:
        self.counts.copy_(torch.from_numpy(popularity(sequences)))

    def score(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> counts (B, n_items + 1), -inf at padding."""
        scores = self.counts.repeat(len(sequences), 1)
        scores[:, 0] = -torch.inf
        return scores

    def similarity(self, item: int, others: Tensor) -> Tensor:
        """(H,) zeros: popularity does not compare items."""
        return self.counts.new_zeros(len(others))


def popularity(sequences: Sequences) -> np.ndarray:
    """(n_items + 1,) float32: how often each item occurs in the training split; -inf at padding."""
    train = sequences.split("train")
    counts = np.bincount(np.concatenate(list(train.histories())), minlength=sequences.n_items + 1).astype(np.float32)
    counts[0] = -np.inf
    return counts
