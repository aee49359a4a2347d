"""Parts of the chain as flows of their own, each up to the stage it is named after.

``python -m sealr.flows.stages retrieve --data demo`` or ``mlflow run . -e retrieve -P data=demo``. Stages that did not change
are skipped, so the flows share their work with each other and with the main job.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from prefect import flow

from sealr.flows import steps
from sealr.flows.job import Base, Data, Overrides, open_job, run
from sealr.pipeline.retrievers import reads_feelings
from sealr import tracking
from sealr.data.manifest import Manifest
from sealr.pipeline.stages import through_evaluation
from sealr.data.prune import remove, unused
from sealr.redact import redact
from sealr.registry.promote import stage_keys

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@flow(name="ingest", flow_run_name="ingest-{data}")
def ingest(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Read, clean and validate the reviews."""
    with open_job("ingest", data, base, overrides) as job:
        report(steps.ingest(job))


@flow(name="label", flow_run_name="label-{data}")
def label(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Ingest, then label every review with an emotion and a sentiment."""
    with open_job("label", data, base, overrides) as job:
        report(steps.label(job, steps.ingest(job)))


@flow(name="retrieve", flow_run_name="retrieve-{data}")
def retrieve(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Ingest, then train the retriever and write candidate pools."""
    with open_job("retrieve", data, base, overrides) as job:
        reviews = steps.ingest(job)
        labels = steps.label(job, reviews) if reads_feelings(job.config.retrieve) else None
        report(steps.retrieve(job, reviews, labels))


@flow(name="evaluate", flow_run_name="evaluate-{data}")
def evaluate(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Everything but registration: metrics of retriever and re-ranker under three protocols."""
    with open_job("evaluate", data, base, overrides) as job:
        print("\n" + through_evaluation(job, steps)["results"].path("results.md").read_text(encoding="utf-8"))


def report(manifest: Manifest) -> None:
    """Row counts and metrics of a stage, and where its tables are."""
    for name, value in {**manifest.rows, **manifest.metrics}.items():
        print(f"  {name:32} {value:,}" if isinstance(value, int) else f"  {name:32} {value:.4f}")
    print(f"  files: {', '.join(sorted(manifest.files))} in {manifest.folder}")


@app.command()
def prune(
    keep: Annotated[int, typer.Option(min=1, help="Jobs of each data set, newest first, whose stages are kept.")] = 2,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without this they are only listed.")] = False,
) -> None:
    """List, or remove, stage folders that no registered version and none of the last jobs refers to."""
    try:
        found = unused(tracking.stage_keys(keep) | stage_keys())
    except tracking.TrackingError as error:  # without the references nothing may be called unused
        raise SystemExit(redact(f"error: {error}")) from None
    gone = remove(found) if delete else found
    for folder in gone:
        print(f"  {folder.bytes / 1e6:10,.1f} MB  {folder.path}")
    done = "removed" if delete else "would be removed with --delete"
    print(f"{len(gone)} folders, {sum(f.bytes for f in gone) / 1e6:,.1f} MB: {done}")


def command(stage: Callable[..., None]) -> None:
    """Makes a flow a subcommand with the options that all flows share."""

    @app.command(stage.name, help=stage.__doc__)
    def _(data: Data = "demo", base: Base = "smollm2-135m", overrides: Overrides = "") -> None:
        run(stage, data=data, base=base, overrides=overrides)


for _stage in (ingest, label, retrieve, evaluate):
    command(_stage)

if __name__ == "__main__":
    app()
