"""Batches that a neural retriever is trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sealr.data.sequences import Sequences
from sealr.settings import RetrieveConfig


class Batches:
    """Random batches of training rows; the order follows torch's global generator.

    An item is (inputs, targets, feelings): (B, L) int64 twice, oldest first and zeros to the right, the target at a position
    being the next item; and (B, L, 2) float32 or None. A row is a user, or a prefix of one where ``objective`` is "last".
    """

    def __init__(self, sequences: Sequences, config: RetrieveConfig, feelings: np.ndarray | None = None) -> None:
        split = sequences.split("train")
        lengths = split.ends - split.starts
        if config.objective == "last":  # every end from the second item on
            starts = np.repeat(split.starts, np.maximum(lengths - 1, 0))
            ends = np.concatenate([np.arange(a + 2, b + 1) for a, b in zip(split.starts, split.ends, strict=True)] or [[]])
        else:
            starts, ends = split.starts[lengths >= 2], split.ends[lengths >= 2]
        self.flat, self.feelings, self.batch_size = split.flat, feelings, config.batch_size
        self.starts, self.ends = np.maximum(starts, ends - config.max_len - 1), ends.astype(np.int64)
        self.positions = len(ends) if config.objective == "last" else int((self.ends - self.starts - 1).sum())
        if not self.positions:
            raise ValueError("no user has two training items: there is nothing to train a retriever on")

    def __len__(self) -> int:
        return -(-len(self.starts) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        for rows in torch.randperm(len(self.starts)).split(self.batch_size):
            starts, ends = self.starts[rows.numpy()], self.ends[rows.numpy()]
            where = starts[:, None] + np.arange((ends - starts).max())  # (B, L + 1)
            real, where = where < ends[:, None], np.minimum(where, len(self.flat) - 1)
            items = np.where(real, self.flat[where], 0)
            targets = items[:, 1:]
            felt = None if self.feelings is None else torch.from_numpy(self.feelings[where[:, :-1]])
            yield torch.from_numpy(np.where(targets > 0, items[:, :-1], 0)), torch.from_numpy(targets), felt
