"""Parts of the chain as flows of their own, each up to the stage it is named after.

``python -m flows.stages retrieve --data demo`` or ``mlflow run . -e retrieve -P data=demo``. Stages that did not change
are skipped, so the flows share their work with each other and with the main job.
"""

from __future__ import annotations

from collections.abc import Callable

import typer
from prefect import flow

from flows import steps
from flows.job import Base, Data, Overrides, open_job, run
from sealr.data.manifest import Manifest

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
        report(steps.retrieve(job, steps.ingest(job)))


@flow(name="evaluate", flow_run_name="evaluate-{data}")
def evaluate(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Everything but registration: metrics of retriever and re-ranker under three protocols."""
    with open_job("evaluate", data, base, overrides) as job:
        print("\n" + steps.through_evaluation(job)["results"].path("results.md").read_text(encoding="utf-8"))


def report(manifest: Manifest) -> None:
    """Row counts and metrics of a stage, and where its tables are."""
    for name, value in {**manifest.rows, **manifest.metrics}.items():
        print(f"  {name:32} {value:,}" if isinstance(value, int) else f"  {name:32} {value:.4f}")
    print(f"  files: {', '.join(sorted(manifest.files))} in {manifest.folder}")


def command(stage: Callable[..., None]) -> None:
    """Makes a flow a subcommand with the options that all flows share."""

    @app.command(stage.name, help=stage.__doc__)
    def _(data: Data = "demo", base: Base = "smollm2-135m", overrides: Overrides = "") -> None:
        run(stage, data=data, base=base, overrides=overrides)


for _stage in (ingest, label, retrieve, evaluate):
    command(_stage)

if __name__ == "__main__":
    app()
