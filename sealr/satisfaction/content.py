"""Items' content for satisfaction: the mean vector of their training reviews, in WIDTH dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sealr.satisfaction.effects import Reviews

WIDTH = 64  # most dimensions kept: as good as all 384 (docs/satisfaction.md)
SAMPLE = 50_000  # reviews whose vectors find the dimensions
BLOCK = 2**15  # reviews read at a time


@dataclass(frozen=True)
class Texts:
    """The vectors of training reviews, centred, in the dimensions in which they differ most."""

    vectors: np.ndarray  # (interactions, C), which may be a memory map
    centre: np.ndarray  # (C,) float32
    projection: np.ndarray  # (C, D) float32

    @classmethod
    def of(cls, reviews: Reviews, vectors: np.ndarray) -> Texts:
        index = reviews.index[:: max(1, -(-len(reviews.index) // SAMPLE))]
        sample = np.nan_to_num(np.asarray(vectors[index], np.float32))
        sample = sample[np.any(sample, axis=1)]
        centre = sample.mean(0) if len(sample) else np.zeros(vectors.shape[1], np.float32)
        _, basis = np.linalg.eigh((sample - centre).T @ (sample - centre))  # ascending
        return cls(vectors, centre, np.ascontiguousarray(basis[:, ::-1][:, :WIDTH]))

    def read(self, index: np.ndarray) -> np.ndarray:
        """(N,) places in ``sequences.flat`` -> (N, D) float32, zeros where a review has no text."""
        values = np.nan_to_num(np.asarray(self.vectors[index], np.float32))
        return np.where(np.any(values, axis=1)[:, None], (values - self.centre) @ self.projection, 0)

    def sums(self, reviews: Reviews) -> np.ndarray:
        """(V + 1, D) float32: the sum over each item's training reviews."""
        found = np.zeros((reviews.n_items + 1, self.projection.shape[1]), np.float32)
        for start in range(0, len(reviews.items), BLOCK):
            part = slice(start, start + BLOCK)
            np.add.at(found, reviews.items[part], self.read(reviews.index[part]))
        return found
