"""EASE (Steck, WWW 2019): the linear item-item model that best reconstructs all histories, in closed form.

With the binary matrix X (users, V), P = (X^T X + l2 I)^-1 and B(i, j) = -P(i, j) / P(j, j), 0 on the diagonal (equation
8). A user's scores are the user's row of X times B.

Departures from the paper: each row of B keeps only the NEIGHBOURS weights with the largest magnitude. The inverse needs
three (V, V) float32 matrices at once and time proportional to V^3, so a catalogue over MAX_ITEMS is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sealr.data.sequences import Sequences
from sealr.retrieve.models.neighbours import NeighbourModel, check_catalogue, training_matrix
from sealr.settings import RetrieveConfig


class EASE(NeighbourModel):
    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__(n_items)
        self.l2 = config.ease.l2

    def fit(self, sequences: Sequences) -> None:
        """Raises ValueError when the catalogue is too large."""
        check_catalogue("ease", sequences.n_items)
        inverse = self._inverse(sequences)  # (V, V)
        diagonal = inverse.diagonal().clone()
        self.keep_largest(inverse.fill_diagonal_(0).div_(-diagonal))

    def _inverse(self, sequences: Sequences) -> Tensor:
        matrix = training_matrix(sequences)[:, 1:]
        gram = torch.from_numpy((matrix.T @ matrix).toarray()).to(self.weights.device)  # (V, V)
        gram.diagonal().add_(self.l2)
        return torch.cholesky_inverse(torch.linalg.cholesky(gram))
