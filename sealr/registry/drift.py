"""How far new data differ from those that a champion was trained on: emotions, catalogue and activity.

A version carries the statistics of its training data (`describe`), so the old data may have been deleted. All old
data are compared with all new data. These usually contain the old, so a change in only the newest month is diluted.
scipy's tests suffice; a drift framework would add some thirty packages to the served model.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr.data.manifest import StageResult
from sealr.data.tables import atomic_path, write_json
from sealr.emotion.sentiment import CLASS_NAMES
from sealr.settings import DriftSettings

log = logging.getLogger(__name__)
ALPHA = 0.01  # a difference with a larger p may be chance and never counts as drift
RECENT = 12  # months before the champion's newest one; the months since are compared with them
Counts = dict[str, int]


@dataclass(frozen=True)
class Statistics:
    """Statistics of a data set, small enough to travel with a model: counts of reviews by value."""

    emotions: Counts
    sentiments: Counts  # "-2" to "2"
    items: Counts  # every item
    activity: Counts  # reviews per user, as text -> users
    months: Counts  # "2014-03"


@dataclass(frozen=True)
class Check:
    """One figure of the comparison, and the threshold above which it is drift."""

    name: str
    value: float
    threshold: float
    p: float | None = None  # of a test for a difference; None without a test

    @property
    def drifted(self) -> bool:
        return self.value > self.threshold and (self.p is None or self.p < ALPHA)


def describe(reviews: pd.DataFrame, labels: pd.DataFrame) -> Statistics:
    """Statistics of a reviews table and its labels."""
    months = pd.to_datetime(reviews["timestamp"], unit="s").dt.strftime("%Y-%m")
    return Statistics(
        emotions=_counts(labels["emotion"].dropna()),
        sentiments=_counts(labels["sentiment"].dropna()),
        items=_counts(reviews["item"]),
        activity=_counts(reviews.groupby("user", sort=False).size()),
        months=_counts(months),
    )


def compare(old: Statistics, new: Statistics, config: DriftSettings) -> list[Check]:
    """The checks, in the order of the report. A figure is 0 if one side has nothing to compare."""
    shared = sorted(old.items.keys() & new.items.keys())
    then, now = ({i: s.items[i] for i in shared} for s in (old, new))
    # Either newest month may be incomplete: the old one is counted in the new data, the new one not at all
    since = [m for m in new.months if max(old.months) <= m < max(new.months)]
    before = sorted(old.months)[-1 - RECENT : -1] or sorted(old.months)
    monthly = np.mean([old.months[m] for m in before])
    volume = float(np.mean([new.months[m] for m in since]) / monthly) if since else 1.0
    return [
        _distribution("emotions, Jensen-Shannon distance", old.emotions, new.emotions, config.distribution),
        _distribution("sentiments, Jensen-Shannon distance", old.sentiments, new.sentiments, config.distribution),
        Check("new items, share of the new catalogue", _missing(new.items, old.items), config.catalogue),
        Check("lost items, share of the old catalogue", _missing(old.items, new.items), config.catalogue),
        _distribution("popularity of shared items, Jensen-Shannon distance", then, now, config.distribution),
        _activity(old.activity, new.activity, config.activity),
        Check("reviews per month since then, factor up or down", max(volume, 1 / volume), config.volume),
    ]


def report(old: Statistics, new: Statistics, config: DriftSettings, version: str, folder: Path) -> StageResult:
    """Writes drift.json, drift.md and drift.png. The metric ``drifted`` counts the checks above their threshold."""
    checks = compare(old, new, config)
    values = {"champion": version, "checks": [asdict(c) | {"drifted": c.drifted} for c in checks]}
    write_json(values | {"old": _totals(old), "new": _totals(new)}, folder / "drift.json")
    with atomic_path(folder / "drift.md") as temporary:
        temporary.write_text(markdown(checks, old, new, version), encoding="utf-8")
    plot(old, new, folder / "drift.png", version)
    drifted = [c.name for c in checks if c.drifted]
    log.info("drift from version %s: %s", version, "; ".join(drifted) or "none")
    metrics = {c.name.replace(",", "").replace(" ", "_"): c.value for c in checks}
    return StageResult(_totals(new), metrics | {"drifted": len(drifted)})


def sentence(report: Mapping[str, Any]) -> str:
    """What drifted, from the content of drift.json; empty if nothing did."""
    return "; ".join(
        f"{c['name']}: {c['value']:.3f}, above {c['threshold']:g}" for c in report["checks"] if c["drifted"]
    )


def markdown(checks: list[Check], old: Statistics, new: Statistics, version: str) -> str:
    """The report as Markdown."""
    rows = "\n".join(
        f"| {c.name} | {c.value:.4f} | {c.threshold:g} | {'-' if c.p is None else f'{c.p:.2g}'} "
        f"| {'**yes**' if c.drifted else 'no'} |"
        for c in checks
    )
    after = _totals(new)
    counts = "\n".join(f"| {name} | {value:,} | {after[name]:,} |" for name, value in _totals(old).items())
    return f"""# Drift from the data of version {version}

