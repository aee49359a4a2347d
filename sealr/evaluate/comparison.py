"""Comparing systems on the same users: a table per protocol, paired differences, and times.

A system is trained with one or more seeds. A user's value is the mean over the seeds, and intervals resample users and
seeds; the spread over the seeds has a column of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sealr.evaluate.gladness import Gladness
from sealr.evaluate.liking import TITLE, caption, liking
from sealr.evaluate.metrics import chance, hit_rate, ndcg
from sealr.evaluate.protocols import CHANCE
from sealr.evaluate.report import PUBLISHED
from sealr.evaluate.sections import MINUS, Section
from sealr.evaluate.statistics import judged, shown

# Protocols. kept: history items stay candidates; timely: items are known by reviews older than the target
FULL, KEPT, TIMELY, INJECTED, TIMES = "full", "kept", "timely", "injected", "times"
# Systems that surely differ by less are equal. About what another seed of the same retriever changes: on Musical
# Instruments its NDCG@10 has a standard deviation of .001 to .005, and differences in HR@10 are nearly twice as large
MARGINS = {"HR@10": 0.005, "NDCG@10": 0.003}
PAPER_METRICS = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")  # the order of published figures


@dataclass(frozen=True)
class Run:
    """One system trained with one seed. With neither ranks nor times, it could not be run; ``note`` says why."""

    system: str
    seed: int = 0
    ranks: Mapping[str, np.ndarray] = field(default_factory=dict)  # protocol -> (N,) targets' ranks from 1; 0: a miss
    pool: int = 0  # candidates C of an injected list
    sizes: np.ndarray | None = None  # (N,) candidates of each user's injected list, at most C
    coverage: float = np.nan  # share of the catalogue in the first ten of any list; NaN if not comparable
    seconds: float = np.nan  # training and ranking, with everything that it builds on
    times: tuple[float, float] | None = None  # seconds: training per prompt and epoch; ranking per list
    note: str = ""
    label: str = ""  # name in tables; empty: ``system``


def per_seed(ranks: Sequence[np.ndarray], metric: str) -> np.ndarray:
    """(seeds, N) a metric such as "HR@10" by seed and user."""
    name, k = metric.split("@")
    values_of = {"HR": hit_rate, "NDCG": ndcg}[name]
    return np.stack([values_of(r, int(k)) for r in ranks])


def table(
    runs: Sequence[Run],
    protocol: str,
    metrics: Sequence[str] = PAPER_METRICS,
    published: Mapping[str, Sequence[float | None]] | None = None,
    baseline: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per system. Published figures follow the system of the same name, or stand at the end.

    published: figures in the order of ``PAPER_METRICS``. baseline (N,): ranks of the retriever that NDCG@10 is compared
    with under "full"; under "injected" it is compared with chance, and a chance row per pool size comes first.
    """
    rows = _chance_rows(runs, metrics) if protocol == INJECTED else []
    for system, group in by_system(runs).items():
        row: dict[str, Any] = {"system": system}
        if ranks := [run.ranks[protocol] for run in group if protocol in run.ranks]:
            row |= {"seeds": len(group)} | {m: float(per_seed(ranks, m).mean()) for m in metrics}
            gains = per_seed(ranks, "NDCG@10")
            row["sd NDCG@10"] = float(np.std(gains.mean(axis=1), ddof=1)) if len(group) > 1 else np.nan
            if protocol == FULL:
                row["coverage@10"] = float(np.mean([run.coverage for run in group]))
            if protocol == FULL and baseline is not None:
                row["NDCG@10 minus retriever"] = _against(gains, ndcg(baseline, 10), resamples, seed)
            if protocol == INJECTED and group[0].sizes is not None:
                expected = chance(group[0].sizes, 10)[1]
                row["NDCG@10 minus chance"] = _against(gains, expected, resamples, seed)
            row["seconds"] = np.round(np.mean([run.seconds for run in group]))
        elif any(run.ranks for run in group):  # not a row of this protocol
            continue
        rows.append(row | {"note": "; ".join(run.note for run in group if run.note) or None})
    for name, values in (published or {}).items():
        figures = {m: v for m, v in zip(PAPER_METRICS, values, strict=True) if m in metrics}
        place = next((i + 1 for i, row in enumerate(rows) if row["system"] == name), len(rows))
        rows.insert(place, {"system": PUBLISHED + name} | figures)
    if not rows:
        return pd.DataFrame(columns=["system", *metrics])
    made = pd.DataFrame(rows).astype({c: "Int64" for c in ("seeds", "seconds") if any(c in row for row in rows)})
    made["system"] = made["system"].replace(_labels(runs))
    ends = ["system", "seeds"], ["seconds", "note"]
    order = [*ends[0], *(c for c in made if c not in ends[0] + ends[1]), *ends[1]]
    return made.reindex(columns=order).dropna(axis=1, how="all")


