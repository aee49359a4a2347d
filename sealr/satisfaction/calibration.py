"""What a past review says about its writer's gladness, in stars.

The text suggests a star: a ridge regression from the 28 probabilities, and from the text's vector where there is one,
to the stars of training reviews that have both. Without enough such reviews the suggestion is 3 + expected sentiment.

A given star counts most, and the suggestion TEXT_SHARE of the whole: stars are coarse, and words tell a glad five from
a polite one. A review without a given star gets the suggestion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sealr.data.tables import EMOTIONS
from sealr.satisfaction.linear import Ridge, ridge

LEARN_FROM = ("auto", "stars", "labels")
INPUTS = ("texts", "emotions", "sentiment")  # of the regressions, most telling first
MIN_REVIEWS = 50  # with stars and labels, for a calibration
MAX_REVIEWS = 50_000  # evenly drawn from the table; more teach nothing new and need memory
NEUTRAL = 3.0
TEXT_SHARE = 0.3  # of the text's suggestion beside a given star; chosen on validation (docs/satisfaction.md)


@dataclass(frozen=True)
class Calibration:
    """From a review's labels to stars: the first regression whose inputs are known, else 3 + expected sentiment."""

    learn_from: str
    texts: Ridge | None = None  # from 28 probabilities and a vector
    emotions: Ridge | None = None  # from 28 probabilities
    sentiment: Ridge | None = None  # from the expected sentiment, for a request that gives no text

    def stars(
        self,
        rating: np.ndarray,
        expected: np.ndarray,
        probabilities: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
    ) -> np.ndarray:
        """(N,) float32 stars from 1 to 5, NaN where nothing is known.

        rating (N,): given stars or NaN. expected (N,): expected sentiment -2..2 or NaN. probabilities (N, 28): NaN
        where unknown. vectors (N, C): of the review's text, zeros or NaN where there is none.
        """
        rating, expected = np.asarray(rating, np.float32), np.asarray(expected, np.float32)
        if self.learn_from == "stars":
            return rating.copy()
        found = NEUTRAL + expected.astype(np.float64)
        known = np.isfinite(expected)
        if self.sentiment is not None:
            found[known] = self.sentiment(expected[known, None])
        if probabilities is not None and self.emotions is not None:
            known &= np.isfinite(probabilities).all(1)
            found[known] = self.emotions(probabilities[known])
            if vectors is not None and self.texts is not None:
                known &= _real(vectors)
                found[known] = self.texts(np.hstack([probabilities[known], vectors[known]]))
        found = np.clip(found, 1, 5).astype(np.float32)
        if self.learn_from == "labels":
            return found
        share = np.float32(TEXT_SHARE if self.emotions is not None else 0)  # an uncalibrated suggestion has no say
        both = np.where(np.isfinite(found), (1 - share) * rating + share * found, rating)
        return np.where(np.isfinite(rating), both, found)

    def to_dict(self) -> dict[str, Any]:
        ridges = {name: getattr(self, name) for name in INPUTS}
        return {"learn_from": self.learn_from} | {name: r and r.to_dict() for name, r in ridges.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibration:
        return cls(values["learn_from"], *(r and Ridge.from_dict(r) for r in (values[name] for name in INPUTS)))


def calibrate(
    rating: np.ndarray,
    expected: np.ndarray,
    probabilities: np.ndarray,
    vectors: np.ndarray | None,
    train_mask: np.ndarray,
    learn_from: str = "auto",
) -> Calibration:
    """Fits on training reviews that have a star and a label; arrays as in `Calibration.stars`.

    learn_from: "auto" takes given stars and what texts suggest, calibrated to them. "stars" takes given stars only;
    other reviews say nothing. "labels" asks the labeller alone: it ignores stars and fits nothing, so it shows what
    labels are worth.
    Raises ValueError on another value, and when "stars" finds no training review with a star.
    """
    if learn_from not in LEARN_FROM:
        raise ValueError(f"satisfaction.learn_from {learn_from!r} is not one of {', '.join(LEARN_FROM)}")
    rated = train_mask & np.isfinite(rating)
    if learn_from == "stars" and not rated.any():
        raise ValueError("satisfaction.learn_from=stars, but no training review has a rating: set it to auto or labels")
    if learn_from != "auto":
        return Calibration(learn_from)
    both = np.flatnonzero(rated & np.isfinite(probabilities).all(1) & np.isfinite(expected))
    both = both[:: max(1, -(-len(both) // MAX_REVIEWS))]
    if len(both) < MIN_REVIEWS:
        return Calibration(learn_from)
    stars = rating[both].astype(np.float64)
    texts = None
    if vectors is not None and (real := both[_real(vectors[both])]).size >= MIN_REVIEWS:
        groups = np.r_[np.arange(len(EMOTIONS)), np.full(vectors.shape[1], len(EMOTIONS))]
        texts = ridge(np.hstack([probabilities[real], vectors[real]]), rating[real], groups)
    return Calibration(learn_from, texts, ridge(probabilities[both], stars), ridge(expected[both, None], stars))


def review_stars(
    reviews_rating: np.ndarray,
    probabilities: np.ndarray,
    expected: np.ndarray,
    vectors: np.ndarray | None,
    train_mask: np.ndarray,
    learn_from: str = "auto",
) -> np.ndarray:
    """(interactions,) float32 stars of all reviews: `calibrate`, then `Calibration.stars`."""
    calibration = calibrate(reviews_rating, expected, probabilities, vectors, train_mask, learn_from)
    return calibration.stars(reviews_rating, expected, probabilities, vectors)


def _real(vectors: np.ndarray) -> np.ndarray:
    """(N, C) -> (N,): whether a row is the vector of a text."""
    return np.asarray(np.isfinite(vectors).all(1) & np.any(vectors, axis=1))
