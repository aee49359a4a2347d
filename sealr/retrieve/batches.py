"""Batches for training a neural retriever."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sealr.data.sequences import Sequences
from sealr.settings import RetrieveConfig


class Batches:
    """Random batches of users' training items. The order follows torch's global generator.

    A batch is (inputs, targets, feelings). inputs, targets: (B, L) int64, oldest first, zeros to the right; the
    target of a position is the next item. feelings: (B, L, 2) float32 or None. Raises ValueError when there is
    nothing to train on.
    """

    def __init__(self, sequences: Sequences, config: RetrieveConfig, feelings: np.ndarray | None = None) -> None:
        split = sequences.split("train")
        long = split.ends - split.starts >= 2
        self.starts, self.ends = np.maximum(split.starts, split.ends - config.max_len - 1)[long], split.ends[long]
        self.flat, self.feelings, self.batch_size = split.flat, feelings, config.batch_size
        self.positions = int((self.ends - self.starts - 1).sum())  # training targets per epoch
        if not self.positions:
            raise ValueError("no user has two training items: there is nothing to train a retriever on")

    def __len__(self) -> int:
        return -(-len(self.starts) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        for rows in torch.randperm(len(self.starts)).split(self.batch_size):
            starts, ends = self.starts[rows.numpy()], self.ends[rows.numpy()]
            places = starts[:, None] + np.arange((ends - starts).max())  # (B, L + 1) in ``flat``
            real, places = places < ends[:, None], np.minimum(places, len(self.flat) - 1)
            items = np.where(real, self.flat[places], 0)
            targets = items[:, 1:]
            feelings = None if self.feelings is None else torch.from_numpy(self.feelings[places[:, :-1]])
            yield torch.from_numpy(np.where(targets > 0, items[:, :-1], 0)), torch.from_numpy(targets), feelings