def _against(values: np.ndarray, other: np.ndarray, resamples: int, seed: int) -> str:
    """The difference in NDCG@10 and its verdict, for a cell. values (seeds, N), other (N,)."""
    difference, verdict = judged(values, other, MARGINS["NDCG@10"], resamples, seed)
    return f"{shown(*difference)}, {verdict}"


def _labels(runs: Sequence[Run]) -> dict[str, str]:
    return {run.system: run.label for run in runs if run.label}


def _chance_rows(runs: Sequence[Run], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The expected metrics of a random order, for each pool size."""
    sizes = {run.pool: run.sizes for run in reversed(runs) if run.sizes is not None}
    rows = []
    for pool in sorted(sizes):
        expected = {m: chance(sizes[pool], int(m.partition("@")[2])) for m in metrics}
        figures = {m: float(values[m.startswith("NDCG")].mean()) for m, values in expected.items()}
        rows.append({"system": f"{CHANCE}, Can{pool}"} | figures)
    return rows


def differences(
    runs: Sequence[Run], pairs: Sequence[Sequence[str]], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """For each pair and metric: mean of ``system`` minus ``other`` under "full" with its 95 % interval and verdict.

    The verdict is that of ``judged`` with the metric's margin in MARGINS. The interval is over users, and over the
    seeds that both systems have. Pairs with a system that has no figures are left out.
    """
    rows = []
    for (system, other), (a, b) in _shared(runs, pairs):
        for metric, margin in MARGINS.items():
            (mean, low, high), verdict = judged(per_seed(a, metric), per_seed(b, metric), margin, resamples, seed)
            row = {"system": system, "other": other, "metric": metric, "mean": mean, "low": low, "high": high}
            rows.append(row | {"verdict": verdict, "seeds": len(a)})
    return pd.DataFrame(rows)


def liked(
    runs: Sequence[Run],
    protocol: str,
    targets: Gladness,
    pairs: Sequence[Sequence[str]] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> Section:
    """Figures on liked and on disliked targets: a row for every system and, under "full", for every pair.

    targets: ``Gladness`` of the N targets. pairs: as in ``differences``.
    """
    rows = {}
    for system, group in by_system(runs).items():
        if ranks := [run.ranks[protocol] for run in group if protocol in run.ranks]:
            rows[system] = liking(np.stack(ranks), targets, resamples, seed)
    if protocol == FULL:
        for pair, (a, b) in _shared(runs, pairs):
            rows[MINUS.join(pair)] = liking(np.stack(a), targets, resamples, seed, np.stack(b))
    return Section(f"{TITLE}, {protocol}", caption(targets), rows)


def _shared(
    runs: Sequence[Run], pairs: Sequence[Sequence[str]]
) -> Iterator[tuple[Sequence[str], tuple[list[np.ndarray], list[np.ndarray]]]]:
    """Each pair of systems that have figures, and their ranks under "full" by the seeds that both have."""
    systems = by_system(run for run in runs if FULL in run.ranks)
    for pair in pairs:
        if systems.keys() >= set(pair):
            first, second = ({run.seed: run.ranks[FULL] for run in systems[name]} for name in pair)
            seeds = sorted(first.keys() & second.keys())
            yield pair, ([first[seed] for seed in seeds], [second[seed] for seed in seeds])


def times_table(runs: Sequence[Run], users: int, prompts: int) -> pd.DataFrame:
    """Seconds per prompt and list, hours for an epoch of ``prompts`` and ``users`` lists, ratios to the first row."""
    times = {run.system: run.times for run in runs if run.times}
    made = pd.DataFrame({"system": list(times)})
    for place, (name, count) in enumerate((("training", prompts), ("inference", users))):
        seconds = np.array([each[place] for each in times.values()])
        made[f"{name}, s each"] = seconds
        made[f"{name}, hours for {count:,}"] = seconds * count / 3600
        made[f"{name}, times faster"] = seconds[:1] / seconds
    failed = [{"system": run.system, "note": run.note} for run in runs if not run.times and not run.ranks]
    return pd.concat([made, pd.DataFrame(failed)], ignore_index=True).replace({"system": _labels(runs)})


def by_system(runs: Any) -> dict[str, list[Run]]:
    """Runs by system, in the order of their first appearance. Chains repeat rows of reference: one per seed counts."""
    grouped: dict[str, dict[int, Run]] = {}
    for run in runs:
        grouped.setdefault(run.system, {}).setdefault(run.seed, run)
    return {system: list(group.values()) for system, group in grouped.items()}
