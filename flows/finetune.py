"""The main job: reviews in, a trained, evaluated and registered recommender out.

``python -m sealr.flows.finetune --data demo`` or ``mlflow run . -e finetune -P data=demo``. With ``--dry-run``, or
``-P dry_run=dry-run``, it only prints what fine-tuning would take.
"""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from prefect import flow

from sealr.flows import steps
from sealr.pipeline.dryrun import dry_run
from sealr.flows.job import Base, Data, Overrides, open_job, run
from sealr import tracking
from sealr.data.manifest import Manifest
from sealr.pipeline.stages import through_evaluation
from sealr.registry.promote import Registration


@flow(name="finetune", flow_run_name="finetune-{data}")
def finetune(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> str:
    """Ingest, label, train the retriever and the LLM, re-rank, evaluate, register. Returns the MLflow run id."""
    with open_job("finetune", data, base, overrides) as job:
        made = through_evaluation(job, steps)
        summary(made["results"], steps.register(job, made))
        return job.run_id


def summary(results: Manifest, registration: Registration | None) -> None:
    """What a newcomer wants to see at the end: the table, the model, and what to type next."""
    print("\n" + results.path("results.md").read_text(encoding="utf-8"))
    if registration is None:
        print("a placebo run (a sentiment is shuffled): nothing was registered")
        return
    aliases = " and ".join(f"@{a}" for a in registration.aliases) or "without an alias"
    print(f"registered model {registration.name}, version {registration.version}, now {aliases}: {registration.reason}\n")
    uri = shlex.quote(tracking.address())
    reference = f"@{registration.aliases[-1]}" if registration.aliases else f"/{registration.version}"
    print("Next:")
    print(f"  mlflow ui --backend-store-uri {uri}")
    print(
        f"  MLFLOW_TRACKING_URI={uri} mlflow models serve -m models:/{registration.name}{reference} --env-manager local -p 5001"
    )


def main(
    data: Data = "demo",
    base: Base = "smollm2-135m",
    overrides: Overrides = "",
    dry: Annotated[bool, typer.Option("--dry-run/--no-dry-run", help="Only print what fine-tuning would take.")] = False,
) -> None:
    """Validate the reviews, label emotions, train retriever and LLM, evaluate, and register one model."""
    run(dry_run if dry else finetune, data=data, base=base, overrides=overrides)


if __name__ == "__main__":
    typer.run(main)
