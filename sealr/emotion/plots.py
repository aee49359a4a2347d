"""Plots of labels: their distribution on reviews, and a labeller's confusions on GoEmotions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # pyplot would need a window system and keep global state
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from sealr.data.tables import EMOTIONS, atomic_path
from sealr.emotion.sentiment import CLASS_NAMES

# By sentiment class: two hues that colour-blind readers tell apart, and grey between them
COLOURS = dict(zip(CLASS_NAMES, ("#9b1c31", "#e99a86", "#c9c9c9", "#86b8dc", "#1f5a99"), strict=True))
PALE = (-1, 0, 1)  # classes whose colour takes black text
ORANGE = "#e07b00"


def distribution_plot(labels: pd.DataFrame, path: Path, ratings: pd.Series | None = None) -> None:
    """A PNG with bars of emotions and sentiment classes and boxes of expected sentiment, the latter two by stars."""
    known = labels["sentiment"].notna().to_numpy()
    stars = np.full(len(labels), np.nan) if ratings is None else np.asarray(ratings, np.float64).round()
    rows = {f"all ({known.sum():,})": labels[known]}
    for star in np.unique(stars[known & ~np.isnan(stars)]):
        chosen = labels[known & (stars == star)]
        rows[f"{star:.0f} star{'' if star == 1 else 's'} ({len(chosen):,})"] = chosen
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    axes = figure.subplot_mosaic([["emotions", "classes"], ["emotions", "expected"]])
    _emotions(axes["emotions"], labels[known])
    by = ", by rating (reviews)" if len(rows) > 1 else ""
    axes["classes"].set_title(f"Sentiment class of that emotion{by}")
    axes["expected"].set_title(f"Expected sentiment{by}")
    _classes(axes["classes"], {name: frame["sentiment"].astype(int) for name, frame in rows.items()})
    _expected(axes["expected"], {name: frame["expected"].to_numpy(float) for name, frame in rows.items()})
    legend = [Patch(color=COLOURS[c], label=name) for c, name in CLASS_NAMES.items()]
    figure.legend(handles=legend, loc="outside upper center", ncols=len(legend), title="sentiment class", frameon=False)
    _save(figure, path)


def _emotions(axes: Axes, labels: pd.DataFrame) -> None:
    """Share of reviews by most probable emotion, in the colour of its class."""
    shares = labels["emotion"].value_counts(normalize=True).reindex(EMOTIONS, fill_value=0.0).sort_values()
    classes = labels.groupby("emotion")["sentiment"].first()
    bars = axes.barh(
        shares.index, shares.to_numpy(float), color=[COLOURS[int(classes.get(e, 0))] for e in shares.index]
    )
    texts = [f"{100 * v:.1f}" if v >= 0.0005 else "< 0.1" if v else "0" for v in shares]
    axes.bar_label(bars, texts, padding=2, fontsize=8)
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.margins(x=0.08, y=0.01)
    axes.set(xlabel="share of labelled reviews", title="Most probable emotion")
    axes.set_xlim(left=0)


def _classes(axes: Axes, sentiments: dict[str, pd.Series]) -> None:
    """A stacked bar of the five classes per row."""
    left = np.zeros(len(sentiments))
    for c in CLASS_NAMES:
        shares = np.array([(s == c).sum() / max(1, len(s)) for s in sentiments.values()])
        bars = axes.barh(list(sentiments), shares, left=left, color=COLOURS[c])
        texts = [f"{100 * v:.0f}" if v >= 0.035 else "" for v in shares]
        axes.bar_label(bars, texts, label_type="center", fontsize=9, color="black" if c in PALE else "white")
        left += shares
    axes.set(xlim=(0, 1), xlabel="share of the row's reviews")
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    _limit_height(axes, len(sentiments))


def _expected(axes: Axes, values: dict[str, np.ndarray]) -> None:
    """A box of the expected sentiment per row."""
    mean = {"marker": "D", "markerfacecolor": "black", "markeredgecolor": "black", "markersize": 5}
    axes.boxplot(
        list(values.values()),
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        showmeans=True,
        widths=0.6,
        meanprops=mean,
        medianprops={"color": ORANGE, "linewidth": 2},
    )
    names = [f"{name.replace(' ', chr(10))}\n({c:+d})".replace("+0", "0") for c, name in CLASS_NAMES.items()]
    axes.set_yticks(range(1, len(values) + 1), list(values))
    axes.set_xticks(list(CLASS_NAMES), names)
    axes.set_xlim(min(CLASS_NAMES) - 0.1, max(CLASS_NAMES) + 0.1)
    axes.set_xlabel("box: quartiles; whiskers: 5 % and 95 %; line: median; diamond: mean")
    axes.grid(axis="x", alpha=0.3)
    _limit_height(axes, len(values))


def _limit_height(axes: Axes, rows: int) -> None:
    """Adds margins where fewer than four rows would fill the plot."""
    low, high = axes.get_ylim()
    room = max(0, 4 - rows) / 2
    axes.set_ylim(low - room, high + room)


def confusion(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """(28, 28): share of the texts with the row's emotion whose most probable emotion is the column's.

    A text with several true emotions counts in the row of each. Rows without texts are 0.
    """
    top = np.eye(len(EMOTIONS))[probabilities.argmax(1)]  # (N, 28)
    counts = (gold > 0).T.astype(float) @ top
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def confusion_plot(shares: np.ndarray, support: np.ndarray, path: Path) -> None:
    """A heat map of `confusion`, emotions by falling frequency, with shares of 9.5 % and more as numbers."""
    order = np.argsort(-support, kind="stable")
    names = [EMOTIONS[i] for i in order]
    figure = Figure(figsize=(12, 10.5), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares := shares[np.ix_(order, order)], cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares >= 0.095):
        share = shares[row, column]
        colour = "white" if share > 0.6 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    for i in range(len(order)):
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=ORANGE))
    axes.set_xticks(range(len(order)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(order)), [f"{n} ({support[i]:.0f})" for n, i in zip(names, order, strict=True)])
    axes.set(xlabel="most probable emotion", ylabel="true emotion (texts)")
    axes.set_title("Most probable emotion of the texts with each true emotion, % of the row (framed: the same emotion)")
    figure.colorbar(picture, shrink=0.6, format=PercentFormatter(1, 0), label="share of the row's texts")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
