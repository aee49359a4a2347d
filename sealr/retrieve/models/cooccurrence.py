"""Item-item co-occurrence (Sarwar et al., WWW 2001), weighted by recency.

weight(i, j) = c(i, j) / sqrt((c(i) + DAMPING) (c(j) + DAMPING)), where c(i, j) users have both items and c(i) users
have item i. This is the cosine of the items' columns, damped; without damping, two rare items that one user happens to
have outweigh pairs that many users share.

Departures from the paper: columns are binary, so an item of the history is weighted by its recency, not its rating;
scores are sums, not averages. A sparse product counts the pairs, so memory grows with the number of pairs that occur.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sealr.data.sequences import Sequences
from sealr.retrieve.models.neighbours import NeighbourModel, training_matrix
from sealr.settings import RetrieveConfig

DAMPING = 30.0  # best of 0, 3, 10, 30, 100 on the validation items of Beauty


class Cooccurrence(NeighbourModel):
    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__(n_items)
        self.decay = config.cooccurrence.decay

    def fit(self, sequences: Sequences) -> None:
        matrix = training_matrix(sequences)
        pairs = (matrix.T @ matrix).tocoo()  # (V + 1, V + 1), c(i, i) = c(i) on the diagonal
        totals = pairs.diagonal() + DAMPING  # (V + 1,)
        first, second = pairs.coords
        weights = pairs.data / np.sqrt(totals[first] * totals[second])
        other = first != second
        first, second, weights = first[other], second[other], weights[other]
        order = np.lexsort((second, -weights, first))  # by item, largest weight first, ties by index
        first, second, weights = first[order], second[order], weights[order]
        starts = np.searchsorted(first, np.arange(len(totals)))
        column = np.arange(len(first)) - starts[first]  # rank among the item's neighbours
        kept = column < self.indices.shape[1]
        places = (torch.from_numpy(first[kept]).long(), torch.from_numpy(column[kept]))
        for buffer, values in ((self.indices, second[kept]), (self.weights, weights[kept])):
            filled = torch.zeros(buffer.shape, dtype=buffer.dtype)
            filled[places] = torch.from_numpy(values).to(buffer.dtype)
            buffer.copy_(filled)
