"""How glad users were of the items they took: by their stars where there are any, else by the labels of their reviews.

Stars are the user's own verdict. Labels come from the model whose output is also an input of the rankers, so figures by
labels are weaker evidence; ``source`` says which of the two a figure rests on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences
from sealr.emotion.feelings import feelings

STARS, LABELS = "stars", "labels"
LIKED, DISLIKED = 4.0, 3.0  # at least so many stars; at most so many


@dataclass(frozen=True)
class Gladness:
    """One value per interaction, aligned with ``Sequences.flat`` or with what ``take`` selected from it."""

    stars: np.ndarray  # float32, 1 to 5; NaN where unknown, and everywhere under source "labels"
    liked: np.ndarray  # float32, 1 liked, 0 disliked; NaN where neither is known
    source: str  # "stars" or "labels"

    def take(self, positions: np.ndarray) -> Gladness:
        """The values at these positions, such as those of a split's targets, ``split.ends``."""
        return Gladness(self.stars[positions], self.liked[positions], self.source)


def gladness(reviews: pd.DataFrame, labels: pd.DataFrame | None, sequences: Sequences) -> Gladness | None:
    """What users thought of every item they took; None where the reviews have neither stars nor labels.

    reviews, labels: tables keyed by (user, position). If any review has stars, only stars count: 4 and 5 are liked, 1
    to 3 disliked. Otherwise a positive class is liked, a negative one disliked, and the neutral class is neither.
    Raises SequenceError if a table lacks rows of these sequences.
    """
    stars = sequences.values(reviews, "rating").astype(np.float32)
    if not np.isnan(stars).all():
        liked = _sides(stars >= LIKED, stars <= DISLIKED)
        return Gladness(stars, liked, STARS)
    if labels is None:
        return None
    classes = feelings(labels, sequences)[:, 0]
    if np.isnan(classes).all():
        return None
    return Gladness(stars, _sides(classes > 0, classes < 0), LABELS)


def _sides(liked: np.ndarray, disliked: np.ndarray) -> np.ndarray:
    return np.select([liked, disliked], [1.0, 0.0], np.nan).astype(np.float32)
