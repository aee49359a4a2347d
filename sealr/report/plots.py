"""Plots as inline SVG, drawn by matplotlib in the colours of the page, which differ between light and dark."""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sealr.evaluate.statistics import Interval

WIDTH = 4.7  # inches: the width of a phone, so that texts are not scaled down there
# Stand for the variables of style.css: matplotlib knows no variables
INK, MUTED, GRID, PAGE = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0501{number:02d}" for number in range(1, 6))
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAGE: "page",
    **{c: f"series-{n}" for n, c in enumerate(SERIES, 1)},
}
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))  # lines differ without colour, too
MARKERS = "osD^v"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, which can be read aloud and searched
    "svg.hashsalt": "sealr",
    "text.parse_math": False,  # names of the data may hold dollar signs
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


def bars(values: Sequence[tuple[str, int]], xlabel: str, ylabel: str, alt: str) -> Markup:
    """Upright bars of counts in their order."""
    with drawing(2.5) as (figure, axes):
        axes.bar(range(len(values)), [count for _, count in values], color=SERIES[0], width=0.85)
        step = max(1, math.ceil(max(len(name) for name, _ in values) * len(values) / 30))
        places = range(0, len(values), step)
        axes.set_xticks(places, [values[place][0] for place in places])
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
        axes.grid(False, axis="x")
        axes.set(xlabel=xlabel, ylabel=ylabel)
        return svg(figure, alt)


def share_curve(points: Sequence[tuple[float, float]], xlabel: str, ylabel: str, alt: str) -> Markup:
    """A line of shares from (0, 0) to (1, 1), beside the diagonal of equal shares."""
    with drawing(2.5) as (figure, axes):
        axes.plot(*np.transpose(points), color=SERIES[0])
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, 0))
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=xlabel, ylabel=ylabel)
        return svg(figure, alt)


def curves(lines: Mapping[str, Sequence[tuple[int, float]]], best: Mapping[str, int], ylabel: str, alt: str) -> Markup:
    """A line for each name by epoch; a ring at its ``best`` epoch, if there is one."""
    with drawing(2.7 + 0.17 * len(lines)) as (figure, axes):
        for number, (name, points) in enumerate(lines.items()):
            epochs, values = np.transpose(points)
            colour, dash = SERIES[number % len(SERIES)], DASHES[number % len(DASHES)]
            marker = MARKERS[number % len(MARKERS)] if len(points) < 4 else ""
            axes.plot(epochs, values, color=colour, linestyle=dash, label=name, marker=marker, linewidth=1.4)
            if best.get(name) in epochs:
                at = values[list(epochs).index(best[name])]
                axes.plot(best[name], at, "o", color=colour, markerfacecolor="none", markersize=8)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set(xlabel="epoch", ylabel=ylabel)
        if len(lines) > 1:
            legend(axes)
        return svg(figure, alt)


def intervals(groups: Mapping[str, Mapping[str, Interval]], xlabel: str, alt: str, zero: bool = True) -> Markup:
    """Dots with 95 % intervals. groups: name of a series -> label -> (mean, low, high). zero: draw a line at 0."""
    labels = list(dict.fromkeys(label for group in groups.values() for label in group))
    with drawing(0.95 + 0.3 * len(labels) * max(1.0, len(groups) * 0.7) + 0.17 * len(groups)) as (figure, axes):
        for number, (name, values) in enumerate(groups.items()):
            shift = (number - (len(groups) - 1) / 2) * 0.28
            for label, (mean, low, high) in values.items():
                place = labels.index(label) + shift
                if not np.isnan(low):
                    axes.plot([low, high], [place, place], color=SERIES[number], linewidth=1.6)
                axes.plot(mean, place, MARKERS[number], color=SERIES[number], markersize=5)
            axes.plot([], [], MARKERS[number], color=SERIES[number], linestyle="-", label=name)
        if zero:
            axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(False, axis="y")
        axes.set_xlabel(xlabel)
        if len(groups) > 1:
            legend(axes)
        return svg(figure, alt)


