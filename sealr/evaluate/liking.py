"""Metrics on the targets that users liked and on those that they disliked, and the difference, with intervals.

A recommender that cannot tell the two apart hits both equally often. Intervals resample users within each group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sealr.evaluate.gladness import LABELS, STARS, Gladness
from sealr.evaluate.metrics import graded_ndcg, hit_rate, ndcg
from sealr.evaluate.sections import MINUS
from sealr.evaluate.statistics import UNKNOWN, Interval, bootstrap_mean, group_bootstrap

TOP = 10
FEWEST = 30  # targets; a figure over fewer is not shown
TITLE = "Liked and disliked targets"
READINGS = {
    STARS: "By stars: 4 and 5 are liked, 1 to 3 disliked",
    LABELS: "By labels of the reviews, as there are no stars: positive is liked, negative disliked. The model that "
    "labels also feeds the rankers",
}


def liking(
    ranks: ArrayLike, targets: Gladness, resamples: int = 1000, seed: int = 0, other: ArrayLike | None = None
) -> dict[str, Interval]:
    """Figure -> (mean, low, high): HR@10 and NDCG@10 liked, disliked and liked minus disliked, and graded NDCG@10.

    ranks (N,) or (seeds, N): the targets' ranks, 0 for a miss. targets: ``Gladness`` of the N targets. other: ranks of
    a second system for the same users; every figure is then the paired difference to it. A figure over fewer than
    FEWEST targets is NaN. Graded NDCG needs stars.
    """
    first, second = np.asarray(ranks), None if other is None else np.asarray(other)
    groups = {"liked": targets.liked == 1, "disliked": targets.liked == 0}
    figures = {}
    for metric, values_of in (("HR", hit_rate), ("NDCG", ndcg)):
        values = values_of(first, TOP) - (0.0 if second is None else values_of(second, TOP))
        parts = {name: values[..., chosen] for name, chosen in groups.items()}
        for name, part in parts.items():
            figures[f"{metric}@{TOP} {name}"] = _mean(part, resamples, seed)
        both = all(part.shape[-1] >= FEWEST for part in parts.values())
        difference = group_bootstrap(parts["liked"], parts["disliked"], resamples, seed) if both else UNKNOWN
        figures[f"{metric}@{TOP} liked{MINUS}disliked"] = difference
    graded = graded_ndcg(first, targets.stars, TOP)
    if second is not None:
        graded = graded - graded_ndcg(second, targets.stars, TOP)
    figures[f"graded NDCG@{TOP}"] = _mean(graded[..., ~np.isnan(targets.stars)], resamples, seed)
    return figures


def caption(targets: Gladness) -> str:
    """What decides about liking, and how many targets there are. Stands above every table of these figures."""
    groups = {"liked": targets.liked == 1, "disliked": targets.liked == 0}
    if targets.source == STARS:
        groups["with stars"] = ~np.isnan(targets.stars)
    counts = ", ".join(f"{chosen.sum():,} {name}" for name, chosen in groups.items())
    return (
        f"{READINGS[targets.source]}. Targets: {counts}. In brackets the 95 % bootstrap interval; a dash stands for "
        f"fewer than {FEWEST} targets."
    )


def _mean(values: np.ndarray, resamples: int, seed: int) -> Interval:
    return bootstrap_mean(values, resamples, seed) if values.shape[-1] >= FEWEST else UNKNOWN
