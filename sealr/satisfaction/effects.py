"""Effects of items and users on stars: the reviews to learn from, and shrunken means found together.

star = mu + effect of the item + effect of the user. Each effect is the mean of what the other one leaves, as if
``pull`` more reviews had said 0 (Koren, KDD 2008, baseline estimates).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sealr.data.sequences import Sequences

PASSES = 5  # over both effects
PULLS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # tried by leave-one-out error


@dataclass(frozen=True)
class Reviews:
    """Training reviews with known stars, in the order of the sequences. All arrays are (R,)."""

    users: np.ndarray  # int64 rows of sequences.users
    items: np.ndarray  # int64 item ids
    stars: np.ndarray  # float64
    index: np.ndarray  # int64 places in sequences.flat
    n_items: int
    n_users: int


def training_mask(sequences: Sequences) -> np.ndarray:
    """(interactions,) bool: whether an interaction belongs to the training split."""
    train = sequences.split("train")
    place = np.arange(len(sequences.flat))
    lengths = sequences.lengths
    return place < np.repeat(train.ends, lengths)


def training_reviews(sequences: Sequences, stars: np.ndarray) -> Reviews:
    """stars (interactions,), NaN where unknown. Raises ValueError when no training review has stars."""
    index = np.flatnonzero(training_mask(sequences) & np.isfinite(stars))
    if not len(index):
        raise ValueError("no review of the training split has stars or a label: set satisfaction.model=none")
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)[index]
    return Reviews(
        users, sequences.flat[index], stars[index].astype(np.float64), index, sequences.n_items, len(sequences)
    )


@dataclass(frozen=True)
class Effects:
    mean: float  # mu
    items: np.ndarray  # (V + 1,) float64, 0 for padding and for an item without reviews
    users: np.ndarray  # (U,) float64
    item_pull: float
    user_pull: float


def fit_effects(reviews: Reviews) -> Effects:
    """Effects with the pulls that have the least leave-one-out error: the users' given 5, then the items'."""
    best: Effects | None = None
    pulls = {"item_pull": 5.0, "user_pull": 5.0}
    for name in ("item_pull", "user_pull", "item_pull"):
        errors = {}
        for pull in PULLS:
            effects = _effects(reviews, **(pulls | {name: pull}))
            errors[pull] = _error(reviews, effects)
        pulls[name] = min(PULLS, key=errors.__getitem__)
    best = _effects(reviews, **pulls)
    return best


def _effects(reviews: Reviews, item_pull: float, user_pull: float) -> Effects:
    mean = float(reviews.stars.mean())
    items, users = np.zeros(reviews.n_items + 1), np.zeros(reviews.n_users)
    for _ in range(PASSES):
        items = _means(reviews.items, reviews.stars - mean - users[reviews.users], len(items), item_pull)
        users = _means(reviews.users, reviews.stars - mean - items[reviews.items], len(users), user_pull)
    return Effects(mean, items, users, item_pull, user_pull)


def _means(codes: np.ndarray, values: np.ndarray, size: int, pull: float) -> np.ndarray:
    return np.bincount(codes, values, size) / (np.bincount(codes, minlength=size) + pull)


def _error(reviews: Reviews, effects: Effects) -> float:
    """Mean squared error of a review's stars by effects without this review."""
    left = reviews.stars - effects.mean
    item = without(reviews.items, left - effects.users[reviews.users], effects.item_pull)
    user = without(reviews.users, left - effects.items[reviews.items], effects.user_pull)
    return float(np.square(left - item - user).mean())


def without(codes: np.ndarray, values: np.ndarray, pull: float) -> np.ndarray:
    """(R,) shrunken mean of the values with the same code, without the row's own value."""
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    return (sums[codes] - values) / (counts[codes] - 1 + pull)
