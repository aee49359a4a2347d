"""Pictures of labels: their distribution on reviews, and the confusions of a labeller on GoEmotions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot there is no window system and no global state
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from sealr.data.tables import EMOTIONS, atomic_path
from sealr.emotion.sentiment import CLASS_NAMES

# a colour for each sentiment class, in their order: two hues that colour-blind readers tell apart, and grey between them
COLOURS = dict(zip(CLASS_NAMES, ("#9b1c31", "#e99a86", "#c9c9c9", "#86b8dc", "#1f5a99"), strict=True))
PALE = (-1, 0, 1)  # classes on whose colour black can be read


def distribution_plot(labels: pd.DataFrame, path: Path, ratings: pd.Series | None = None) -> None:
    """Bars of the emotions, of the five sentiments, and the expected sentiment, the latter two by star, as a PNG."""
    known = labels["sentiment"].notna().to_numpy()
    stars = pd.Series(np.asarray(ratings, np.float64)) if ratings is not None else pd.Series(np.nan, index=range(len(labels)))
    rows = {f"all ({known.sum():,})": known}
    for star in sorted(stars[known].dropna().round().unique()):
        of = known & (stars.round() == star).to_numpy()
        rows[f"{star:.0f} star{'' if star == 1 else 's'} ({of.sum():,})"] = of
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    axes = figure.subplot_mosaic([["emotions", "classes"], ["emotions", "expected"]], width_ratios=(1, 1))
    _emotions(axes["emotions"], labels[known])
    by = ", by rating (reviews)" if len(rows) > 1 else ""
    axes["classes"].set_title(f"Sentiment class of that emotion{by}")
    axes["expected"].set_title(f"Expected sentiment{by}")
    _classes(axes["classes"], [labels["sentiment"][of].astype(int) for of in rows.values()], list(rows))
    _expected(axes["expected"], [labels["expected"][of].to_numpy(float) for of in rows.values()], list(rows))
    legend = [Patch(color=COLOURS[c], label=name) for c, name in CLASS_NAMES.items()]
    figure.legend(handles=legend, loc="outside upper center", ncols=len(legend), title="sentiment class", frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _emotions(axes: Axes, labels: pd.DataFrame) -> None:
    """How often each emotion is the most probable one, in the colour of its class."""
    shares = labels["emotion"].value_counts(normalize=True).reindex(EMOTIONS, fill_value=0.0).sort_values()
    classes = labels.groupby("emotion")["sentiment"].first()
    bars = axes.barh(list(shares.index), shares.to_numpy(float), color=[COLOURS[int(classes.get(e, 0))] for e in shares.index])
    axes.bar_label(bars, [f"{100 * v:.1f}" if v >= 0.0005 else "< 0.1" if v else "0" for v in shares], padding=2, fontsize=8)
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.margins(x=0.08, y=0.01)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of labelled reviews")
    axes.set_title("Most probable emotion")


def _classes(axes: Axes, sentiments: list[pd.Series], rows: list[str]) -> None:
    """A bar of the five classes for each row."""
    shares = np.array([[(s == c).sum() / max(1, len(s)) for c in CLASS_NAMES] for s in sentiments])  # (rows, 5)
    left = np.zeros(len(rows))
    for column, c in enumerate(CLASS_NAMES):
        bars = axes.barh(rows, shares[:, column], left=left, color=COLOURS[c])
        texts = [f"{100 * v:.0f}" if v >= 0.035 else "" for v in shares[:, column]]
        axes.bar_label(bars, texts, label_type="center", fontsize=9, color="black" if c in PALE else "white")
        left += shares[:, column]
    axes.set_xlim(0, 1)
    _few(axes, len(rows))
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.set_xlabel("share of the row's reviews")


def _expected(axes: Axes, values: list[np.ndarray], rows: list[str]) -> None:
    """A box of the expected sentiment for each row: quartiles, whiskers to the 5th and 95th percentile, and the mean."""
    mean = {"marker": "D", "markerfacecolor": "black", "markeredgecolor": "black", "markersize": 5}
    style = {"color": "#e07b00", "linewidth": 2}
    axes.boxplot(
        values, orientation="horizontal", whis=(5, 95), showfliers=False, showmeans=True, widths=0.6, meanprops=mean, medianprops=style
    )
    axes.set_yticks(range(1, len(rows) + 1), rows)
    axes.set_xlim(min(CLASS_NAMES) - 0.1, max(CLASS_NAMES) + 0.1)
    axes.set_xticks(list(CLASS_NAMES), [f"{name.replace(' ', chr(10))}\n({c:+d})".replace("+0", "0") for c, name in CLASS_NAMES.items()])
    _few(axes, len(rows))
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("box: quartiles; whiskers: 5 % and 95 %; line: median; diamond: mean")


def _few(axes: Axes, rows: int) -> None:
    """Margins for rows that would fill their picture: no bar is taller than a quarter of it."""
    low, high = axes.get_ylim()
    room = max(0, 4 - rows) / 2
    axes.set_ylim(low - room, high + room)


def confusion(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """(28, 28): of the texts that have the row's emotion, the share whose most probable one is the column's.

    A text with several true emotions counts in the row of each. Rows without texts are 0.
    """
    top = np.eye(len(EMOTIONS))[probabilities.argmax(1)]  # (N, 28)
    counts = (gold > 0).T.astype(float) @ top
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def confusion_plot(shares: np.ndarray, support: np.ndarray, path: Path) -> None:
    """A heat map of `confusion`, emotions from the most to the least frequent, shares of 9.5 % and more written out."""
    order = np.argsort(-support, kind="stable")
    names = [EMOTIONS[i] for i in order]
    figure = Figure(figsize=(12, 10.5), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares[np.ix_(order, order)], cmap="Blues", vmin=0, vmax=1)
    for row, i in enumerate(order):
        for column, j in enumerate(order):
            if i == j:
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#e07b00"))
            if shares[i, j] >= 0.095:
                colour = "white" if shares[i, j] > 0.6 else "black"
                axes.text(column, row, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(order)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(order)), [f"{n} ({support[i]:.0f})" for n, i in zip(names, order, strict=True)])
    axes.set_xlabel("most probable emotion")
    axes.set_ylabel("true emotion (texts)")
    axes.set_title("Most probable emotion of the texts with each true emotion, % of the row (framed: the same)")
    figure.colorbar(picture, shrink=0.6, format=PercentFormatter(1, 0), label="share of the row's texts")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
