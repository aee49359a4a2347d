"""The nightly job: the main chain on the data as they are now, a drift check against the champion's data, and the gate.

``python -m sealr.flows.refresh --data demo`` or ``mlflow run . -e refresh -P data=demo``.
"""

from __future__ import annotations

import typer
from prefect import flow

from sealr.flows import steps
from sealr.flows.finetune import summary
from sealr.pipeline.stages import through_evaluation
from sealr.flows.job import Base, Data, Overrides, open_job, run


@flow(name="refresh", flow_run_name="refresh-{data}")
def refresh(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> str:
    """The main job with a drift check, which holds the promotion under registry.drift.hold. Returns the MLflow run id."""
    with open_job("refresh", data, base, overrides) as job:
        made = through_evaluation(job, steps)
        drifted = steps.drift(job, made["reviews"], made["labels"])
        registration = steps.register(job, made, drifted)
        print(f"\ndrift from the champion's data: {drifted or 'none'}")
        summary(made["results"], registration)
        return job.run_id


def main(data: Data = "demo", base: Base = "smollm2-135m", overrides: Overrides = "") -> None:
    """Run the main job on the data as they are now, compare them with the champion's, and let the gate decide."""
    run(refresh, data=data, base=base, overrides=overrides)


if __name__ == "__main__":
    typer.run(main)
