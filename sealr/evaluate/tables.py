"""The paper's Tables 2 and 3 and Figure 4: our cells with the paper's figures beside them, one frame a protocol, and plots.

The paper's retrievers are ranked over the whole catalogue (its section 3.1.3). Its LLM rows cannot be: they are above the share
of targets that any retriever of theirs puts into 50 candidates, and they follow 10 / C. So each stands beside our figures of
the protocol that it can be compared with: retrievers under ``full``, LLM rows under ``injected``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr.data.tables import atomic_path
from sealr.evaluate.metrics import chance, ndcg, summary
from sealr.evaluate.protocols import CHANCE, INVERTED, RETRIEVER
from sealr.evaluate.statistics import paired_bootstrap, shown

METRICS = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")
FULL, INJECTED = "full", "injected"
BESIDE = {FULL: "retriever", INJECTED: "chance"}  # what NDCG@10 stands beside, with an interval over users


@dataclass(frozen=True)
class Cell:
    """A row of a table: one system, and what it reached under each protocol."""

    system: str
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # protocol -> metric -> value
    users: int = 0
    paper: str = ""  # which of the paper's rows it belongs to
    differences: Mapping[str, Sequence[float]] = field(default_factory=dict)  # protocol -> NDCG@10 minus that of BESIDE: mean, low, high
    note: str = ""  # why it could not be run, or what is special about it


@dataclass(frozen=True)
class Timing:
    """A ranker of Figure 4."""

    system: str
    train_seconds: float  # a prompt and epoch
    rank_seconds: float  # a list


def retriever_cell(system: str, ranks: np.ndarray, candidates: int, llms: np.ndarray | None = None) -> Cell:
    """A retriever by itself. ranks (N,): the targets' in the whole catalogue, 0 where masked. llms (N,): those of the LLM's retriever.

    Under ``injected`` its first C items are kept in its own order, and a target that is not among them takes the last place.
    """
    inside = (ranks >= 1) & (ranks <= candidates)
    last = np.where(inside, ranks, candidates)
    differences = {INJECTED: paired_bootstrap(ndcg(last, 10), np.full(len(ranks), chance(candidates, 10)[1]))}
    if llms is not None:
        differences[FULL] = paired_bootstrap(ndcg(ranks, 10), ndcg(llms, 10))
    return Cell(system, {FULL: summary(ranks), INJECTED: summary(last)}, len(ranks), system, differences)


def reranker_cells(system: str, results: Mapping[str, Any], ranker: str) -> list[Cell]:
    """The LLM alone, and fused with the retriever, from an evaluation's results.json. ranker: its name there."""
    cells = []
    for name, label, paper in ((ranker, system, system), ("fused", f"{system}, fused", "")):
        found = {str(r["protocol"]): r for r in results["rows"] if r["system"] == name}
        known = {p: f"NDCG@10, {name} minus {beside}{', injected' * (p == INJECTED)}" for p, beside in BESIDE.items()}
        differences = {p: results["differences"][key] for p, key in known.items()}
        metrics = {p: {m: float(found[p][m]) for m in METRICS} for p in (FULL, INJECTED) if p in found}
        cells.append(Cell(label, metrics, int(found[FULL]["users"]), paper, differences))
    return cells


def reference_cells(rows: Sequence[Mapping[str, object]], candidates: int) -> list[Cell]:
    """What every figure under ``injected`` stands beside: chance, and the retriever's own order, inverted or not."""
    names = {CHANCE: "random order", RETRIEVER: "retriever's order", INVERTED: "retriever's order inverted"}
    found = [r for r in rows if r["protocol"] == INJECTED and r["system"] in names]
    return [
        Cell(f"{names[str(r['system'])]}, Can{candidates}", {INJECTED: {m: float(r[m]) for m in METRICS}}, int(r["users"]))
        for r in found
    ]


