"""What item-item models share: the heaviest ``neighbours`` weights of each item, and scores as sums over a row's items."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from sealr.data.sequences import Sequences
from sealr.retrieve.models.base import Packed


class NeighbourModel(nn.Module):
    """score(j) = sum over the row's items i of decay^age(i) * weight(i, j). Feelings are not read.

    Where an item repeats in a row only its newest place counts. K weights of each item i are kept, so that neither the
    memory of the model nor the time of a score grows with the square of the catalogue.
    """

    decay = 1.0  # by age: the newest item has age 0

    def __init__(self, n_items: int, neighbours: int) -> None:
        super().__init__()
        kept = min(neighbours, n_items)
        self.register_buffer("indices", torch.zeros(n_items + 1, kept, dtype=torch.int32))  # (V + 1, K), 0 for none
        self.register_buffer("weights", torch.zeros(n_items + 1, kept))  # (V + 1, K)

    def fit(self, sequences: Sequences) -> None:
        """Fills the buffers from the training split. To be defined by the model."""
        raise NotImplementedError

    def score(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, n_items + 1), -inf at padding."""
        again = (sequences[:, :, None] == sequences[:, None, :]).triu(1).any(2)  # (B, L) the item comes once more
        packed = Packed(sequences.masked_fill(again, 0))
        weights = self.weights[packed.items] * (self.decay**packed.age)[:, None]  # (N, K)
        scores = weights.new_zeros(len(sequences), len(self.indices))
        where = packed.row[:, None] * scores.shape[1] + self.indices[packed.items]  # (N, K) in the flat scores
        scores.view(-1).scatter_add_(0, where.view(-1), weights.view(-1))
        scores[:, 0] = -torch.inf
        return scores

    def similarity(self, item: int, others: Tensor) -> Tensor:
        """(H,) weights of the item among the neighbours of each of the others; 1 for the item itself."""
        found = (self.weights[others] * (self.indices[others] == item)).sum(1)
        return torch.where(others == item, 1.0, found)


def training_matrix(sequences: Sequences) -> scipy.sparse.csr_array:
    """(users, n_items + 1) float32 of zeros and ones: which items are in whose training history."""
    train = sequences.split("train")
    lengths = train.ends - train.starts
    rows, items = np.repeat(np.arange(len(train)), lengths), np.concatenate(list(train.histories()))
    shape = (len(train), sequences.n_items + 1)
    matrix = scipy.sparse.csr_array((np.ones(len(items), dtype=np.float32), (rows, items)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1  # an item counts once, however often it repeats
    return matrix
