"""What MLflow knows of jobs that ran: reads what `sealr.tracking` wrote.

Besides these two modules, only registry/ imports mlflow.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow

from sealr.tracking import MEMORY

PARENT = "mlflow.parentRunId"
ORIGIN = "sealr.origin"  # tag of a run that changed a version without training: the run that logged the one before


@dataclass(frozen=True)
class StageRun:
    """What MLflow knows of one stage of a job."""

    name: str  # such as "retriever sasrec"
    key: str  # of its folder; "" for a stage without one
    reused: bool  # whether it was found complete
    megabytes: float  # see MEMORY; NaN if unknown
    version: str  # that it registered; "" for other stages


@dataclass(frozen=True)
class JobRun:
    """What MLflow knows of a job. stages: those that finished, in their order."""

    run_id: str
    kind: str  # such as "finetune"
    started: float  # seconds since 1970
    config: dict[str, Any]
    stages: tuple[StageRun, ...]


def job_of(run_id: str) -> str:
    """The run of the job to which a run belongs: itself, the parent of a stage, or the job whose version it changed.

    Raises TrackingError, ValueError.
    """
    run = _run(run_id, "without an id, the last job is taken")
    while before := run.data.tags.get(ORIGIN) or run.data.tags.get(PARENT):
        run = _run(before, f"it was deleted, but led to run {run_id}")
    if "sealr.job" not in run.data.tags:
        named = f"{run_id} ({run.info.run_name})"
        raise ValueError(f"MLflow run {named} is no job of sealr: give the id of the run of a job")
    return str(run.info.run_id)


def _run(run_id: str, hint: str) -> mlflow.entities.Run:
    try:
        return mlflow.get_run(run_id)
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ValueError(f"there is no MLflow run {run_id}: {hint}") from None


def read_job(run_id: str) -> JobRun:
    """A job by the id of its run. Raises TrackingError."""
    run = mlflow.get_run(run_id)
    query = f"tags.`{PARENT}` = '{run_id}' and attributes.status = 'FINISHED'"
    order = ["attributes.start_time ASC"]
    found = mlflow.search_runs([run.info.experiment_id], query, order_by=order, output_format="list")
    stages = tuple(
        StageRun(
            child.data.tags["sealr.stage"],
            child.data.tags.get("sealr.key", ""),
            child.data.tags.get("sealr.reused") == "true",
            child.data.metrics.get(MEMORY, float("nan")),
            child.data.tags.get("sealr.version", ""),
        )
        for child in found
        if "sealr.stage" in child.data.tags
    )
    config = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/config.json")
    return JobRun(run_id, run.data.tags["sealr.job"], run.info.start_time / 1000, config, stages)


def newest_job(kinds: Collection[str]) -> str:
    """The id of the newest finished job of these kinds, in all experiments; empty if there is none."""
    newest: dict[str, Any] = {"search_all_experiments": True, "order_by": ["attributes.start_time DESC"]}
    query = "tags.`sealr.job` != '' and attributes.status = 'FINISHED'"
    for run in mlflow.search_runs(filter_string=query, output_format="list", **newest):
        if run.data.tags["sealr.job"] in kinds:
            return str(run.info.run_id)
    return ""


def find_artifact(run_id: str, name: str) -> Path | None:
    """A run's artifact ``name`` as a file of this machine, downloaded if needed; None if it was not logged."""
    if not any(file.path == name for file in mlflow.MlflowClient().list_artifacts(run_id)):
        return None
    folder = mlflow.get_run(run_id).info.artifact_uri  # by its address, a local file is not copied
    return Path(mlflow.artifacts.download_artifacts(f"{folder}/{name}"))


def read_version(name: str, number: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Tags and aliases of a registered version. Raises TrackingError."""
    found = mlflow.MlflowClient().get_model_version(name, number)
    return dict(found.tags), tuple(sorted(found.aliases))


def run_of_model(uri: str) -> str:
    """The run that logged the model at ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``. Raises TrackingError."""
    return str(mlflow.models.get_model_info(uri).run_id)