def levels(values: Mapping[str, float], lines: Mapping[str, float], xlabel: str, alt: str) -> Markup:
    """Lying bars with their numbers, and upright lines such as a ceiling or chance."""
    with drawing(0.9 + 0.3 * len(values) + 0.17 * bool(lines)) as (figure, axes):
        drawn = axes.barh(list(values), list(values.values()), color=SERIES[0], height=0.62)
        box = {"facecolor": PAGE, "edgecolor": "none", "pad": 0.8}  # a line may cross the number
        axes.bar_label(
            drawn, [f"{value:.4f}" for value in values.values()], padding=3, fontsize=9.5, bbox=box, zorder=3
        )
        for number, (name, value) in enumerate(lines.items()):
            axes.axvline(value, color=INK, linestyle=DASHES[number + 1], linewidth=1.2, label=f"{name} {value:.4f}")
        axes.invert_yaxis()
        axes.set_xlim(0, 1.2 * max([*values.values(), *lines.values(), 1e-6]))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(False, axis="y")
        axes.set_xlabel(xlabel)
        if lines:
            legend(axes)
        return svg(figure, alt)


def frontier(lines: Mapping[str, Sequence[tuple[float, float, float]]], chosen: float, alt: str) -> Markup:
    """A line for each name over (weight, x, y), the weights beside the points, and a ring at the chosen one."""
    with drawing(3.6) as (figure, axes):
        for number, (name, rows) in enumerate(lines.items()):
            weights, x, y = np.transpose(rows)
            style: dict[str, Any] = {"color": SERIES[number], "marker": MARKERS[number], "linestyle": DASHES[number]}
            axes.plot(x, y, label=name, markersize=4, linewidth=1.2, **style)
            if number == 0:
                for weight, *at in apart(rows, np.ptp(x) / 12, np.ptp(y) / 12):
                    axes.annotate(
                        f"{weight:g}", (at[0], at[1]), (4, 4), textcoords="offset points", fontsize=9, color=MUTED
                    )
                ringed = rows[list(weights).index(chosen)]
                axes.plot(ringed[1], ringed[2], "o", markerfacecolor="none", color=INK, markersize=10)
        axes.set(xlabel="HR@10, all test targets", ylabel="HR@10, liked minus disliked")
        legend(axes)
        return svg(figure, alt)


def apart(rows: Iterable[tuple[float, float, float]], wide: float, high: float) -> list[tuple[float, float, float]]:
    """The (weight, x, y) that are not within ``wide`` and ``high`` of one before, so that their labels can be read."""
    kept: list[tuple[float, float, float]] = []
    for row in rows:
        if all(abs(row[1] - x) > wide or abs(row[2] - y) > high for _, x, y in kept):
            kept.append(row)
    return kept


def legend(axes: Axes) -> None:
    """Below the plot, one name a line."""
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.02), bbox_transform=below(axes), ncols=1, fontsize=9.5)


def below(axes: Axes) -> Any:
    """Coordinates whose origin is under the label of the x axis."""
    return axes.transAxes + matplotlib.transforms.ScaledTranslation(0, -0.42, axes.figure.dpi_scale_trans)


@contextmanager
def drawing(height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of ``height`` inches and its axes, in the style of the page."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots()


def svg(figure: Figure, alt: str) -> Markup:
    """The figure as an <svg> element with the text ``alt`` for those who do not see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for unwanted in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r"font-family: [^;\"]*;? ?",
        r'(?<=<g) id="[^"]*"',
    ):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    text = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest  # as wide as the page allows
    own = f"s{zlib.crc32(text.encode()):08x}-"  # ids are unique in the page
    text = re.sub(r'( id="|="#|url\(#)', rf"\g<1>{own}", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return Markup(text.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(alt), 1))
