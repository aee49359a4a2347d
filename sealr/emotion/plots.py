"""Pictures of labels: their distribution on reviews, and the confusions of a labeller on GoEmotions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure  # without pyplot there is no window system and no global state
from matplotlib.ticker import PercentFormatter

from sealr.data.tables import EMOTIONS, atomic_path
from sealr.emotion.sentiment import CLASS_NAMES


def distribution_plot(labels: pd.DataFrame, path: Path, ratings: pd.Series | None = None) -> None:
    """Bars of the emotions and of the five sentiments (a bar a star where there are ratings), as a PNG."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    shares = labels["emotion"].value_counts(normalize=True).reindex(EMOTIONS, fill_value=0.0).sort_values()
    bars = left.barh(list(shares.index), shares.to_numpy(float))
    left.bar_label(bars, [f"{100 * v:.1f}" if v else "" for v in shares], padding=2, fontsize=8)
    left.xaxis.set_major_formatter(PercentFormatter(1, 0))
    left.margins(x=0.08, y=0.01)
    left.set_xlabel("share of labelled reviews")
    left.set_title("most probable emotion")
    stars = pd.Series(np.asarray(ratings, np.float64)) if ratings is not None else pd.Series(np.nan, index=range(len(labels)))
    known = labels["sentiment"].notna().to_numpy()
    groups = sorted(stars[known].dropna().round().unique()) or [None]
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(groups)))  # stars have an order, and so have these
    for i, star in enumerate(groups):
        rows = known if star is None else known & (stars.round() == star).to_numpy()
        share = labels["sentiment"][rows].astype(int).value_counts(normalize=True).reindex(list(CLASS_NAMES), fill_value=0.0)
        offset = (i - (len(groups) - 1) / 2) * 0.8 / len(groups)
        right.bar(
            np.arange(len(CLASS_NAMES)) + offset,
            share.to_numpy(float),
            0.8 / len(groups),
            color=colours[i],
            label=None if star is None else "1 star" if star == 1 else f"{star:.0f} stars",
        )
    right.set_xticks(range(len(CLASS_NAMES)), [n.replace(" ", "\n") for n in CLASS_NAMES.values()])
    right.set_ylabel("share of labelled reviews" if groups == [None] else "share within the rating")
    right.yaxis.set_major_formatter(PercentFormatter(1, 0))
    right.set_title("sentiment of that emotion")
    if groups != [None]:
        right.margins(y=0.2)  # room for the legend above the bars
        right.legend(ncols=3, loc="upper center")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def confusion(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """(28, 28): of the texts that have the row's emotion, the share whose most probable one is the column's.

    A text with several true emotions counts in the row of each. Rows without texts are 0.
    """
    top = np.eye(len(EMOTIONS))[probabilities.argmax(1)]  # (N, 28)
    counts = (gold > 0).T.astype(float) @ top
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def confusion_plot(shares: np.ndarray, support: np.ndarray, path: Path) -> None:
    """A heat map of `confusion`, emotions from the most to the least frequent, shares of .1 and more written out."""
    order = np.argsort(-support, kind="stable")
    names = [EMOTIONS[i] for i in order]
    figure = Figure(figsize=(12, 10.5), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares[np.ix_(order, order)], cmap="Blues", vmin=0, vmax=1)
    for row, i in enumerate(order):
        for column, j in enumerate(order):
            if shares[i, j] >= 0.095:
                colour = "white" if shares[i, j] > 0.6 else "black"
                axes.text(column, row, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(order)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(order)), [f"{n} ({support[i]:.0f})" for n, i in zip(names, order, strict=True)])
    axes.set_xlabel("most probable emotion")
    axes.set_ylabel("true emotion (texts)")
    axes.set_title("Share of the texts with an emotion by their most probable one, %")
    figure.colorbar(picture, shrink=0.6)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