A check counts as drift if it is above its threshold and its p, if it has one, is below {ALPHA:g}.

| check | value | threshold | p | drift |
|---|---:|---:|---:|---|
{rows}

| | champion's data | new data |
|---|---:|---:|
{counts}
| newest month | {max(old.months)} | {max(new.months)} |
"""


def plot(old: Statistics, new: Statistics, path: Path, version: str) -> None:
    """Writes a PNG: emotions, sentiments, popularity, reviews per user and reviews per month of both sides."""
    from matplotlib.figure import Figure  # slow to import, and most callers do not plot

    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplot_mosaic([["emotions", "sentiments", "popularity"], ["activity", "months", "months"]])
    emotions, sentiments, popularity, activity, months = axes.values()
    sides = {f"champion (version {version})": old, "new data": new}
    both = Counter(old.emotions) + Counter(new.emotions)
    seen = [emotion for emotion, _ in both.most_common(12)][::-1]
    most = max(int(n) for side in sides.values() for n in side.activity)
    for i, (name, side) in enumerate(sides.items()):
        shift = 0.4 * (0.5 - i)
        emotions.barh(np.arange(len(seen)) + shift, _shares(side.emotions, seen), 0.4, label=name)
        sentiments.bar(np.arange(5) - shift, _shares(side.sentiments, [str(c) for c in CLASS_NAMES]), 0.4)
        users = np.array([[int(n), count] for n, count in sorted(side.activity.items(), key=lambda pair: int(pair[0]))])
        shares = users[:, 1].cumsum() / users[:, 1].sum()
        activity.step([1, *users[:, 0], most], [0, *shares, 1], where="post")
        ordered = sorted(side.months)
        months.plot(pd.to_datetime(ordered), [side.months[m] for m in ordered], marker=".", alpha=0.8)
    emotions.set_yticks(range(len(seen)), seen)
    emotions.set(title="emotions, the most frequent", xlabel="share of labelled reviews")
    sentiments.set_xticks(range(5), [n.replace(" ", "\n") for n in CLASS_NAMES.values()])
    sentiments.set(title="sentiments", ylabel="share of labelled reviews")
    items = sorted(old.items.keys() | new.items.keys())
    x, y = _shares(old.items, items), _shares(new.items, items)
    popularity.scatter(x, y, s=8, alpha=0.5, color="C2")
    popularity.axline((0, 0), slope=1, color="grey", linewidth=1)
    popularity.set(title="popularity of an item", xlabel="share of the champion's reviews", ylabel="of the new reviews")
    activity.set(title="reviews per user", xlabel="at most this many reviews", ylabel="share of users")
    activity.set(xscale="log", xlim=(1, most * 1.2), ylim=(0, 1.02))
    months.set(title="reviews per month", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=2)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})


def _counts(values: pd.Series) -> Counts:
    return {str(k): int(v) for k, v in values.value_counts().sort_index().items()}


def _totals(side: Statistics) -> Counts:
    return {"reviews": sum(side.months.values()), "users": sum(side.activity.values()), "items": len(side.items)}


def _shares(counts: Counts, names: list[str]) -> np.ndarray:
    """(names,) each name's share of all counts."""
    return np.array([counts.get(n, 0) for n in names], dtype=np.float64) / max(1, sum(counts.values()))


def _missing(counts: Counts, others: Counts) -> float:
    """Share of the names in ``counts`` that are not in ``others``."""
    return len(counts.keys() - others.keys()) / max(1, len(counts))


def _distribution(name: str, old: Counts, new: Counts, threshold: float) -> Check:
    """Jensen-Shannon distance (base 2, 0 to 1) of two categorical distributions, and the p of a chi-squared test."""
    from scipy.spatial.distance import jensenshannon  # with scipy.stats, importing it takes most of a second
    from scipy.stats import chi2_contingency

    names = sorted(k for k in old.keys() | new.keys() if old.get(k, 0) + new.get(k, 0))
    table = np.array([[side.get(n, 0) for n in names] for side in (old, new)], dtype=np.float64)  # (2, names)
    if len(names) < 2 or not table.sum(axis=1).all():
        return Check(name, 0.0, threshold, 1.0)
    distance = float(np.nan_to_num(jensenshannon(table[0], table[1], base=2)))  # NaN: the root of -1e-17 of equal ones
    return Check(name, distance, threshold, float(chi2_contingency(table).pvalue))


def _activity(old: Counts, new: Counts, threshold: float) -> Check:
    from scipy.stats import ks_2samp

    samples = [np.repeat([int(n) for n in side], list(side.values())) for side in (old, new)]
    test = ks_2samp(*samples, method="asymp")
    name = "reviews per user, Kolmogorov-Smirnov distance"
    return Check(name, float(test.statistic), threshold, float(test.pvalue))
