"""Adds the forecast of satisfaction to fused scores: score = z(retriever) + a * z(LLM) + b * satisfaction.

b is chosen on validation targets (`sealr.satisfaction.ranking`). The placebo judges each candidate by the feelings
about another item and gets its own b. Both frontiers are written for the test targets, where nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences
from sealr.evaluate.statistics import Interval, shown
from sealr.rerank.requests import RerankInput
from sealr.satisfaction.learn import Forecast
from sealr.satisfaction.model import Satisfaction
from sealr.satisfaction.ranking import frontier, frontier_plot, tune

FORECAST, PLACEBO = "feelings about the item", "placebo: about another item"
PLOT = "frontier.png"


@dataclass(frozen=True)
class Lists:
    """Fused lists of some users, rows of ``sequences.users``. split: of their histories."""

    split: str
    rows: Sequence[int]
    requests: Sequence[RerankInput]
    scores: Sequence[np.ndarray]  # (C,) each

    def satisfaction(self, model: Satisfaction, stars: np.ndarray, sequences: Sequences) -> list[np.ndarray]:
        """(C,) standardised satisfaction of each list's candidates. stars: aligned with ``sequences.flat``."""
        found = []
        for row, request in zip(self.rows, self.requests, strict=True):
            history = np.asarray(request.history, dtype=np.int64)
            pool = np.asarray(request.pool, dtype=np.int64)[None]
            found.append(model.standardised([history], [stars[sequences.span(self.split, row)]], pool)[0])
        return found


def choose(
    forecast: Forecast,
    liked: np.ndarray,
    sequences: Sequences,
    valid: Lists,
    valid_rows: Sequence[int],
    test: Lists,
    folder: Path,
) -> dict[str, Any]:
    """The weight b, its placebo's, and the frontiers over b, all for ``fusion.json``; draws the test frontiers.

    liked (interactions,): 1, 0 or NaN. valid: lists that hold their target; the other ``valid_rows`` are misses.
    """
    asked = {row: place for place, row in enumerate(valid.rows)}
    targets = sequences.targets("valid", valid_rows)
    truth, tested = (liked[_target_places(sequences, s, r)] for s, r in (("valid", valid_rows), ("test", test.rows)))
    nothing = np.zeros(0)
    base = [valid.scores[asked[r]] if r in asked else nothing for r in valid_rows]
    pools = [np.asarray(valid.requests[asked[r]].pool) if r in asked else nothing for r in valid_rows]
    values: dict[str, Any] = {}
    frontiers: dict[str, pd.DataFrame] = {}
    models = {FORECAST: forecast.model, PLACEBO: forecast.model.placebo(forecast.model.config.seed)}
    for name, model in models.items():
        felt = valid.satisfaction(model, forecast.stars, sequences)
        spread = [felt[asked[r]] if r in asked else nothing for r in valid_rows]
        choice = tune(base, pools, spread, targets, truth)
        values[name] = {
            "weight": choice.weight,
            "gain": known(choice.gain),
            "rise": known(choice.rise),
            "validation": records(choice.tried),
        }
        frontiers[name] = frontier(
            test.scores,
            [np.asarray(r.pool) for r in test.requests],
            test.satisfaction(model, forecast.stars, sequences),
            sequences.targets("test", test.rows),
            tested,
        )
        values[name]["test"] = records(frontiers[name])
    if all(t["HR@10 liked minus disliked"].notna().all() for t in frontiers.values()):
        chosen = values[FORECAST]["weight"]
        frontier_plot(frontiers, folder / PLOT, f"Test targets; validation chose the weight {chosen:g}")
    weight = values[FORECAST]["weight"]
    return {"satisfaction_weight": weight, "satisfaction": values, "satisfaction_in_words": in_words(values)}


def in_words(values: dict[str, Any]) -> str:
    """One sentence that a person can act on, from the validation targets."""
    own, placebo = values[FORECAST], values[PLACEBO]
    if own["gain"] is None or placebo["gain"] is None:
        return "Satisfaction is off: too few liked or disliked validation targets to choose its weight by."
    rise, control = (f"{100 * v['rise'][0]:.0f} % ({_percent(v['rise'])})" for v in (own, placebo))
    measured = (
        f"liked validation targets rise {rise} further than disliked ones, with feelings about other items {control}; "
        f"HR@10 on liked minus disliked {shown(*own['gain'])}"
    )
    if own["weight"]:
        return f"Feelings of others foretell who will be glad, at weight {own['weight']:g}: {measured}."
    return f"Feelings of others do not clearly foretell who will be glad, so satisfaction is off: {measured}."


def _percent(interval: Sequence[float]) -> str:
    _, low, high = interval
    return f"{100 * low:+.0f} to {100 * high:+.0f}"


def known(interval: Interval) -> Interval | None:
    """None in place of an interval that could not be computed: JSON knows no NaN."""
    return None if np.isnan(interval[0]) else interval


def records(table: pd.DataFrame) -> list[dict[str, float | None]]:
    """Rows for a JSON file, which knows no NaN."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _target_places(sequences: Sequences, split: str, rows: Sequence[int]) -> np.ndarray:
    """(N,) places of the users' targets in ``sequences.flat``."""
    return np.array([sequences.span(split, row).stop for row in rows], dtype=np.int64)
