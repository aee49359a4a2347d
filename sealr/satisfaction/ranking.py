"""How much satisfaction counts in the ranking: score = scores so far + b * standardised satisfaction.

b comes from validation targets. Its utility is HR@10 on liked targets minus HR@10 on disliked ones: show users what
they will be glad of, and not what they will regret, although they would take both.

Hits alone cannot prove a weight: among 200 disliked targets 20 are hits, and a weight that sinks one in ten of them
moves two. So the proof is in the ranks of all targets: liked ones must rise further than disliked ones, in log rank.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sealr.data.tables import atomic_path
from sealr.evaluate.crossfit import held_out
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.statistics import UNKNOWN, Interval, bootstrap_mean, group_bootstrap, shown

log = logging.getLogger(__name__)
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5)
TOP = 10
FEWEST = 30  # liked and disliked targets; fewer choose nothing
HARM = 0.05  # share of all hits that a weight may lose at worst, by the lower end of its 95 % interval


@dataclass(frozen=True)
class Choice:
    """The weight to use, and what speaks for it, cross-fitted. Intervals are UNKNOWN where nothing was tried."""

    weight: float
    gain: Interval  # in utility
    rise: Interval  # how much further liked targets rise than disliked ones; .1 is 10 % of the rank
    tried: pd.DataFrame  # `frontier` with "gain", "rise" and "change of hits", each with its interval's ends


def ranks(
    base: Sequence[np.ndarray],
    pools: Sequence[np.ndarray],
    satisfaction: Sequence[np.ndarray],
    targets: np.ndarray,
    weights: Sequence[float] = WEIGHTS,
) -> np.ndarray:
    """(len(weights), N) ranks of the targets in the pools, from 1; 0 where the pool lacks the target.

    base, pools, satisfaction: for each of N users, scores so far, item ids and standardised satisfaction, all (C,).
    Equal scores keep the order of the pool. An empty pool is one without the target.
    """
    found = np.zeros((len(weights), len(pools)), np.int64)
    factors = np.asarray(weights)[:, None]
    for user, (scores, pool, glad, target) in enumerate(zip(base, pools, satisfaction, targets, strict=True)):
        places = np.flatnonzero(np.asarray(pool) == target)
        if len(places):
            total = np.asarray(scores) + factors * np.asarray(glad)  # (weights, C)
            mine = total[:, places[0], None]
            ahead = (total > mine).sum(1) + (total[:, : places[0]] == mine).sum(1)
            found[:, user] = ahead + 1
    return found


def frontier(
    base: Sequence[np.ndarray],
    pools: Sequence[np.ndarray],
    satisfaction: Sequence[np.ndarray],
    targets: np.ndarray,
    liked: np.ndarray,
    weights: Sequence[float] = WEIGHTS,
) -> pd.DataFrame:
    """One row a weight: HR@10 and NDCG@10 on all, on liked and on disliked targets, and HR@10's difference.

    liked (N,): 1 liked, 0 disliked, NaN neither. A figure over fewer than FEWEST targets is NaN.
    """
    return _figures(ranks(base, pools, satisfaction, targets, weights), liked, weights)


def tune(
    base: Sequence[np.ndarray],
    pools: Sequence[np.ndarray],
    satisfaction: Sequence[np.ndarray],
    targets: np.ndarray,
    liked: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> Choice:
    """The weight with the greatest utility among those that keep the hits, or 0 unless its rise is clear of 0.

    A weight keeps the hits if HR@10 of all users loses at most HARM of itself, by the lower end of the change's 95 %
    interval: few users allow only small weights. The rise is the mean of log(old rank / new rank) over liked targets
    minus that over disliked ones. It is cross-fitted: other users choose the weight that a user is judged by. Its
    interval resamples users within both groups. Arguments as in `frontier`, of validation targets.
    """
    liked = np.asarray(liked)
    found = ranks(base, pools, satisfaction, targets)
    table = _figures(found, liked, WEIGHTS)
    if min((liked == 1).sum(), (liked == 0).sum()) < FEWEST:
        log.warning("satisfaction counts 0: fewer than %d liked or disliked validation targets to choose by", FEWEST)
        return Choice(0.0, UNKNOWN, UNKNOWN, table)
    hits, places = hit_rate(found, TOP), np.log(np.maximum(found, 1))  # (weights, N); a missing target never moves
    changes, climbs = hits - hits[0], places[0] - places
    intervals = {
        "gain": [_apart(row, liked, resamples, seed) for row in changes],
        "rise": [_apart(row, liked, resamples, seed) for row in climbs],
        "change of hits": [bootstrap_mean(row, resamples, seed) for row in changes],
    }
    for name, of_weights in intervals.items():
        for place, part in enumerate(("", " low", " high")):
            table[name + part] = [interval[place] for interval in of_weights]
    rows = held_out(len(liked), lambda learn: _best(hits[:, learn], liked[learn]), seed)
    gain, rise = (_apart(v[rows, np.arange(len(liked))], liked, resamples, seed) for v in (changes, climbs))
    best = _best(hits, liked)
    weight = WEIGHTS[best] if rise[1] > 0 else 0.0
    text = "satisfaction: weight %g; best %g; cross-fitted: liked minus disliked HR@10 %s, liked rise further by %s"
    log.info(text, weight, WEIGHTS[best], shown(*gain), shown(*rise))
    return Choice(weight, gain, rise, table)


def _best(hits: np.ndarray, liked: np.ndarray) -> int:
    """Place of the weight with the greatest utility among those that keep the hits; ties: the lowest weight."""
    utility = hits[:, liked == 1].mean(1) - hits[:, liked == 0].mean(1)
    change = hits - hits[0]
    low = change.mean(1) - 1.96 * change.std(1, ddof=1) / np.sqrt(hits.shape[1])
    keeps = low >= -HARM * hits[0].mean()
    keeps[0] = True
    return int(np.argmax(np.where(keeps, utility, -np.inf)))


def _apart(change: np.ndarray, liked: np.ndarray, resamples: int, seed: int) -> Interval:
    """Mean change on liked targets minus that on disliked ones."""
    return group_bootstrap(change[liked == 1], change[liked == 0], resamples, seed)


def _figures(found: np.ndarray, liked: np.ndarray, weights: Sequence[float]) -> pd.DataFrame:
    groups = {"": np.ones(len(liked), bool), " liked": np.asarray(liked) == 1, " disliked": np.asarray(liked) == 0}
    columns: dict[str, Sequence[float] | np.ndarray] = {"weight": list(weights)}
    for metric, values_of in (("HR", hit_rate), ("NDCG", ndcg)):
        for group, chosen in groups.items():
            values = values_of(found[:, chosen], TOP)
            enough = chosen.sum() >= FEWEST
            columns[f"{metric}@{TOP}{group}"] = values.mean(1) if enough else np.full(len(weights), np.nan)
    table = pd.DataFrame(columns)
    table[f"HR@{TOP} liked minus disliked"] = table[f"HR@{TOP} liked"] - table[f"HR@{TOP} disliked"]
    return table


def frontier_plot(tables: Mapping[str, pd.DataFrame], path: Path, title: str = "") -> None:
    """Writes a PNG: HR@10 of all targets against liked minus disliked, a line for each table, its weights as labels.

    tables: name -> `frontier`, such as the forecast and its placebo.
    """
    # Imported here because it is slow, and most callers of this module draw nothing
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    hits, difference = f"HR@{TOP}", f"HR@{TOP} liked minus disliked"
    for number, (name, table) in enumerate(tables.items()):
        axes.plot(table[hits], table[difference], "o-" if number == 0 else "s--", label=name, markersize=4, linewidth=1)
        for x, y, weight in zip(table[hits], table[difference], table["weight"], strict=True):
            below = -10 if number else 5
            axes.annotate(f"{weight:g}", (x, y), (4, below), textcoords="offset points", fontsize=8, color=f"C{number}")
    axes.set_xlabel(f"HR@{TOP}, all targets")
    axes.set_ylabel(difference)
    axes.legend(title="weight of satisfaction beside each point", fontsize=8)
    axes.grid(alpha=0.3)
    axes.set_title(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})
