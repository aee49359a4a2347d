"""What ridge regression on the next item (`retrieve.model=transition`) finds alone, and beside trained retrievers.

``python -m benchmarks.transition --reviews R.parquet [--grid] [--part FOLDER ...]``

``sealr retrieve`` writes both: the reviews table of stage ``ingest``, and a folder of stage ``retriever``. Prints
Markdown. ``--grid`` compares settings on validation items. ``--part`` fuses the trained parts with co-occurrence and
EASE, without and with transition: weights come from validation items, figures from test items.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

from sealr.config import to_dict
from sealr.data.sequences import Sequences, build
from sealr.data.tables import read_table
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import paired_bootstrap, shown
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.fusion import fuse
from sealr.retrieve.models import build as build_model
from sealr.retrieve.retriever import Retriever, load, popularity
from sealr.settings import CooccurrenceSettings, EASESettings, RetrieveConfig, TransitionSettings

NEAR = RetrieveConfig(model="cooccurrence", cooccurrence=CooccurrenceSettings(decay=0.5))
EASE = RetrieveConfig(model="ease", ease=EASESettings(l2=100.0))
NEXT = RetrieveConfig(model="transition")


def counted(config: RetrieveConfig, sequences: Sequences) -> Retriever:
    """A retriever in closed form."""
    model: Any = build_model(config, sequences.n_items)
    model.fit(sequences)
    return Retriever(config, sequences.items, model.eval(), popularity(sequences))


def figures(ranks: np.ndarray) -> dict[str, float]:
    return {"HR@10": float(hit_rate(ranks, 10).mean()), "NDCG@10": float(ndcg(ranks, 10).mean())}


def grid(sequences: Sequences, decays: list[float], penalties: list[float]) -> pd.DataFrame:
    """Validation figures of EASE with a decay of its history's items, and of transition."""
    ease, rows = counted(EASE, sequences), []
    for decay in [1.0, *decays]:
        model: Any = ease.model
        model.decay = decay
        ranks = target_ranks(ease, sequences, "valid", True)
        rows.append({"model": "EASE", "decay": decay, "l2": EASE.ease.l2} | figures(ranks))
    for decay in decays:
        for l2 in penalties:
            made = counted(replace(NEXT, transition=TransitionSettings(decay, l2)), sequences)
            ranks = target_ranks(made, sequences, "valid", True)
            rows.append({"model": "transition", "decay": decay, "l2": l2} | figures(ranks))
    return pd.DataFrame(rows)


def beside(sequences: Sequences, trained: list[Retriever]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test figures of all parts and fusions, and differences between fusions."""
    near, ease, following = (counted(config, sequences) for config in (NEAR, EASE, NEXT))
    single = {part.config.model: part for part in (*trained, near, ease, following)}
    ranks = {name: target_ranks(part, sequences, "test", True) for name, part in single.items()}
    rows = [{"system": name, "weights": "", "validation": np.nan} | figures(found) for name, found in ranks.items()]
    fusions = {
        "fusion": [*trained, near, ease],
        "with transition": [*trained, near, ease, following],
        "trained and transition": [*trained, following],
        "first trained and transition": [trained[0], following],
    }
    for name, parts in fusions.items():
        changed = tuple({k: v for k, v in to_dict(part.config).items() if k != "parts"} for part in parts)
        config = replace(parts[0].config, model="fusion", parts=changed)
        with tempfile.TemporaryDirectory() as folder:
            made = fuse(config, parts, sequences, Path(folder)).metrics
            ranks[name] = target_ranks(load(Path(folder)), sequences, "test", True)
        weights = " ".join(f"{value:g}" for key, value in made.items() if key.startswith("weight"))
        rows.append({"system": name, "weights": weights, "validation": made["valid_ndcg@10"]} | figures(ranks[name]))
    compared = []
    for a, b in (*((name, "fusion") for name in [*fusions][1:]), ("first trained and transition", [*single][0])):
        gains = {
            name: shown(*paired_bootstrap(metric(ranks[a], 10), metric(ranks[b], 10)))
            for name, metric in (("HR@10", hit_rate), ("NDCG@10", ndcg))
        }
        compared.append({"difference on test": f"{a} minus {b}"} | gains)
    return pd.DataFrame(rows), pd.DataFrame(compared)


def main(
    reviews: Annotated[Path, typer.Option(help="Reviews table (Parquet) of a job.")],
    part: Annotated[list[Path] | None, typer.Option(help="Folder of a trained retriever; repeat for more.")] = None,
    settings: Annotated[bool, typer.Option("--grid", help="Compare settings on validation items.")] = False,
    decays: Annotated[str, typer.Option(help="Of the grid, separated by commas.")] = "0.6,0.8",
    penalties: Annotated[str, typer.Option(help="Of the grid, separated by commas.")] = "30,100,300",
    gate_share: Annotated[float, typer.Option(help="Of users whom nothing is chosen on, as in the job.")] = 0.25,
) -> None:
    """Print validation figures of settings, or test figures of fusions with and without the model."""
    sequences = build(read_table(reviews, "reviews", ("user", "item", "position"))).with_gate(gate_share)
    started = time.process_time()
    if settings:
        values = ([float(word) for word in text.split(",")] for text in (decays, penalties))
        print(markdown_table(grid(sequences, *values)))
    if part:
        for table in beside(sequences, [load(folder) for folder in part]):
            print(markdown_table(table))
    seconds, threads = time.process_time() - started, torch.get_num_threads()
    print(f"{len(sequences):,} users, {sequences.n_items:,} items, {seconds:.0f} s of CPU time, {threads} threads.")


if __name__ == "__main__":
    typer.run(main)