def frame(
    cells: Sequence[Cell], protocol: str, published: Mapping[str, Sequence[float]], metrics: Sequence[str] = METRICS
) -> pd.DataFrame:
    """A row a cell that has figures under the protocol, or a note: system, users, metrics, what NDCG@10 is
    beside the retriever's or chance, the paper's, and the note.

    published: by the names of the paper's rows, values in the order of METRICS, those that this protocol can be compared with.
    """
    rows, beside = [], f"NDCG@10 minus {BESIDE[protocol]}"
    for cell in cells:
        ours = cell.metrics.get(protocol)
        if ours is None and not cell.note:
            continue
        row: dict[str, object] = {"system": cell.system, "users": cell.users or None}
        row |= {m: ours[m] if ours else None for m in metrics}
        theirs = dict(zip(METRICS, published.get(cell.paper, ()), strict=False))
        row[beside] = shown(*cell.differences[protocol]) if protocol in cell.differences else None
        row |= {f"paper {m}": theirs.get(m) for m in metrics} | {"note": cell.note or None}
        rows.append(row)
    table = pd.DataFrame(rows, columns=["system", "users", *metrics, beside, *(f"paper {m}" for m in metrics), "note"])
    numbers = [c for c in table if c not in ("system", "users", beside, "note")]
    table[numbers] = table[numbers].astype("float64")
    table["users"] = pd.Series([row["users"] for row in rows], dtype=object)  # whole numbers, and none
    return table.drop(columns=["note"]) if table["note"].isna().all() else table


def timing_frame(timings: Sequence[Timing], users: int, prompts: int) -> pd.DataFrame:
    """Seconds by prompt and list, and hours for all ``prompts`` of an epoch and all ``users``, with ratios to the first system."""
    rows = []
    for timing in timings:
        row: dict[str, object] = {"system": timing.system}
        for what, seconds, count in (("training", timing.train_seconds, prompts), ("inference", timing.rank_seconds, users)):
            row[f"{what}, s each"] = seconds
            row[f"{what}, hours for {count:,}"] = seconds * count / 3600
        rows.append(row)
    table = pd.DataFrame(rows)
    for what in ("training", "inference"):
        table[f"{what}, times faster"] = table[f"{what}, s each"].iloc[0] / table[f"{what}, s each"]
    return table


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Rows for JSON, null where there is no figure."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def plot(tables: Mapping[str, pd.DataFrame], title: str, path: Path, metric: str = "NDCG@10") -> None:
    """Writes a PNG: a panel a protocol, a bar a system, the paper's figure as a hollow bar, and chance dashed, each for its pools."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: it is slow to import
    from matplotlib.figure import Figure

    height = 1.4 + 0.34 * max(len(t) for t in tables.values())
    figure = Figure(figsize=(7 * len(tables), height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (protocol, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        part = table[table[metric].notna()].iloc[::-1]
        random = part["system"].str.startswith("random order")
        chances, part = part[random], part[~random]
        for name, value in zip(chances["system"], chances[metric], strict=True):
            pool = name.rpartition(" ")[2] if len(chances) > 1 else ""  # such as Can50: chance depends on it
            beside = np.flatnonzero(part["system"].str.contains(rf"\b{pool}\b"))
            label = f"chance {value:.4f} {pool}"
            axes.vlines([value] * len(beside), beside - 0.5, beside + 0.5, "black", "--", label=label, linewidth=1)
        bars = axes.barh(part["system"], part[metric], color="C0", height=0.5, label="ours")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # over the dashed lines
        axes.bar_label(bars, fmt="%.4f", fontsize=8, padding=3, bbox=box, zorder=3)
        theirs = part[f"paper {metric}"]
        if theirs.notna().any():
            axes.barh(part["system"], theirs.fillna(0.0), height=0.8, fill=False, edgecolor="C3", label="the paper")
        axes.margins(x=0.15)
        axes.set_title(protocol)
        axes.set_xlabel(metric)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)  # below: bars are long
    figure.suptitle(title)
    _save(figure, path)


def plot_times(table: pd.DataFrame, title: str, path: Path) -> None:
    """Writes a PNG: seconds a prompt in training and a list in inference, on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.6 + 0.5 * len(table)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (what, unit) in zip(figure.subplots(1, 2), (("training", "prompt and epoch"), ("inference", "list")), strict=True):
        part = table.iloc[::-1]
        bars = axes.barh(part["system"], part[f"{what}, s each"], color="C0")
        pairs = zip(part[f"{what}, s each"], part[f"{what}, times faster"], strict=True)
        labels = [f"{seconds:.3g} s ({ratio:.1f}x)" for seconds, ratio in pairs]
        axes.bar_label(bars, labels, fontsize=8, padding=3)
        axes.set_xscale("log")
        axes.set_xlim(right=12 * part[f"{what}, s each"].max())  # room for the labels
        axes.set_xlabel(f"{what}: seconds a {unit}")
    figure.suptitle(title)
    _save(figure, path)


def _save(figure: object, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})
