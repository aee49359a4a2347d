"""Why an item is recommended, in words. A reason names only what moved the score of this model.

The feelings of the user are named where the retriever or the LLM reads them, and what others felt about an item where
satisfaction has a weight. Texts of reviews and ids of users never appear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sealr.emotion.sentiment import CLASS_NAMES
from sealr.rerank.rankers import order

MENTIONED = 0.1  # least share of an emotion that a reason names as the other side


@dataclass(frozen=True)
class Places:
    """Ranks of one candidate among the candidates, from 1; None where that voice had no weight."""

    retriever: int
    llm: int | None = None
    satisfaction: int | None = None

    def __str__(self) -> str:
        named = {"retriever": self.retriever, "LLM": self.llm, "satisfaction": self.satisfaction}
        return ", ".join(f"{name} #{place}" for name, place in named.items() if place)


@dataclass(frozen=True)
class Head:
    """The candidates that all voices score, (C,) each; None for a voice without weight."""

    scores: np.ndarray  # the final ones
    llm: np.ndarray | None
    satisfaction: np.ndarray | None

    def places(self) -> dict[int, Places]:
        """Position among the candidates -> ranks."""
        ranks = [
            {} if v is None else {int(p): place for place, p in enumerate(order(v), start=1)}
            for v in (self.llm, self.satisfaction)
        ]
        return {p: Places(p + 1, *(rank.get(p) for rank in ranks)) for p in range(len(self.scores))}


@dataclass(frozen=True)
class Words:
    """What reasons are made of. titles: by item index. felt: item index -> a sentence of `others_felt`."""

    titles: list[str]
    felt: dict[int, str]
    reads_feelings: bool  # whether retriever or LLM read the user's feelings

    def history_item(self, item: int, sentiment: float) -> str:
        """An item of the history. sentiment: class of the user's review, NaN if unknown."""
        title = repr(self.titles[item])
        return f"{title} (felt {CLASS_NAMES[int(sentiment)].lower()})" if self._named(sentiment) else title

    def _named(self, sentiment: float) -> bool:
        return self.reads_feelings and not np.isnan(sentiment)

    def reason(self, why: str, item: int, places: Places) -> str:
        """why: what of the history speaks for the item."""
        others = self.felt.get(item, "") if places.satisfaction else ""
        return "; ".join(part for part in (why, others, str(places)) if part)


def others_felt(frame: pd.DataFrame, item_ids: dict[str, int]) -> dict[int, str]:
    """Item index -> what its training reviews felt, such as "others in 38 reviews (4.2 stars): 71% joy".

    frame: of `item_feelings`.
    """
    return {item_ids[row["item"]]: _felt(row) for row in frame.to_dict("records") if row["item"] in item_ids}


def _felt(row: dict[str, Any]) -> str:
    reviews = f"{row['reviews']} review{'s' if row['reviews'] > 1 else ''}"
    reviews += f" ({row['mean_stars']:.1f} stars)" if np.isfinite(row["mean_stars"]) else ""
    sides = [(row["share"], row["emotion"]), (row["but_share"], row["but_emotion"])]
    found = [(share, emotion) for share, emotion in sides if isinstance(emotion, str) and share >= MENTIONED]
    if not found:
        return f"others in {reviews}: no strong feelings"
    first, *rest = [f"{share:.0%} {emotion}" for share, emotion in sorted(found, reverse=True)]
    return f"others in {reviews}: {first}" + "".join(f", {other}" for other in rest)
