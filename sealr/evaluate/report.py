"""Tables and the figure that compare systems under each protocol, from rows as ``Protocol.rows`` gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sealr.data.tables import atomic_path
from sealr.evaluate.protocols import CHANCE

Rows = Iterable[Mapping[str, Any]] | pd.DataFrame
FIRST, LAST = ["protocol", "system", "users"], ["ceiling"]


def metrics_table(rows: Rows) -> pd.DataFrame:
    """Rows {protocol, system, users, "HR@5", ...} as a frame: names first, the ceiling last, the rest as they came."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    missing = [c for c in FIRST if c not in frame]
    if missing:
        raise ValueError(f"a metrics table needs column {missing[0]!r}")
    middle = [c for c in frame if c not in FIRST + LAST]
    return frame[FIRST + middle + [c for c in LAST if c in frame]]


def markdown(rows: Rows) -> str:
    """A Markdown table, four decimals, aligned so that it reads as plain text as well; a dash where there is no value."""
    return markdown_table(metrics_table(rows))


def markdown_table(frame: pd.DataFrame) -> str:
    """Any frame as ``markdown`` writes a metrics table."""
    cells = _cells(frame)
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(cells[0]))]
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) for c in frame]
    rule = ["-" * (w - 1) + ":" if n else "-" * w for w, n in zip(widths, numeric, strict=True)]
    lines = ["| " + " | ".join(_aligned(row, widths, numeric)) + " |" for row in [cells[0], rule, *cells[1:]]]
    return "\n".join(lines) + "\n"


def plot(rows: Rows, path: Path, metric: str = "NDCG@10") -> None:
    """Writes a PNG: a panel a protocol, a bar a system, the chance line dashed, the ceiling of two-stage systems dotted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: it is slow to import, and most callers draw nothing
    from matplotlib.figure import Figure

    frame = metrics_table(rows)
    protocols = list(dict.fromkeys(frame["protocol"]))
    colours = {system: f"C{i}" for i, system in enumerate(dict.fromkeys(frame["system"]))}  # the same in every panel
    figure = Figure(figsize=(1.5 + 3.5 * len(protocols), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, protocol in zip(figure.subplots(1, len(protocols), squeeze=False)[0], protocols, strict=True):
        part = frame[frame["protocol"] == protocol]
        systems = part[part["system"] != CHANCE]
        bars = axes.bar(range(len(systems)), systems[metric], color=[colours[s] for s in systems["system"]])
        axes.bar_label(bars, fmt="%.4f", fontsize=8)
        axes.set_xticks(range(len(systems)), systems["system"], rotation=30, ha="right")
        for value in part.loc[part["system"] == CHANCE, metric]:
            axes.axhline(value, color="black", linestyle="--", linewidth=1, label=f"chance {value:.4f}")
        # Where all users count, no re-ranker's HR or NDCG can be above the share of targets that were retrieved
        if protocol == "full" and "ceiling" in part and part["ceiling"].notna().any():
            ceiling = float(part["ceiling"].dropna().iloc[0])
            axes.axhline(ceiling, color="grey", linestyle=":", linewidth=1, label=f"ceiling {ceiling:.4f}")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        axes.margins(y=0.15)
        axes.set_title(f"{protocol} ({int(part['users'].iloc[0]):,} users)")
    figure.supylabel(metric)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix.lstrip(".") or "png", metadata={"Software": None})


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    """Header and rows as text."""
    return [[str(c) for c in frame]] + [[_shown(v) for v in row] for row in frame.itertuples(index=False)]


def _shown(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _aligned(row: list[str], widths: list[int], numeric: list[bool]) -> list[str]:
    return [cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(row, widths, numeric, strict=True)]
