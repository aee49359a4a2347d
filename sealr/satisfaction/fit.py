"""Fits the forecast of satisfaction on the reviews of the training split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sealr.data.sequences import Sequences
from sealr.satisfaction.calibration import Calibration
from sealr.satisfaction.effects import Reviews, fit_effects, training_reviews
from sealr.satisfaction.linear import Ridge, RidgeSums
from sealr.satisfaction.model import Satisfaction, Sums
from sealr.satisfaction.statistics import BLOCK, PLAIN, ItemSums, Source, item_sums, make_source
from sealr.settings import SatisfactionConfig


def fit(
    config: SatisfactionConfig,
    sequences: Sequences,
    stars: np.ndarray,
    probabilities: np.ndarray | None = None,
    vectors: np.ndarray | None = None,
    calibration: Calibration | None = None,
) -> Satisfaction:
    """A forecast from training reviews; arrays are aligned with ``sequences.flat``, and held-out rows are not read.

    stars (interactions,): of `calibration.review_stars`, NaN where unknown. probabilities (interactions, 28) and
    vectors (interactions, C): of the reviews' texts, NaN or zeros where there is none; a ridge reads them. vectors may
    be a memory map. calibration: is kept with the model for serving. Raises ValueError when ``config.model`` is none,
    and when no training review has stars.
    """
    if config.model == "none":
        raise ValueError("satisfaction.model is none: there is nothing to fit")
    reviews = training_reviews(sequences, stars)
    effects = fit_effects(reviews)
    if config.model == "effects":
        probabilities = vectors = None
    source = make_source(reviews, probabilities, vectors)
    sums = item_sums(reviews, effects, source)
    table = sums.rows(np.arange(reviews.n_items + 1))
    table[sums.counts == 0] = table[sums.counts > 0].mean(0)
    table[0] = 0
    emotions = 0 if probabilities is None else probabilities.shape[1]
    made = Satisfaction(
        replace(config, shuffled=False), effects.mean, effects.user_pull, table, emotions, calibration=calibration
    )
    if config.model == "ridge":
        made = replace(made, ridge=_ridge(made, reviews, sums, source))
    return made.placebo(config.seed) if config.shuffled else made


def _ridge(plain: Satisfaction, reviews: Reviews, sums: ItemSums, source: Source) -> Ridge:
    """Weights of the items' columns, of a user's effect and count, and of `Satisfaction.products`."""
    width = plain.table.shape[1]
    content = width - PLAIN - plain.emotions
    groups = np.r_[np.arange(PLAIN), np.full(plain.emotions, PLAIN), np.full(content, PLAIN + 1)]
    regression = RidgeSums(np.r_[groups, PLAIN + 2 + np.arange(5)])
    starts = np.flatnonzero(np.diff(reviews.users, prepend=-1))  # first review of each user
    blocks = starts[np.flatnonzero(np.diff(starts // BLOCK, prepend=-1))]  # first review of each block of whole users
    for start, end in zip(blocks, np.r_[blocks[1:], len(reviews.users)], strict=True):
        part = slice(start, end)
        regression.add(_features(plain, reviews, part, sums, source), reviews.stars[part])
    return regression.solve()


def _features(plain: Satisfaction, reviews: Reviews, part: slice, sums: ItemSums, source: Source) -> np.ndarray:
    """(N, F + 5) features of a block of whole users; nothing in a row comes from the row's own review."""
    items, stars = reviews.items[part], reviews.stars[part]
    _, first, user = np.unique(reviews.users[part], return_index=True, return_inverse=True)
    total = plain.sums(np.split(items, first[1:]), np.split(stars, first[1:]))
    left = stars - plain.mean - plain.table[items, 0]
    profiles = plain.table[items, PLAIN:]
    mine = Sums(np.ones(len(items)), left, profiles, left[:, None] * profiles)
    users = Sums(*(all_of[user] - own for all_of, own in zip(total, mine, strict=True))).users(plain.pull)
    above = stars - plain.mean - sums.users[reviews.users[part]]
    rows = sums.rows(items, above, source.read(reviews.index[part]), own=1)
    pairs = [np.einsum("nf,nf->n", weights, rows) for weights in plain.products(users)]
    return np.column_stack([rows, users.effects, np.log1p(users.counts), *pairs])
