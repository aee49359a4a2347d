"""Fits the forecast of satisfaction on the reviews of the training split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sealr.data.sequences import Sequences
from sealr.satisfaction.calibration import Calibration
from sealr.satisfaction.content import BLOCK, Texts
from sealr.satisfaction.effects import Effects, Reviews, fit_effects, training_reviews, without
from sealr.satisfaction.linear import Ridge, ridge
from sealr.satisfaction.model import Satisfaction, Sums, Users
from sealr.settings import SatisfactionConfig


def fit(
    config: SatisfactionConfig,
    sequences: Sequences,
    stars: np.ndarray,
    vectors: np.ndarray | None = None,
    calibration: Calibration | None = None,
) -> Satisfaction:
    """A forecast from training reviews; arrays are aligned with ``sequences.flat``, and held-out rows are not read.

    stars (interactions,): of `calibration.review_stars`, NaN where unknown. vectors (interactions, C): of the reviews'
    texts, zeros where there is none, for model "ridge"; may be a memory map. calibration: is kept for serving. Raises
    ValueError when ``config.model`` is none, and when no training review has stars.
    """
    if config.model == "none":
        raise ValueError("satisfaction.model is none: there is nothing to fit")
    reviews = training_reviews(sequences, stars)
    effects = fit_effects(reviews)
    texts = Texts.of(reviews, vectors) if vectors is not None and config.model == "ridge" else None
    counts = np.bincount(reviews.items, minlength=reviews.n_items + 1)
    sums = texts.sums(reviews) if texts else np.zeros((len(counts), 0), np.float32)
    table = np.column_stack([effects.items, sums / (counts + effects.item_pull)[:, None]]).astype(np.float32)
    table[counts == 0] = table[counts > 0].mean(0)
    table[0] = 0
    real = replace(config, shuffled=False)
    made = Satisfaction(real, effects.mean, effects.user_pull, table, calibration=calibration)
    if config.model == "ridge":
        made = replace(made, ridge=_ridge(made, reviews, effects, counts, sums, texts))
    return made.placebo(config.seed) if config.shuffled else made


def _ridge(
    plain: Satisfaction, reviews: Reviews, effects: Effects, counts: np.ndarray, sums: np.ndarray, texts: Texts | None
) -> Ridge:
    """Weights of the three features of `Satisfaction`. No feature of a review comes from this review.

    The features are single numbers on purpose. A row of leave-one-out text columns tells which text was left out, and a
    regression learns to read the text's stars from it, which helps on training reviews only.
    """
    above = reviews.stars - effects.mean - effects.users[reviews.users]
    items = without(reviews.items, above, effects.item_pull)
    users, fits = np.zeros((2, len(items)))
    for part in _blocks(reviews):
        people, content = _others(plain, reviews, part), sums[reviews.items[part]]
        if texts:
            content = content - texts.read(reviews.index[part])
        content = content / (counts[reviews.items[part]] - 1 + effects.item_pull)[:, None]
        users[part], fits[part] = people.effects, np.einsum("nd,nd->n", people.interests, content)
    return ridge(np.column_stack([items, users, fits]), reviews.stars)


def _blocks(reviews: Reviews) -> Iterator[slice]:
    """About BLOCK reviews at a time, and whole users."""
    starts = np.flatnonzero(np.diff(reviews.users, prepend=-1))  # first review of each user
    first = starts[np.flatnonzero(np.diff(starts // BLOCK, prepend=-1))]
    return map(slice, first, [*first[1:], len(reviews.users)])


def _others(plain: Satisfaction, reviews: Reviews, part: slice) -> Users:
    """(N,) for each review of a block what its user's other reviews say."""
    items, stars = reviews.items[part], reviews.stars[part]
    _, first, user = np.unique(reviews.users[part], return_index=True, return_inverse=True)
    total = plain.sums(np.split(items, first[1:]), np.split(stars, first[1:]))
    left, content = stars - plain.mean - plain.table[items, 0], plain.table[items, 1:]
    mine = Sums(np.ones(len(items)), left, content, left[:, None] * content)
    return Sums(*(both[user] - own for both, own in zip(total, mine, strict=True))).users(plain.pull)
