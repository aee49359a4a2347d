"""The picture of accuracy against cost: which systems no other beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr.data.tables import atomic_path
from sealr.evaluate.comparison import Run, by_system
from sealr.pipeline.costs import Cost

FEWEST = 3  # systems that make a picture
METRIC = "NDCG@10"
AXES = {  # column: is more better, and what the axis says
    "lists/s": (True, "users a second of CPU time who get their list"),
    "seconds": (False, "seconds of training and ranking one seed"),
}
READING = (
    "A point is a system. Higher is more accurate, further right serves more users (left panel), and further left "
    "trains faster (right panel). No other system beats those on the dashed line, the Pareto front, in both."
)
STEPS = (6, 14, 24, 36, 50, 66, 84, 104)  # points between a name and what it names, tried in turn
SIDES = ((1, 0), (-1, 0), (0.7, 0.7), (0.7, -0.7), (-0.7, 0.7), (-0.7, -0.7), (0, 1), (0, -1))


def points(table: pd.DataFrame, runs: Sequence[Run], costs: Mapping[str, Cost]) -> pd.DataFrame:
    """One row a system that was run: system, METRIC, and NaN or a positive cost in each column of AXES.

    table: of the runs under the full protocol. Published figures have no costs and are left out.
    """
    accuracy = table.set_index("system")[METRIC]
    rows = []
    for system, group in by_system(runs).items():
        name = group[0].label or system
        if pd.notna(accuracy.get(name)):
            seconds = np.maximum(0.01, np.mean([run.seconds for run in group]))  # as fine as kept; an axis has no 0
            lists = costs[system].lists if system in costs else np.nan
            rows.append({"system": name, METRIC: accuracy[name], "lists/s": lists, "seconds": seconds})
    return pd.DataFrame(rows, columns=["system", METRIC, *AXES])


def front(values: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Indices, cheapest first, of the points that no other beats: with a higher value or a lower cost, and no worse."""
    ahead = (values[:, None] >= values) & (costs[:, None] <= costs)  # (N, N): row at least as good as column
    ahead &= (values[:, None] > values) | (costs[:, None] < costs)
    kept = np.flatnonzero(~ahead.any(axis=0))
    return kept[np.lexsort((values[kept], costs[kept]))]


def panels(made: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Column of AXES -> (its points, those on the front by ascending cost), where it has FEWEST points."""
    found = {}
    for column, (more, _) in AXES.items():
        part = made[made[column].notna()]
        if len(part) >= FEWEST:
            costs = part[column].to_numpy(dtype=float)
            found[column] = part, part.iloc[front(part[METRIC].to_numpy(dtype=float), -costs if more else costs)]
    return found


def picture(made: pd.DataFrame, path: Path, title: str) -> str:
    """Writes a PNG of ``points`` and returns its alternative text; without FEWEST points, neither, and ""."""
    # Imported here because it is slow, and most callers of this package draw nothing
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = panels(made)
    if not drawn:
        return ""
    figure = Figure(figsize=(8 * len(drawn), max(5, 1.4 + 0.24 * len(made))), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    places = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (column, (part, best)) in zip(places, drawn.items(), strict=True):
        more, words = AXES[column]
        axes.step(best[column], best[METRIC], "k--", where="post", linewidth=1, zorder=1, label="Pareto front")
        axes.scatter(part[column], part[METRIC], color=np.where(part.index.isin(best.index), "C0", "lightgrey"))
        axes.set_xscale("log")
        axes.margins(x=0.25, y=0.1)  # room for the names
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_title(f"{METRIC} against {column}")
        axes.set_xlabel(words)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)
    figure.suptitle(title)
    figure.draw_without_rendering()  # names are placed on the final axes
    figure.set_layout_engine("none")
    for axes, (column, (part, _)) in zip(places, drawn.items(), strict=True):
        _name(axes, canvas.get_renderer(), part["system"].tolist(), part[[column, METRIC]].to_numpy(dtype=float))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})
    fronts = (f"on the front against {column}: {', '.join(best['system'])}" for column, (_, best) in drawn.items())
    return f"{METRIC} against costs; {'; '.join(fronts)}"


def _name(axes: Any, renderer: Any, names: Sequence[str], spots: np.ndarray) -> None:
    """Writes each name beside its point, or further off with a line, where it covers no point and no other name.

    spots (N, 2): coordinates of the points in data.
    """
    from matplotlib.transforms import Bbox

    frame, pixel = axes.bbox, axes.figure.dpi / 72  # pixels a point, the unit of offsets and fonts
    pixels = axes.transData.transform(spots)
    taken = [Bbox.from_bounds(x - 4 * pixel, y - 4 * pixel, 8 * pixel, 8 * pixel) for x, y in pixels]
    sides = {-1: "right", 0: "center", 1: "left"}  # which end of a name is next to its point
    for number in np.argsort(-spots[:, 1], kind="stable"):
        measured = axes.text(0, 0, names[number], fontsize=8)
        size = measured.get_window_extent(renderer)
        measured.remove()
        for step, (right, up) in product(STEPS, SIDES):
            x, y = pixels[number] + step * pixel * np.array([right, up])
            corner = x - size.width * (1 - np.sign(right)) / 2, y - size.height / 2
            box = Bbox.from_bounds(*corner, size.width, size.height).padded(pixel)
            if frame.contains(*box.min) and frame.contains(*box.max) and not box.count_overlaps(taken):
                break
        taken.append(box)
        given: dict[str, Any] = {"xytext": (step * right, step * up), "textcoords": "offset points"}
        if step > STEPS[0]:  # below all names
            line = {"arrowstyle": "-", "color": "grey", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", spots[number], **given, zorder=1, arrowprops=line)
        white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        given |= {"ha": sides[np.sign(right)], "va": "center", "fontsize": 8, "bbox": white}
        axes.annotate(names[number], spots[number], **given)
