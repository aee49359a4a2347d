"""Learns the forecast from the tables of a job, judges it on held-out targets, and writes its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sealr.data.manifest import StageResult
from sealr.data.sequences import Sequences, build
from sealr.data.tables import EMOTIONS, atomic_path
from sealr.evaluate.gladness import Gladness, gladness
from sealr.evaluate.report import markdown_table
from sealr.satisfaction.calibration import calibrate
from sealr.satisfaction.effects import training_mask
from sealr.satisfaction.evaluate import calibration_plot, calibration_table, forecasts, judged
from sealr.satisfaction.fit import fit
from sealr.satisfaction.model import Satisfaction
from sealr.satisfaction.reasons import item_feelings
from sealr.settings import SatisfactionConfig

STARS, REASONS, REPORT, PLOT = "stars.npy", "item_feelings.parquet", "satisfaction.md", "calibration.png"


@dataclass(frozen=True)
class Forecast:
    """A fitted forecast, and the stars of past reviews that it reads of a user."""

    model: Satisfaction
    stars: np.ndarray  # (interactions,) float32, aligned with ``Sequences.flat``; NaN where nothing is known

    @classmethod
    def load(cls, folder: Path) -> Forecast:
        return cls(Satisfaction.load(folder), np.load(folder / STARS, allow_pickle=False))


def learn(
    reviews: pd.DataFrame,
    labels: pd.DataFrame,
    config: SatisfactionConfig,
    vectors: np.ndarray | None,
    folder: Path,
    gate_share: float = 0.0,
) -> StageResult:
    """Writes the forecast, the stars of all reviews, what each item's reviews felt, and a report.

    vectors (interactions, C): of the reviews' texts, aligned with the sequences, or None. Without stars and labels, or
    with ``config.model`` none, there is nothing to learn: the count of reviews is 0 and no file is written.
    gate_share: of the users, whose validation targets the report leaves out.
    """
    sequences = build(reviews).with_gate(gate_share)
    mask, glad = training_mask(sequences), gladness(reviews, labels, sequences)
    if config.model == "none" or glad is None:
        return StageResult({"reviews": 0})
    rating, expected = (sequences.values(*c).astype(np.float32) for c in ((reviews, "rating"), (labels, "expected")))
    named = [sequences.values(labels, f"p_{emotion}") for emotion in EMOTIONS]
    probabilities = np.stack(named, axis=1).astype(np.float32)  # (interactions, 28)
    calibration = calibrate(rating, expected, probabilities, vectors, mask, config.learn_from)
    stars = calibration.stars(rating, expected, probabilities, vectors)
    known = int(np.isfinite(stars[mask]).sum())
    if not known:
        return StageResult({"reviews": 0})
    model = fit(config, sequences, stars, vectors, calibration)
    model.save(folder)
    np.save(folder / STARS, stars)
    item_feelings(labels, sequences, stars).to_parquet(folder / REASONS, index=False)
    return StageResult({"reviews": known}, _judge(Forecast(model, stars), sequences, glad, config.seed, known, folder))


def _judge(
    forecast: Forecast, sequences: Sequences, glad: Gladness, seed: int, known: int, folder: Path
) -> dict[str, float]:
    """Writes the report with a table per split, and the calibration plot of the test targets; returns the AUCs."""
    parts = [f"Learned from {known:,} training reviews. Liked and disliked targets are told by {glad.source}."]
    metrics = {}
    for split in ("valid", "test"):
        foretold = forecasts(forecast.model, sequences, split, forecast.stars, seed)
        truth = glad.take(sequences.split(split).ends)
        found = judged(foretold, truth.liked, truth.stars)
        if found is None:
            parts.append(f"{split}: too few liked or disliked targets to judge the forecast.")
            continue
        parts.append(f"## {split}\n\n{markdown_table(found)}".rstrip())
        for name, area in zip(found["forecast"], found["AUC"], strict=True):
            metrics[f"{split}_auc.{name.replace(' + ', '_')}"] = float(area)
        if split == "test" and np.isfinite(truth.stars).any():
            best = [name for name in foretold if name != "placebo"][-1]
            table = calibration_table(foretold[best].to_numpy(), truth.stars)
            calibration_plot({best: table}, folder / PLOT)
    with atomic_path(folder / REPORT) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return metrics
