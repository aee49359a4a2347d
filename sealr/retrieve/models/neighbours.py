"""What item-item models share: the NEIGHBOURS largest weights of each item, and scores as sums over a row's items."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from sealr.data.sequences import Sequences
from sealr.retrieve.models.base import Packed

NEIGHBOURS = 200  # weights kept per item
MAX_ITEMS = 40_000  # of a model that inverts an (items, items) matrix: 19 GB for three of them
BLOCK_ELEMENTS = 2**24  # weights sorted at a time: 64 MB


class NeighbourModel(nn.Module):
    """score(j) = sum over the row's items i of decay^positions_from_end(i) * weight(i, j). Ignores feelings.

    Of a repeated item only the newest occurrence counts. Only K weights of each item are kept, so neither memory nor
    the time per score grows with the square of the catalogue.
    """

    decay = 1.0
    indices: Tensor  # (V + 1, K) int32, 0 for none
    weights: Tensor  # (V + 1, K)

    def __init__(self, n_items: int) -> None:
        super().__init__()
        kept = min(NEIGHBOURS, n_items)
        self.register_buffer("indices", torch.zeros(n_items + 1, kept, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(n_items + 1, kept))

    def fit(self, sequences: Sequences) -> None:
        """Fills the buffers from the training split. Defined by the model."""
        raise NotImplementedError

    def keep_largest(self, weights: Tensor) -> None:
        """weights (V, V): keeps the K of each row with the largest magnitude."""
        block = max(1, BLOCK_ELEMENTS // len(weights))
        for start in range(0, len(weights), block):
            rows = weights[start : start + block]  # (b, V)
            kept = rows.abs().topk(self.indices.shape[1]).indices  # (b, K)
            places = slice(start + 1, start + 1 + len(kept))
            self.weights[places] = rows.gather(1, kept)
            self.indices[places] = kept.int() + 1

    def score(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, n_items + 1), -inf at padding."""
        repeated = (sequences[:, :, None] == sequences[:, None, :]).triu(1).any(2)  # (B, L) the item occurs again later
        packed = Packed(sequences.masked_fill(repeated, 0))
        weights = self.weights[packed.items] * (self.decay**packed.positions_from_end)[:, None]  # (N, K)
        scores = weights.new_zeros(len(sequences), len(self.indices))
        places = packed.row[:, None] * scores.shape[1] + self.indices[packed.items]  # (N, K) in the flat scores
        scores.view(-1).scatter_add_(0, places.view(-1), weights.view(-1))
        scores[:, 0] = -torch.inf
        return scores

    def similarity(self, item: int, others: Tensor) -> Tensor:
        """(H,) weights of the item among the neighbours of each of the others; 1 for the item itself."""
        found = (self.weights[others] * (self.indices[others] == item)).sum(1)
        return torch.where(others == item, 1.0, found)


def check_catalogue(model: str, n_items: int) -> None:
    """Raises ValueError when a catalogue is too large for a model that inverts an (items, items) matrix."""
    if n_items > MAX_ITEMS:
        raise ValueError(f"{model} inverts an (items, items) matrix: {n_items} items are too many; use cooccurrence")


def training_matrix(sequences: Sequences) -> scipy.sparse.csr_array:
    """(users, n_items + 1) float32, 1 where an item is in a user's training history, else 0."""
    train = sequences.split("train")
    lengths = train.ends - train.starts
    rows, items = np.repeat(np.arange(len(train)), lengths), np.concatenate(list(train.histories()))
    shape = (len(train), sequences.n_items + 1)
    matrix = scipy.sparse.csr_array((np.ones(len(items), dtype=np.float32), (rows, items)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1  # repeated items count once
    return matrix
