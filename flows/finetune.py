"""The whole job: reviews in, a trained, evaluated and registered recommender out."""

from __future__ import annotations

import shlex

from prefect import flow

from sealr import tracking
from sealr.data.manifest import Manifest
from sealr.flows import steps
from sealr.flows.alarm import HOOKS
from sealr.flows.job import open_job
from sealr.flows.parameters import explained
from sealr.flows.stages import print_results
from sealr.pipeline.stages import through_evaluation
from sealr.registry.promote import Registration


@flow(name="finetune", flow_run_name="finetune-{data}", **HOOKS)
@explained
def finetune(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> str:
    """Ingest, label, train retriever and LLM, re-rank, evaluate, refit, register, report. Returns the MLflow run id."""
    with open_job("finetune", data, base, overrides, tasks=10) as job:
        made = through_evaluation(job, steps)
        registration = steps.register(job, steps.refit(job, made))
        steps.report(job.run_id)
        print_summary(made["results"], registration)
        return job.run_id


def print_summary(results: Manifest, registration: Registration | None) -> None:
    """Prints the first table of metrics, what was registered, and the commands that come next."""
    print_results(results)
    if registration is None:
        print("This run is a control: no model was registered.")
        return
    aliases = " and ".join(f"@{a}" for a in registration.aliases) or "without an alias"
    print(
        f"registered model {registration.name}, version {registration.version}, now {aliases}: {registration.reason}\n"
    )
    model = f"models:/{registration.name}"
    model += f"@{registration.aliases[-1]}" if registration.aliases else f"/{registration.version}"
    print("Next:")
    print("  sealr report  # what the job found, as one page")
    print(f"  sealr recommend --model {model}  # lists for known users, or --history FILE for a new one")
    print(f"  sealr serve --model {model}      # an HTTP server")
    print(f"  mlflow ui --backend-store-uri {shlex.quote(tracking.address())}")
