"""Ridge regression from a user's items to the next one, in closed form (SLIT of SLIST, Choi et al., WWW 2021).

Each position of a training history is one row: S holds decay^a for an item with a newer ones after it, Y is 1 at the
item that came next. W = (S^T S + l2 I)^-1 S^T Y has the least squared error, and a history's scores are its row of
S times W. EASE learns which items go together; this learns which one follows.

Departures from the paper: only the next item is a target, not all later ones; each row of W keeps only the NEIGHBOURS
weights with the largest magnitude. Time and memory are those of EASE, and so is the largest catalogue.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sealr.data.sequences import Sequences
from sealr.retrieve.models.neighbours import NeighbourModel, check_catalogue
from sealr.settings import RetrieveConfig


class Transition(NeighbourModel):
    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__(n_items)
        self.decay, self.l2, self.max_len = config.transition.decay, config.transition.l2, config.max_len

    def fit(self, sequences: Sequences) -> None:
        """Raises ValueError when the catalogue is too large."""
        check_catalogue("transition", sequences.n_items)
        before, after = positions(sequences, self.decay, self.max_len)
        device = self.weights.device
        gram = torch.from_numpy((before.T @ before).toarray()).to(device)  # (V, V)
        gram.diagonal().add_(self.l2)
        follows = torch.from_numpy((before.T @ after).toarray()).to(device)  # (V, V)
        self.keep_largest(torch.cholesky_solve(follows, torch.linalg.cholesky(gram)))


def positions(
    sequences: Sequences, decay: float, max_len: int
) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """S and Y, both (P, V) float32, of the P training positions that have an earlier item.

    Of a repeated item only the newest occurrence counts, and of the others only those that count are newer, as in
    scoring.
    """
    rows, items, ranks, targets = [], [], [], []
    count = 0
    for history in sequences.split("train").histories():
        length = max(0, len(history) - 1)  # in a split by time, some users have no training items
        place, age = np.arange(length)[:, None], np.arange(min(max_len, length))
        earlier = place - age  # (targets, ages) of an item, the newest first; below 0 before the history begins
        newest = (earlier >= 0) & (_next_place(history)[earlier] > place)
        place, age = np.nonzero(newest)
        rows.append(place + count)
        items.append(history[place - age] - 1)
        ranks.append((newest.cumsum(1) - 1)[place, age])  # how many of the items that count are newer
        targets.append(history[1:] - 1)
        count += length
    row, item, rank, target = (np.concatenate(parts) for parts in (rows, items, ranks, targets))
    shape = (count, sequences.n_items)
    before = scipy.sparse.csr_array(((decay**rank).astype(np.float32), (row, item)), shape=shape)
    ones = np.ones(count, dtype=np.float32)
    return before, scipy.sparse.csr_array((ones, (np.arange(count), target)), shape=shape)


def _next_place(history: np.ndarray) -> np.ndarray:
    """(H,) where each item of a history occurs again; H if it does not."""
    places = np.full(len(history), len(history))
    order = np.argsort(history, kind="stable")
    again = history[order[1:]] == history[order[:-1]]
    places[order[:-1][again]] = order[1:][again]
    return places
