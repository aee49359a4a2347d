"""How well satisfaction is foretold on held-out targets, beside simpler forecasts and the placebo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences
from sealr.data.tables import atomic_path
from sealr.evaluate.statistics import BLOCK_ELEMENTS, INTERVAL, UNKNOWN, Interval
from sealr.satisfaction.model import Satisfaction

FEWEST = 30  # liked and disliked targets; a figure over fewer is not given
BLOCK = 2**24  # forecasts held in memory at a time: 64 MB
BINS = 10


def forecasts(model: Satisfaction, sequences: Sequences, split: str, stars: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Stars foretold for the targets of "valid" or "test": one row a target, one column a forecast.

    item and user: one effect alone. item + user: both, without the regression. Then the model's own name, if it is
    more than that, and its placebo. stars (interactions,): what past reviews say, as in ``fit``.
    """
    part = sequences.split(split)
    systems = {"item + user": replace(model, ridge=None)}
    if model.ridge is not None:
        systems[model.config.model] = model
    systems["placebo"] = model.placebo(seed)
    columns = {name: np.zeros(len(part)) for name in ("item", "user", *systems)}
    columns["item"] = model.mean + model.table[part.targets, 0].astype(np.float64)
    size = max(1, BLOCK // len(model.table))
    for start in range(0, len(part), size):
        rows = slice(start, min(start + size, len(part)))
        users = range(rows.start, rows.stop)
        histories, given = [part.history(u) for u in users], [part.history(u, stars) for u in users]
        columns["user"][rows] = model.mean + model.users(histories, given).effects
        for name, system in systems.items():
            columns[name][rows] = system.forecast(histories, given)[np.arange(len(histories)), part.targets[rows]]
    return pd.DataFrame(columns)


def judged(
    predicted: pd.DataFrame, liked: np.ndarray, stars: np.ndarray, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame | None:
    """One row a forecast: targets, AUC of liked against disliked with its interval, correlations with the true stars.

    predicted: of `forecasts`. liked (N,): 1, 0 or NaN, stars (N,): true ones or NaN. None with fewer than FEWEST liked
    or disliked targets. Correlations are NaN where no target has stars or they are all equal.
    """
    liked, stars = np.asarray(liked), np.asarray(stars)
    known, rated = np.isfinite(liked), np.isfinite(stars)
    if min((liked == 1).sum(), (liked == 0).sum()) < FEWEST:
        return None
    rows = []
    for name in predicted:
        values = predicted[name].to_numpy()
        mean, low, high = auc(values[known], liked[known], resamples, seed)
        enough = rated.sum() >= FEWEST and np.ptp(stars[rated]) > 0 and np.ptp(values[rated]) > 0
        pairs = pd.DataFrame({"foretold": values[rated], "true": stars[rated]})
        pearson, spearman = [t.corr().iloc[0, 1] if enough else np.nan for t in (pairs, pairs.rank())]
        counts = {"targets": int(known.sum()), "disliked": int((liked == 0).sum())}
        row = {"forecast": name} | counts | {"AUC": mean, "low": low, "high": high}
        rows.append(row | {"Pearson": pearson, "Spearman": spearman})
    return pd.DataFrame(rows)


def auc(values: np.ndarray, liked: np.ndarray, resamples: int = 1000, seed: int = 0) -> Interval:
    """(AUC, low, high): chance that a liked target gets more than a disliked one, and its 95 % interval over users.

    values, liked (N,): one target a user, liked 1 or 0. Equal values count half. UNKNOWN without both kinds.
    """
    liked = np.asarray(liked) == 1
    if liked.all() or not liked.any():
        return UNKNOWN
    order = np.argsort(values, kind="stable")
    values, liked = np.asarray(values)[order], liked[order]
    first, after = np.searchsorted(values, values, "left"), np.searchsorted(values, values, "right")

    def share(counts: np.ndarray) -> np.ndarray:  # (B, N) how often each user is drawn -> (B,)
        bad = np.zeros((len(counts), len(values) + 1))
        np.cumsum(counts * ~liked, axis=1, out=bad[:, 1:])
        won = (counts * liked * (bad[:, first] + bad[:, after]) / 2).sum(1)
        with np.errstate(invalid="ignore"):  # a resample of one kind only has no AUC
            return np.asarray(won / (bad[:, -1] * (counts * liked).sum(1)))

    rng, size = np.random.default_rng(seed), len(values)
    block = max(1, BLOCK_ELEMENTS // size)
    starts = range(0, resamples, block)
    each = [share(rng.multinomial(size, np.full(size, 1 / size), min(block, resamples - s))) for s in starts]
    low, high = np.nanpercentile(np.concatenate(each), INTERVAL)
    return float(share(np.ones((1, size)))[0]), float(low), float(high)


def calibration_table(predicted: np.ndarray, stars: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Equal shares of the targets, from the lowest forecast to the highest: mean forecast and mean true stars.

    Targets without true stars are left out. Fewer than FEWEST targets give an empty table.
    """
    known = np.isfinite(stars)
    order = np.argsort(predicted[known], kind="stable")
    parts = np.array_split(order, bins) if len(order) >= FEWEST else []
    predicted, stars = predicted[known], stars[known]
    rows = [{"forecast": predicted[p].mean(), "stars": stars[p].mean(), "targets": len(p)} for p in parts]
    return pd.DataFrame(rows, columns=["forecast", "stars", "targets"])


def calibration_plot(tables: Mapping[str, pd.DataFrame], path: Path, title: str = "") -> None:
    """Writes a PNG: mean forecast against mean true stars, one line for each table of `calibration_table`."""
    # Imported here because it is slow, and most callers of this module draw nothing
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, table in tables.items():
        axes.plot(table["forecast"], table["stars"], "o-", label=name, markersize=4, linewidth=1)
    ends = [
        f(min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])) for f in (min, max)
    ]
    axes.plot(ends, ends, color="grey", linestyle=":", linewidth=1, label="forecast equals truth")
    axes.set_xlabel("stars foretold, mean of a tenth of the targets")
    axes.set_ylabel("stars given, mean")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    axes.set_title(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})
