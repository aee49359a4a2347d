"""The nightly job: the whole job on the data as they are now, a drift check, and the gate."""

from __future__ import annotations

from prefect import flow

from sealr.flows import steps
from sealr.flows.alarm import HOOKS
from sealr.flows.finetune import print_summary
from sealr.flows.job import open_job
from sealr.flows.parameters import explained
from sealr.pipeline.stages import through_evaluation


@flow(name="refresh", flow_run_name="refresh-{data}", **HOOKS)
@explained
def refresh(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> str:
    """The whole job with a drift check, which registry.drift.hold lets hold a promotion. Returns the MLflow run id."""
    with open_job("refresh", data, base, overrides, tasks=11) as job:
        made = through_evaluation(job, steps)
        drifted = steps.drift(job, made["reviews"], made["labels"])
        registration = steps.register(job, steps.refit(job, made), drifted)
        steps.report(job.run_id)
        print(f"\ndrift from the champion's data: {drifted or 'none'}")
        print_summary(made["results"], registration)
        return job.run_id
