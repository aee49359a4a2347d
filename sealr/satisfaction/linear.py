"""Ridge regression from sums over rows, so that the rows need not be in memory together.

The penalty is the one with the least generalised cross-validation error (Golub, Heath and Wahba, Technometrics 1979):
GCV = RSS / n / (1 - trace(H) / n)^2, where H is the matrix that turns the targets into the fitted values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

PENALTIES = np.logspace(-5, 2, 36)  # per row, for columns of variance 1
FLAT = 1e-12  # a column with less variance tells nothing and gets weight 0


@dataclass(frozen=True)
class Ridge:
    """``x @ weights + intercept``."""

    weights: np.ndarray  # (F,) float64
    intercept: float
    penalty: float  # the chosen one of PENALTIES

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(N, F) -> (N,) float64."""
        return np.asarray(x, np.float64) @ self.weights + self.intercept

    def to_dict(self) -> dict[str, Any]:
        return {"weights": self.weights.tolist(), "intercept": self.intercept, "penalty": self.penalty}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Ridge:
        return cls(np.array(values["weights"]), values["intercept"], values["penalty"])


class RidgeSums:
    """Sums over rows. ``groups`` (F,): columns with the same number share one penalty's weight.

    A column of a group of G columns is scaled to variance 1 / G, so a wide group counts as much as a single column.
    """

    def __init__(self, groups: np.ndarray) -> None:
        self.share = np.bincount(groups)[groups].astype(np.float64)  # (F,) columns in the column's group
        width = len(groups) + 1
        self.rows = 0
        self.sums = np.zeros(width)  # the last column is the target
        self.products = np.zeros((width, width))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """x (N, F), y (N,): all finite."""
        both = np.column_stack([x, y]).astype(np.float64)
        self.rows += len(both)
        self.sums += both.sum(0)
        self.products += both.T @ both

    def solve(self) -> Ridge:
        """Raises ValueError without rows."""
        if not self.rows:
            raise ValueError("a regression needs rows")
        mean = self.sums / self.rows
        covariance = self.products / self.rows - np.outer(mean, mean)
        variance = covariance.diagonal()[:-1]
        scale = np.where(variance > FLAT, 1 / np.sqrt(np.maximum(variance, FLAT) * self.share), 0.0)
        values, basis = np.linalg.eigh(covariance[:-1, :-1] * np.outer(scale, scale))
        values = np.maximum(values, 0.0)
        target = basis.T @ (covariance[:-1, -1] * scale)  # (F,) covariance of each direction with the target
        shrunk = target / (values + PENALTIES[:, None])  # (penalties, F)
        error = covariance[-1, -1] - 2 * shrunk @ target + np.square(shrunk) @ values
        used = 1 + (values / (values + PENALTIES[:, None])).sum(1)  # trace(H), with the intercept
        free = np.maximum(1 - used / self.rows, 1e-3)
        best = int(np.argmin(np.maximum(error, 0) / free**2))
        weights = basis @ shrunk[best] * scale
        return Ridge(weights, float(mean[-1] - mean[:-1] @ weights), float(PENALTIES[best]))


def fit(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Ridge:
    """Ridge regression of y (N,) on x (N, F). Raises ValueError without rows."""
    sums = RidgeSums(np.arange(x.shape[1]) if groups is None else groups)
    sums.add(x, y)
    return sums.solve()
