"""What the training reviews of an item say: effect, count, spread, mean emotions and mean content.

The same sums give an item's statistics, and the statistics without one review: a training row must not see itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sealr.satisfaction.effects import Effects, Reviews

BLOCK = 2**15  # reviews whose features are in memory at a time
WIDTH = 64  # most dimensions of content
SAMPLE = 50_000  # reviews whose vectors find the projection
PLAIN = 3  # columns before the emotions: effect, count and spread


@dataclass(frozen=True)
class Source:
    """A review's numbers, read in blocks. vectors may be a memory map."""

    probabilities: np.ndarray | None  # (interactions, 28)
    vectors: np.ndarray | None  # (interactions, C)
    projection: np.ndarray  # (C, D)
    centre: np.ndarray  # (28 + D,) the mean over training reviews

    def read(self, index: np.ndarray) -> np.ndarray:
        """(N,) places in sequences.flat -> (N, 28 + D) float32, centred; 0 where a review has no label or text."""
        parts = []
        if self.probabilities is not None:
            parts.append(self.probabilities[index])
        if self.vectors is not None:
            parts.append(np.asarray(self.vectors[index], np.float32) @ self.projection)
        if not parts:
            return np.zeros((len(index), 0), np.float32)
        values = np.hstack(parts) - self.centre
        if self.vectors is not None:
            values[~np.any(self.vectors[index], axis=1), values.shape[1] - self.projection.shape[1] :] = 0
        return np.nan_to_num(values.astype(np.float32))


def make_source(reviews: Reviews, probabilities: np.ndarray | None, vectors: np.ndarray | None) -> Source:
    index = reviews.index[:: max(1, -(-len(reviews.index) // SAMPLE))]
    centre, projection = [], np.zeros((0, 0), np.float32)
    if probabilities is not None:
        centre.append(np.nan_to_num(np.nanmean(probabilities[index], axis=0)))
    if vectors is not None:
        sample = np.nan_to_num(np.asarray(vectors[index], np.float32))
        sample = sample[np.any(sample, axis=1)]
        mean = sample.mean(0) if len(sample) else np.zeros(vectors.shape[1], np.float32)
        values, basis = np.linalg.eigh(np.cov(sample, rowvar=False)) if len(sample) > 1 else (None, np.eye(len(mean)))
        projection = np.ascontiguousarray(basis[:, ::-1][:, :WIDTH], np.float32)
        centre.append(mean @ projection)
    return Source(probabilities, vectors, projection, np.concatenate(centre) if centre else np.zeros(0))


@dataclass(frozen=True)
class ItemSums:
    counts: np.ndarray  # (V + 1,)
    left: np.ndarray  # (V + 1,) sum of stars - mu - effect of the user
    squares: np.ndarray  # (V + 1,) sum of their squares
    values: np.ndarray  # (V + 1, 28 + D) float32 sums of the reviews' numbers
    users: np.ndarray  # (U,) effects of the users, which are taken off the stars
    pull: float
    variance: float  # of what is left, over all reviews

    def rows(
        self, items: np.ndarray, left: np.ndarray | float = 0.0, values: np.ndarray | float = 0.0, own: int = 0
    ) -> np.ndarray:
        """(N,) items -> (N, 3 + 28 + D) float32 statistics; without one review each, given its numbers and own=1."""
        counts = self.counts[items] - own
        sums, squares = self.left[items] - left, self.squares[items] - np.square(left)
        mean = sums / np.maximum(counts, 1)
        spread = (np.maximum(squares - counts * mean**2, 0) + self.pull * self.variance) / (counts + self.pull)
        plain = [sums / (counts + self.pull), np.log1p(counts), np.sqrt(spread)]
        means = (self.values[items] - values) / (counts + self.pull)[:, None]
        return np.column_stack([*plain, means]).astype(np.float32)


def item_sums(reviews: Reviews, effects: Effects, source: Source) -> ItemSums:
    size = reviews.n_items + 1
    left = reviews.stars - effects.mean - effects.users[reviews.users]
    values = np.zeros((size, len(source.centre)), np.float32)
    for start in range(0, len(left), BLOCK):
        part = slice(start, start + BLOCK)
        np.add.at(values, reviews.items[part], source.read(reviews.index[part]))
    return ItemSums(
        np.bincount(reviews.items, minlength=size),
        np.bincount(reviews.items, left, size),
        np.bincount(reviews.items, left**2, size),
        values,
        effects.users,
        effects.item_pull,
        float(left.var()),
    )
