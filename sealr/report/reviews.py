"""The report's first part as plain data: which reviews there are, and what the labeller read in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from sealr.data.cleaning import YEAR_1990
from sealr.emotion.sentiment import CLASS_NAMES
from sealr.report.sources import Sources

MOST_BARS = 24  # of a histogram or a time line
MOST_ROWS = 8  # categories and emotions shown
LONGEST = 280  # characters of a quoted review
SEED = 0  # draws the examples
UNITS = {"Y": "%Y", "Q": "%Y", "M": "%Y-%m", "W": "%Y-%m-%d", "D": "%Y-%m-%d"}  # of pandas, and how they are written
FEWEST_PERIODS = 4


class Bar(NamedTuple):
    """A count with its name and its share of the whole."""

    name: str
    number: int
    share: float


class Stack(NamedTuple):
    """How the reviews of a group spread over the five classes of CLASS_NAMES, from -2 to 2."""

    name: str
    number: int
    shares: tuple[float, ...]


def data(sources: Sources) -> dict[str, Any] | None:
    """Counts, rejects, lengths of histories, popularity and time of the reviews; None without the stage."""
    stage = sources.stage("ingest")
    if stage is None:
        return None
    rows, metrics = stage.made["rows"], stage.made["metrics"]
    table = pd.read_parquet(stage.folder / "reviews.parquet", columns=["user", "item", "timestamp"])
    rejected = pd.read_parquet(stage.folder / "rejected.parquet", columns=["reason"])["reason"].value_counts()
    lengths = table["user"].value_counts().to_numpy()
    dated = table["timestamp"][table["timestamp"] >= YEAR_1990]
    days = pd.to_datetime(dated, unit="s")
    return {
        "rows": rows,
        "per_user": metrics["mean_length"],
        "period": (f"{days.min():%Y-%m-%d}", f"{days.max():%Y-%m-%d}") if len(dated) else None,
        "rejected": [Bar(str(name), int(n), n / rejected.sum()) for name, n in rejected.items()],
        "lengths": histogram(lengths),
        "median_length": float(np.median(lengths)),
        "popular": popularity(table["item"].value_counts().to_numpy()),
        "times": [(str(name), int(n)) for name, n in periods(days).value_counts(sort=False).items()],
    }


def histogram(values: np.ndarray) -> list[tuple[str, int]]:
    """(label, count) of whole numbers in at most MOST_BARS bars of equal width; the last one may be open."""
    low, high = int(values.min()), int(values.max())
    top = high if high - low < MOST_BARS else max(int(np.quantile(values, 0.98)), low + MOST_BARS)
    width = max(1, -(-(top - low + 1) // MOST_BARS))
    bars = []
    for start in range(low, top + 1, width):
        last = start + width > top
        end = high if last else start + width - 1
        name = f"{start}+" if last and end >= start + width else str(start) if width == 1 else f"{start}-{end}"
        bars.append((name, int(((values >= start) & (values <= end)).sum())))
    return bars


def popularity(counts: np.ndarray) -> list[tuple[float, float]]:
    """(share of the items, share of the reviews that the most popular of them have). counts: reviews of each item."""
    running = np.cumsum(np.sort(counts)[::-1]) / counts.sum()
    ends = np.unique(np.linspace(0, len(running) - 1, 60).astype(int))
    return [(0.0, 0.0), *((float((end + 1) / len(running)), float(running[end])) for end in ends)]


def held_by(curve: Sequence[tuple[float, float]], share: float) -> float:
    """The share of the reviews that the most popular ``share`` of the items have."""
    return float(np.interp(share, *np.transpose(curve)))


def periods(days: pd.Series) -> pd.Series:
    """The period of each day as text, in order of time: of the longest unit with FEWEST_PERIODS, else the day."""
    unit = next((unit for unit in UNITS if days.dt.to_period(unit).nunique() >= FEWEST_PERIODS), "D")
    start = days.dt.to_period(unit).dt.start_time
    names = start.dt.strftime(UNITS[unit])
    if unit == "Q":
        names += " Q" + start.dt.quarter.astype(str)
    return pd.Series(pd.Categorical(names, sorted(names.unique())), days.index)


def feelings(sources: Sources) -> dict[str, Any] | None:
    """How the five sentiments spread, by star, over time and by category, and examples; None without labels."""
    labelled, read = sources.stage("label"), sources.stage("ingest")
    if labelled is None or read is None or not labelled.made["rows"]["labelled"]:
        return None
    columns = ["user", "position", "item", "timestamp", "rating"]
    table = pd.read_parquet(read.folder / "reviews.parquet", columns=columns)
    labels = pd.read_parquet(
        labelled.folder / "labels.parquet", columns=["user", "position", "emotion", "score", "sentiment"]
    )
    table["row"] = np.arange(len(table))
    table = table.merge(labels, on=["user", "position"])
    table = table[table["emotion"].notna()].assign(sentiment=lambda t: t["sentiment"].astype(int))
    items = pd.read_parquet(read.folder / "items.parquet")
    dated = table[table["timestamp"] >= YEAR_1990]
    metrics = labelled.made["metrics"]
    return {
        "labelled": len(table),
        "unlabelled": labelled.made["rows"]["null"],
        "labeller": labelled.made["config"]["labeller"].split()[0],
        "all": stack("all reviews", table["sentiment"]),
        "stars": stacks(table, table["rating"].round().map(lambda star: f"{star:.0f}", na_action="ignore"))[::-1],
        "times": stacks(dated, periods(pd.to_datetime(dated["timestamp"], unit="s"))) if len(dated) else [],
        "categories": by_category(table, items),
        "emotions": emotions(table),
        "correlation": metrics.get("pearson_rating"),
        "examples": examples(table, read.folder / "reviews.parquet", items),
    }


def stack(name: str, sentiments: pd.Series) -> Stack:
    """The classes of one group of reviews."""
    shares = (sentiments.value_counts(normalize=True).get(value, 0.0) for value in CLASS_NAMES)
    return Stack(name, len(sentiments), tuple(float(share) for share in shares))


def stacks(table: pd.DataFrame, group: pd.Series) -> list[Stack]:
    """A stack for each value of ``group``, in its order; reviews without one are left out."""
    return [stack(str(name), part["sentiment"]) for name, part in table.groupby(group, observed=True)]


def by_category(table: pd.DataFrame, items: pd.DataFrame) -> list[Stack]:
    """Stacks of the largest categories, the most reviewed first; none where all items have the same or none.

    Categories such as "Beauty > Hair Care > Shampoos" are told apart by the first level with several names.
    """
    levels = items["categories"].dropna().str.split(" > ", expand=True)
    level = next((levels[n] for n in levels if levels[n].nunique() > 1), None)
    if level is None:
        return []
    of_item = dict(zip(items.loc[level.index, "item"], level, strict=True))
    found = stacks(table, table["item"].map(of_item))
    return sorted(found, key=lambda one: -one.number)[:MOST_ROWS]


def emotions(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The most frequent emotions: name, share, and the class that they belong to."""
    shares = table["emotion"].value_counts(normalize=True)[:MOST_ROWS]
    classes = table.drop_duplicates("emotion").set_index("emotion")["sentiment"]
    return [{"name": name, "share": float(share), "class": int(classes[name])} for name, share in shares.items()]


