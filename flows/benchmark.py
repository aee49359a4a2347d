"""Comparisons on real data, from the data files to a table: ``mlflow run . -e benchmark -P table=retrievers``.

A table is a YAML in ``benchmarks/``. Every cell, one system trained with one seed, is a stage of its own: what was done
before is not done again, and a killed run goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from prefect import flow

from sealr.flows import steps
from sealr.pipeline.job import Job
from sealr.pipeline.inputs import read_sequences
from sealr.flows.job import Overrides, open_job, run
from sealr.flows.papertables import PAPER, paper_table
from sealr.pipeline.retrievers import parts_of, train_retriever
from sealr.flows.sheets import report, write
from sealr.flows.specs import configuration, read_spec, wanted
from sealr.flows.wholesystem import WHOLE, whole_system
from sealr.config import ConfigError
from sealr.data.manifest import state_dir
from sealr.data.tables import read_table
from sealr.evaluate import retrievers as comparing
from sealr.evaluate.report import markdown_table
from sealr.evaluate.retrievers import Trained
from sealr.retrieve.feelings import feelings


@flow(name="benchmark", flow_run_name="benchmark-{table}")
def benchmark(table: str = "retrievers", data: str = "", only: str = "", overrides: str = "") -> None:
    """Trains what a table of benchmarks/ asks for and writes its Markdown and plot.

    data, only: comma-separated data sets and systems; empty for all of the table.
    """
    spec = read_spec(table)
    for name in wanted(data, spec, "data set"):
        with open_job(f"benchmark-{table}", name, "", overrides) as job:
            compare(job, spec[name], only, state_dir() / "benchmarks" / f"{table}-{name}")


def compare(job: Job, spec: dict[str, Any], only: str, folder: Path) -> None:
    """All cells of one data set, then results.md, results.json and results.png in ``folder`` and in the job's MLflow run."""
    systems = {name: dict(settings) for name, settings in spec["systems"].items()}
    reviews = steps.ingest(job)
    labels = steps.label(job, reviews) if spec.get("labels") else None
    trained, kept = [], []
    for name in wanted(only, systems, "system"):
        for seed in range(systems[name].pop("seeds", 1)):
            config = configuration(job.config.retrieve, name, systems, seed)
            if config.tuning_users == "whole":
                raise ConfigError(
                    "this table judges retrievers on all users, of whom retrieve.tuning_users=whole would train some on their test item"
                )
            made = train_retriever(job, config, reviews, labels, name)
            seconds = made.seconds + sum(train_retriever(job, part, reviews, labels).seconds for part in parts_of(config))
            for runs, file, covered in (
                (trained, "test_ranks.npy", made.metrics["coverage@10"]),
                (kept, "test_ranks_kept.npy", np.nan),  # the metric is of lists without what was seen
            ):
                runs.append(Trained(name, seed, np.load(made.path(file), allow_pickle=False), covered, seconds))
    sequences = read_sequences(reviews)
    felt = None
    if labels is not None:
        known = feelings(read_table(labels.path("labels.parquet"), "labels"), sequences, "class", 0)
        felt = known[sequences.split("test").ends, 0]
    table = comparing.comparison(trained, felt, spec.get("published", {}))
    text = report(job, spec, table, comparing.differences(trained, spec.get("compare", [])))
    if any((a.ranks != b.ranks).any() and (a.ranks == 0).any() for a, b in zip(trained, kept, strict=True)):
        again = comparing.comparison(kept, felt, spec.get("published_kept", {}))
        text += f"\nThe same models with the items of the history kept as candidates (repeats count):\n\n{markdown_table(again)}"
    write(folder, job, table, text)
    print(f"\n{text}\nfiles: {folder}")


def main(
    table: Annotated[str, typer.Option(help="retrievers; sealr, the whole system; or 2 or 3, the paper's.")] = "retrievers",
    figure: Annotated[str, typer.Option(help="4 for the paper's Figure 4, in place of a table.")] = "",
    data: Annotated[str, typer.Option(help="Comma-separated data sets of the table; empty: all.")] = "",
    only: Annotated[str, typer.Option(help="Comma-separated systems of the table; empty: all.")] = "",
    overrides: Overrides = "",
) -> None:
    """Train what a comparison asks for and write its table and plot."""
    name = f"figure{figure}" if figure else f"table{table}" if table.isdecimal() else table
    if name == WHOLE:
        if only:
            raise typer.BadParameter(f"the table {WHOLE} has no systems to choose from, only configurations: use --data")
        run(whole_system, data=data, overrides=overrides)
    else:
        run(paper_table if name in PAPER else benchmark, table=name, data=data, only=only, overrides=overrides)


if __name__ == "__main__":
    typer.run(main)
