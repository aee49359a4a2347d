"""From 28 emotions to the paper's five sentiment classes (Section 2.1, Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sealr.data.tables import EMOTIONS

CLASS_NAMES: dict[int, str] = {-2: "Strong Negative", -1: "Negative", 0: "Neutral", 1: "Positive", 2: "Strong Positive"}

# The map of the paper's authors, from their public code (github.com/namejun12000/SentimentLLM). The paper counts "12
# positive, 15 negative, one neutral" and shows some examples. In this map `realization` and `surprise` are neutral: 13
# positive, 12 negative, 3 neutral. Change it with label.sentiment_map.
SENTIMENT_MAP: dict[str, int] = {
    "admiration": 2, "approval": 2, "joy": 2, "love": 2, "pride": 2, "relief": 2, "gratitude": 2,
    "curiosity": 1, "excitement": 1, "desire": 1, "amusement": 1, "caring": 1, "optimism": 1,
    "neutral": 0, "realization": 0, "surprise": 0,
    "confusion": -1, "disappointment": -1, "embarrassment": -1,
    "grief": -2, "anger": -2, "annoyance": -2, "disapproval": -2, "fear": -2, "nervousness": -2, "remorse": -2,
    "sadness": -2, "disgust": -2,
}  # fmt: skip


class SentimentMapError(ValueError):
    """An override names an unknown emotion or a class outside -2..2."""


def sentiment_classes(overrides: Mapping[str, int] | None = None) -> np.ndarray:
    """(28,) int8: the class of each emotion, in the order of EMOTIONS. Raises SentimentMapError."""
    merged = dict(SENTIMENT_MAP)
    for emotion, value in (overrides or {}).items():
        if emotion not in merged:
            raise SentimentMapError(f"sentiment_map: {emotion!r} is not one of the 28 emotions: {', '.join(EMOTIONS)}")
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value not in CLASS_NAMES:
            raise SentimentMapError(f"sentiment_map: {emotion} must be a whole number from -2 to 2, got {value!r}")
        merged[emotion] = int(value)
    return np.array([merged[e] for e in EMOTIONS], np.int8)


def to_sentiment(probabilities: np.ndarray, classes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(N, 28) probabilities -> ((N,) int8 class of the argmax emotion, (N,) float32 expected class).

    As in the paper, the most probable of the 28 emotions decides the class, however often it is `neutral`. The
    expected class is the mean class, weighted by the probabilities divided by their sum; they are multi-label and need
    not sum to 1. Rows of NaN, for texts without label, get class 0 and expected NaN.
    """
    classes = sentiment_classes() if classes is None else np.asarray(classes)
    p = np.asarray(probabilities, np.float64)
    known = ~np.asarray(np.isnan(p).any(axis=1))
    top = np.where(known[:, None], p, 0.0).argmax(axis=1)
    argmax = np.where(known, classes[top], 0).astype(np.int8)
    total = np.where(known, p.sum(axis=1), np.nan)
    expected = (p @ classes.astype(np.float64)) / np.maximum(total, 1e-12)
    return argmax, expected.astype(np.float32)