def examples(table: pd.DataFrame, path: Path, items: pd.DataFrame) -> list[dict[str, Any]]:
    """A review of each class, drawn at random, and the surest of those that disagree with their stars.

    table: with ``row``, a review's place in the file ``path``.
    """
    rng = np.random.default_rng(SEED)
    classes = [part for _, part in sorted(table.groupby("sentiment"), reverse=True)]
    drawn = [(part.iloc[int(rng.integers(len(part)))], False) for part in classes]
    for against in (table[(table["rating"] <= 1.5) & (table["sentiment"] == 2)],
                    table[(table["rating"] >= 4.5) & (table["sentiment"] == -2)]):  # fmt: skip
        drawn += [(against.loc[against["score"].idxmax()], True)] if len(against) else []
    rows = [int(one["row"]) for one, _ in drawn]
    texts = pq.read_table(path, columns=["text"])["text"].take(rows).to_pylist()
    titles = dict(zip(items["item"], items["title"], strict=True))
    return [
        {
            "text": shortened(text),
            "title": title if isinstance(title := titles.get(one["item"]), str) else one["item"],
            "stars": None if pd.isna(one["rating"]) else float(one["rating"]),
            "emotion": one["emotion"],
            "score": float(one["score"]),
            "class": int(one["sentiment"]),
            "odd": odd,
        }
        for (one, odd), text in zip(drawn, texts, strict=True)
    ]


def shortened(text: str, longest: int = LONGEST) -> str:
    """The start of a text, cut after a word."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[:longest].rpartition(" ")[0] + " …"
