"""Ridge regression whose penalty is the one with the least generalised cross-validation error.

GCV = RSS / n / (1 - trace(H) / n)^2, where H turns the targets into the fitted values (Golub, Heath and Wahba,
Technometrics 1979). It stands for leave-one-out without fitting n times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

PENALTIES = np.logspace(-5, 2, 36)  # per row, for columns of variance 1
FLAT = 1e-8  # a column with less variance tells nothing and gets weight 0


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


def ridge(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Ridge:
    """Fits y (N,) on x (N, F), all finite. Raises ValueError without rows.

    groups (F,): a column of a group of G columns is scaled to variance 1 / G, so that a wide group counts as much as a
    single column. By default each column is a group.
    """
    if not len(x):
        raise ValueError("a regression needs rows")
    share = np.ones(x.shape[1]) if groups is None else np.bincount(groups)[groups]  # (F,) columns of the group
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    means, mean = x.mean(0), float(y.mean())
    variance = x.var(0)
    scale = np.where(variance > FLAT, 1 / np.sqrt(np.maximum(variance, FLAT) * share), 0.0)
    scaled = (x - means) * scale
    values, basis = np.linalg.eigh(scaled.T @ scaled / len(x))
    values = np.maximum(values, 0.0)
    target = basis.T @ (scaled.T @ (y - mean)) / len(x)  # (F,) covariance of each direction with the target
    shrunk = target / (values + PENALTIES[:, None])  # (penalties, F)
    error = y.var() - 2 * shrunk @ target + np.square(shrunk) @ values
    used = 1 + (values / (values + PENALTIES[:, None])).sum(1)  # trace(H), with the intercept
    free = np.maximum(1 - used / len(x), 1e-3)
    best = int(np.argmin(np.maximum(error, 0) / free**2))
    weights = basis @ shrunk[best] * scale
    return Ridge(weights, mean - float(means @ weights), float(PENALTIES[best]))
