"""Parts of the job, each up to the stage it is named after. All flows skip unchanged stages, so they share work."""

from __future__ import annotations

from prefect import flow

from sealr.data.manifest import Manifest
from sealr.flows import steps
from sealr.flows.alarm import HOOKS
from sealr.flows.job import open_job
from sealr.flows.parameters import explained
from sealr.pipeline.stages import through_evaluation
from sealr.retrieve.models.fusion import reads_feelings

MORE_TABLES = "\n### "  # the headings of results.md after its first table


@flow(name="ingest", flow_run_name="ingest-{data}", **HOOKS)
@explained
def ingest(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Read, clean and validate the reviews."""
    with open_job("ingest", data, base, overrides) as job:
        print_manifest(steps.ingest(job))


@flow(name="label", flow_run_name="label-{data}", **HOOKS)
@explained
def label(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Ingest, then label every review with an emotion and a sentiment."""
    with open_job("label", data, base, overrides) as job:
        print_manifest(steps.label(job, steps.ingest(job)))


@flow(name="retrieve", flow_run_name="retrieve-{data}", **HOOKS)
@explained
def retrieve(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Ingest, then train the retriever and write candidate pools."""
    with open_job("retrieve", data, base, overrides) as job:
        reviews = steps.ingest(job)
        labels = steps.label(job, reviews) if reads_feelings(job.config.retrieve) else None
        print_manifest(steps.retrieve(job, reviews, labels))


@flow(name="evaluate", flow_run_name="evaluate-{data}", **HOOKS)
@explained
def evaluate(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Run everything but the registration, and print the metrics under three protocols."""
    with open_job("evaluate", data, base, overrides) as job:
        print_results(through_evaluation(job, steps)["results"])


@flow(name="drift", flow_run_name="drift-{data}", **HOOKS)
@explained
def drift(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Compare the data as they are now with those of the champion."""
    with open_job("drift", data, base, overrides) as job:
        reviews = steps.ingest(job)
        print(f"\ndrift from the champion's data: {steps.drift(job, reviews, steps.label(job, reviews)) or 'none'}")


def print_results(results: Manifest) -> None:
    """Prints the first table of the metrics and its differences, and where the other tables are."""
    path = results.path("results.md")
    print(f"\n{path.read_text(encoding='utf-8').partition(MORE_TABLES)[0].rstrip()}\n\nall tables: {path}\n")


def print_manifest(manifest: Manifest) -> None:
    """Prints a stage's row counts and metrics, and where its tables are."""
    for name, value in {**manifest.rows, **manifest.metrics}.items():
        print(f"  {name:32} {value:,}" if isinstance(value, int) else f"  {name:32} {value:.4f}")
    print(f"  files: {', '.join(sorted(manifest.files))} in {manifest.folder}")
