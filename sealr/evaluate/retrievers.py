"""The comparison of retrievers on one data set: rows per system, paired differences, Markdown and a plot.

A system is a configuration trained with one or more seeds. A user's value is the mean over the seeds, and intervals are
over users; the spread over the seeds stands in a column of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sealr.data.tables import atomic_path
from sealr.evaluate.metrics import hit_rate, ndcg, regret, satisfied_hit_rate
from sealr.evaluate.statistics import paired_bootstrap, shown

COLUMNS = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")  # what published tables have
DEPTHS = (20, 50, 100)  # hit rates that are a re-ranker's ceiling


@dataclass(frozen=True)
class Trained:
    """One system trained with one seed."""

    system: str
    seed: int
    ranks: np.ndarray  # (N,) the test targets' ranks in the whole catalogue, 0 where masked
    coverage: float  # share of the catalogue in anyone's first ten; NaN where it cannot be compared
    seconds: float  # of training and ranking, with all that it builds on


def per_user(ranks: Sequence[np.ndarray], metric: str) -> np.ndarray:
    """(N,) a metric such as "HR@10" by user, mean over seeds."""
    name, k = metric.split("@")
    of = {"HR": hit_rate, "NDCG": ndcg}[name]
    return np.mean([of(r, int(k)) for r in ranks], axis=0)


def comparison(trained: Sequence[Trained], felt: np.ndarray | None, published: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """A row a system, in order of appearance, then the published figures: HR@5, HR@10, NDCG@5, NDCG@10, mean over seeds.

    felt (N,): how the users felt about their targets, NaN where not known; adds satisfied HR@10 and regret@10.
    """
    rows = []
    for system, runs in by_system(trained).items():
        ranks = [run.ranks for run in runs]
        row: dict[str, object] = {"system": system, "seeds": len(runs)}
        row |= {m: float(per_user(ranks, m).mean()) for m in (*COLUMNS, *(f"HR@{k}" for k in DEPTHS))}
        over_seeds = [per_user([r], "NDCG@10").mean() for r in ranks]
        row["sd NDCG@10"] = float(np.std(over_seeds, ddof=1)) if len(runs) > 1 else None
        if felt is not None:
            row["satisfied HR@10"] = float(np.mean([satisfied_hit_rate(r, felt, 10).mean() for r in ranks]))
            row["regret@10"] = float(np.mean([regret(r, felt, 10).mean() for r in ranks]))
        if not np.isnan(covered := float(np.mean([run.coverage for run in runs]))):
            row["coverage@10"] = covered
        row["seconds"] = round(float(np.mean([run.seconds for run in runs])))
        rows.append(row)
    rows += [{"system": f"published: {name}"} | dict(zip(COLUMNS, values, strict=True)) for name, values in published.items()]
    return pd.DataFrame(rows).astype({"seeds": "Int64", "seconds": "Int64"})  # published rows have neither


def differences(trained: Sequence[Trained], pairs: Sequence[Sequence[str]], seed: int = 0) -> list[str]:
    """A sentence for each pair of systems and metric: mean of first minus second with its 95 % interval over users."""
    systems = by_system(trained)
    lines = []
    for a, b in pairs:
        if a not in systems or b not in systems:
            continue
        shared = sorted({r.seed for r in systems[a]} & {r.seed for r in systems[b]})
        for metric in ("HR@10", "NDCG@10"):
            first, second = (per_user([r.ranks for r in systems[name] if r.seed in shared], metric) for name in (a, b))
            lines.append(f"{metric}, {a} minus {b}: {shown(*paired_bootstrap(first, second, seed=seed))}, {len(shared)} seeds")
    return lines


def by_system(trained: Sequence[Trained]) -> dict[str, list[Trained]]:
    grouped: dict[str, list[Trained]] = {}
    for run in trained:
        grouped.setdefault(run.system, []).append(run)
    return grouped


def plot(table: pd.DataFrame, title: str, path: Path, metric: str = "NDCG@10") -> None:
    """Writes a PNG: a bar a system, published figures hatched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: it is slow to import
    from matplotlib.figure import Figure

    part = table.iloc[::-1]
    published = part["system"].str.startswith("published").to_numpy()
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(part)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.barh(part["system"], part[metric], color=np.where(published, "lightgrey", "C0"))
    spread = part["sd NDCG@10"].to_numpy(dtype=float)
    axes.errorbar(part[metric], range(len(part)), xerr=spread, fmt="none", ecolor="black", capsize=2)  # no bar where there is none
    beyond = np.nan_to_num(spread)  # the number stands behind the line
    for place, (value, extra) in enumerate(zip(part[metric], beyond, strict=True)):
        axes.annotate(f"{value:.4f}", (value + extra, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.margins(x=0.2)  # room for the numbers
    figure.supxlabel(f"{metric}, whole catalogue; lines: standard deviation over seeds", fontsize=9)
    axes.set_title(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})
