"""How results are shown: one Markdown table and one plot for evaluations and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr.data.tables import atomic_path
from sealr.evaluate.protocols import CHANCE

PUBLISHED = "published: "  # starts the name of a system whose figures others report


@dataclass(frozen=True)
class Panel:
    """One set of bars: a row of ``table`` is a system, with its name in column ``system``.

    Rows whose name starts with ``chance`` become dashed lines. A column ``sd <metric>`` becomes error bars.
    """

    title: str
    table: pd.DataFrame
    metric: str = "NDCG@10"
    ceiling: float | None = None  # dotted line: the highest value that a re-ranker can reach
    log: bool = False  # logarithmic axis


def markdown_table(frame: pd.DataFrame) -> str:
    """A Markdown table that reads well as plain text: aligned columns, four decimals, a dash for a missing value."""
    rows = [[str(column) for column in frame], *([_cell(v) for v in row] for row in frame.itertuples(index=False))]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    rule = ["-" * (w - 1) + ":" if right else "-" * w for w, right in zip(widths, numeric, strict=True)]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        cells = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True)]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def plot(panels: Sequence[Panel], path: Path, title: str = "") -> None:
    """Writes a PNG with the panels side by side."""
    # Imported here because it is slow, and most callers of this module draw nothing
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 1.4 + 0.34 * max(len(panel.table) for panel in panels)
    figure = Figure(figsize=(8 * len(panels), height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel)
    if title:
        figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})


def _draw(axes: Any, panel: Panel) -> None:
    metric = panel.metric
    part = panel.table[panel.table[metric].notna()].iloc[::-1]  # the first row at the top
    is_chance = part["system"].str.startswith(CHANCE)
    chances, part = part[is_chance], part[~is_chance]
    published = part["system"].str.startswith(PUBLISHED)
    axes.barh(part["system"], part[metric], height=0.6, color=np.where(published, "lightgrey", "C0"))
    spread = np.nan_to_num(part.get(f"sd {metric}", pd.Series(np.nan, part.index)).to_numpy(dtype=float))
    for place, (value, extra) in enumerate(zip(part[metric], spread, strict=True)):
        if extra:
            axes.errorbar(value, place, xerr=extra, ecolor="black", capsize=2)
        text, box = (
            f"{value:.3g}" if panel.log else f"{value:.4f}",
            {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
        axes.annotate(
            text, (value + extra, place), (4, 0), textcoords="offset points", va="center", fontsize=8, bbox=box
        )
    for name, value in zip(chances["system"], chances[metric], strict=True):
        pool = name.rpartition(" ")[2] if len(chances) > 1 else ""  # such as Can50: chance depends on the pool size
        rows = np.flatnonzero(part["system"].str.contains(rf"\b{pool}\b"))
        label = f"chance {value:.4f} {pool}".strip()
        axes.vlines([value] * len(rows), rows - 0.5, rows + 0.5, "black", "--", label=label, linewidth=1)
    if panel.ceiling is not None:
        axes.axvline(panel.ceiling, color="grey", linestyle=":", linewidth=1, label=f"ceiling {panel.ceiling:.4f}")
    if panel.log:
        axes.set_xscale("log")
    axes.margins(x=0.25)  # room for the numbers
    axes.set_title(panel.title)
    axes.set_xlabel(metric)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")
