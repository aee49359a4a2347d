"""A request after its items, feelings and filters are looked up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sealr.data.tables import EMOTIONS
from sealr.satisfaction.calibration import Calibration
from sealr.serving.filters import Rule
from sealr.serving.request import Event

Stored = tuple[list[int], np.ndarray, np.ndarray]  # items (H,), feelings (H, 2) and stars (H,) of a known user


@dataclass
class ResolvedRequest:
    """A request with its items looked up, and feelings as `sealr.emotion.feelings` gives them."""

    user: str | None
    history: list[int] = field(default_factory=list)  # item indices, oldest first
    feelings: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.float32))  # (H, 2)
    stars: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))  # (H,) NaN if unknown
    warnings: list[str] = field(default_factory=list)
    rule: Rule = Rule()

    def without(self, place: int) -> ResolvedRequest:
        """The same request with one item left out of the history."""
        kept = self.history[:place] + self.history[place + 1 :]
        return ResolvedRequest(self.user, kept, np.delete(self.feelings, place, axis=0), np.delete(self.stars, place))

    def after(self, stored: Stored) -> ResolvedRequest:
        """The same request with a stored history before its own."""
        items, feelings, stars = stored
        self.history = [*items, *self.history]
        self.feelings = np.concatenate([feelings, self.feelings])
        self.stars = np.concatenate([stars, self.stars])
        return self


def label(event: Event, labels: Iterator[dict[str, Any]]) -> tuple[float | None, float | None, np.ndarray]:
    """Class, expected sentiment and 28 probabilities. A given sentiment stands for both; else the text's label does."""
    if event.sentiment is not None or not event.text:
        return event.sentiment, event.sentiment, np.full(len(EMOTIONS), np.nan)
    found = next(labels)
    return found["sentiment"], found["expected"], found["probabilities"]  # None becomes NaN


def stars(
    events: list[Event], expected: np.ndarray, probabilities: list[np.ndarray], calibration: Calibration | None
) -> np.ndarray:
    """(H,) stars that the events stand for, calibrated as in training, but without vectors of texts."""
    rating = np.array([np.nan if e.rating is None else e.rating for e in events], np.float32)
    if calibration is None or not events:
        return rating
    return calibration.stars(rating, expected, np.stack(probabilities))
