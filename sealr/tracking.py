"""MLflow tracking: one parent run per job, one child run per stage. `sealr.tracked` reads them again."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput

from sealr.config import flatten, to_dict
from sealr.data.manifest import REFIT, Manifest
from sealr.data.tables import SCHEMAS, read_json
from sealr.redact import redact, redacted
from sealr.settings import Config

log = logging.getLogger(__name__)
TrackingError = mlflow.MlflowException  # the tracking server or registry is unreachable or refuses
EXPERIMENT = "sealr"
DEFAULT_EXPERIMENT = "0"  # MLflow's id of its experiment Default
DEFAULT_URI = "sqlite:///mlflow.db"
PLAIN = re.compile(r"[^\w\-. :/]")  # MLflow refuses other characters in names, such as those of a rating "B+"
MEMORY = "peak_megabytes"  # metric of a stage: the most that the job's process held up to its end
TITLES = {  # how the pages of MLflow and Prefect call the stages; a job is called finetune as well
    "ingest": "ingest reviews",
    "label": "label feelings",
    "satisfaction": "forecast satisfaction",
    "retriever": "train retriever",
    "retrieve": "find candidates",
    "finetune": "fine-tune the LLM",
    "rerank": "re-rank candidates",
    "evaluate": "measure",
    "drift": "compare data",
    "refit": "refit for serving",
    "register": "register the model",
    "report": "write the report",
}
COLUMN_TYPES = {"str": "string", "int64": "long", "int32": "integer", "float32": "float"}  # ours -> MLflow's
FAILURE = "sealr.failure"  # tag of a failed job: the sentence that the user saw
DESCRIPTION = "mlflow.note.content"  # the tag that MLflow's page of a run renders as Markdown


def setup() -> None:
    """Points MLflow at MLFLOW_TRACKING_URI, or at ``mlflow.db`` in the working folder.

    User name and password of a server move to MLflow's own variables, because MLflow repeats addresses in its errors.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.username is not None:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        os.environ["MLFLOW_TRACKING_URI"] = uri = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    mlflow.set_tracking_uri(uri)


@contextmanager
def job(name: str, config: Config, tags: Mapping[str, str] | None = None) -> Iterator[str]:
    """The parent run of a job: yields its id. A run that `mlflow run` created is taken over, else one is created."""
    setup()
    given = os.environ.pop("MLFLOW_RUN_ID", None)  # taken over once; later runs of this process are their own
    found = mlflow.get_run(given) if given else None
    moved = found if found and found.info.experiment_id == DEFAULT_EXPERIMENT else None  # the user named none
    if moved or not given:
        given = None
        choose_experiment()
    with mlflow.start_run(run_id=given, tags={"sealr.job": name}, log_system_metrics=True) as run:
        if moved:
            _move(moved, run.info.run_id)
        mlflow.set_tags({"sealr.data": config.data.name, "sealr.base": config.rerank.base, **(tags or {})})
        mlflow.set_tag("mlflow.runName", f"{name} {config.data.name}")
        mlflow.log_dict(redacted(to_dict(config)), "config.json")
        try:
            yield run.info.run_id
        except Exception as error:
            describe_failure(run.info.run_id, failure(error))
            raise


def failure(error: Exception) -> str:
    """The sentence of a user's mistake; for other errors with their type, as nobody wrote them to be read."""
    said = redact(" ".join(str(getattr(error, "message", None) or error).split()))
    return said if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {said}"


def describe_failure(run_id: str, why: str, name: str = "") -> None:
    """Says in a run why it failed, as the tag FAILURE and on its page. name: of a run that has none of its own.

    Never raises: the error itself matters more.
    """
    try:
        client = mlflow.MlflowClient()
        before = client.get_run(run_id).data.tags.get(DESCRIPTION, "")
        client.set_tag(run_id, FAILURE, why[:5000])
        client.set_tag(run_id, DESCRIPTION, f"Failed: {why}\n\n{before}"[:5000].strip())
        if name:
            client.set_tag(run_id, "mlflow.runName", name)
    except Exception:
        log.debug("run %s cannot be described", run_id, exc_info=True)


def choose_experiment() -> None:
    """Makes the experiment that the user named, else EXPERIMENT, the active one. It is created if needed.

    With an SQLite database its artifacts lie beside the database. MLflow would put them into the working folder.
    """
    name, uri = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT), urlsplit(mlflow.get_tracking_uri())
    if uri.scheme == "sqlite" and mlflow.get_experiment_by_name(name) is None:
        folder = Path(uri.path[1:]).absolute().parent / "mlruns" / PLAIN.sub("_", name).replace("/", "_")
        try:
            mlflow.create_experiment(name, str(folder))
        except mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
    mlflow.set_experiment(name)


def title(stage: str) -> str:
    """What a person reads for a stage: "refit-retriever sasrec" becomes "refit: train retriever: sasrec"."""
    name, _, rest = stage.partition(" ")
    plain = name.removeprefix(REFIT)
    words = ["refit"] * (plain != name) + [TITLES.get(plain, plain)] + [rest] * bool(rest)
    return ": ".join(words)


def _move(run: mlflow.entities.Run, target: str) -> None:
    """Copies what `mlflow run` recorded to the active run, ``target``; the original points there. MLflow moves no run.

    The original stays, because `mlflow run` sets its status at the end and fails on a deleted one.
    """
    mlflow.log_params(run.data.params)
    mlflow.set_tags({k: v for k, v in run.data.tags.items() if k.startswith(("mlflow.source.", "mlflow.project."))})
    client = mlflow.MlflowClient()
    client.set_tag(run.info.run_id, "mlflow.runName", f"see experiment {EXPERIMENT}")
    client.set_tag(run.info.run_id, DESCRIPTION, f"The job's run is {link(target)}.")


@contextmanager
def stage(name: str, parent: str, config: Any) -> Iterator[None]:
    """The child run of a stage. ``config``, a dataclass or dict, becomes its parameters."""
    setup()
    experiment = mlflow.get_run(parent).info.experiment_id  # `mlflow run` may have chosen another experiment
    tags = {"sealr.stage": name}
    with mlflow.start_run(run_name=title(name), experiment_id=experiment, parent_run_id=parent, nested=True, tags=tags):
        plain = redacted(config if isinstance(config, dict) else to_dict(config))
        mlflow.log_params({PLAIN.sub("_", k): v for k, v in flatten(plain).items() if v not in ("", None, {})})
        yield


def log_manifest(manifest: Manifest, files: Mapping[str, str] | None = None) -> None:
    """Logs a finished stage to the active run: metrics, row counts, manifest, and the named files or folders.

    files: name in the stage's folder -> artifact folder ("" for the top); missing files are skipped.
    """
    tags = {"sealr.key": manifest.key, "sealr.digest": manifest.digest, "sealr.reused": str(manifest.reused).lower()}
    mlflow.set_tags(tags)
    cost = {"seconds": manifest.seconds, MEMORY: peak_memory()}
    log_metrics(manifest.metrics | {f"rows.{k}": v for k, v in manifest.rows.items()} | cost)
    mlflow.log_dict(redacted(read_json(manifest.folder / "manifest.json")), "manifest.json")
    for file, target in (files or {}).items():
        path = manifest.folder / file
        if path.is_dir():
            mlflow.log_artifacts(str(path), target or file)
        elif path.exists():
            mlflow.log_artifact(str(path), target or None)


def log_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
    """Logs metrics of one epoch, counted from 1, to the active run."""
    log_metrics(metrics, step=epoch)


def log_metrics(metrics: Mapping[str, float], run_id: str | None = None, step: int | None = None) -> None:
    """Logs metrics to the active run, or to the run ``run_id``. Leaves out NaN, which MLflow shows as a value."""
    mlflow.log_metrics(plain(metrics), step, run_id=run_id)


def plain(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics under names that MLflow accepts, without NaN."""
    return {k.replace("@", "_at_").replace("|", "/"): float(v) for k, v in metrics.items() if v == v}


def dataset_of(reviews: Manifest, data: Any) -> Dataset:
    """The table of reviews as MLflow's data set, with its digest and its true number of rows. data: a DataConfig."""
    digest, source = reviews.files["reviews.parquet"][:16], data.reviews.path or data.source
    return dataset(f"{data.name}.reviews", digest, source, SCHEMAS["reviews"], reviews.rows["reviews"])


def dataset(name: str, digest: str, source: str, columns: Mapping[str, str], rows: int) -> Dataset:
    """A table as MLflow's data set. source: its address. columns: names and types, as in SCHEMAS."""
    schema = [{"name": column, "type": COLUMN_TYPES[kind], "required": True} for column, kind in columns.items()]
    return Dataset(
        name=name,
        digest=digest,
        source_type="local",
        source=json.dumps({"uri": redact(source)}),
        schema=json.dumps({"mlflow_colspec": schema}),
        profile=json.dumps({"num_rows": rows, "num_elements": rows * len(columns)}),
    )


def log_input(dataset: Dataset, run_id: str) -> None:
    """Records what the active run, a stage, and its job ``run_id`` learn from."""
    used, active = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])], mlflow.active_run()
    for run in (run_id, *([active.info.run_id] if active else [])):
        mlflow.MlflowClient().log_inputs(run, used)


def link_model(run_id: str, uri: str, metrics: Mapping[str, float], dataset: Dataset) -> None:
    """Shows a registered version on the page of its job, ``run_id``, and the metrics on the page of its model.

    uri: such as ``models:/sealr/1``. The metrics also go to the active run.
    """
    model, client = mlflow.models.get_model_info(uri).model_id, mlflow.MlflowClient()
    outputs = client.get_run(run_id).outputs
    if outputs is None or model not in {shown.model_id for shown in outputs.model_outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model, step=0)])
    mlflow.log_metrics(plain(metrics), model_id=model, dataset=dataset)


def peak_memory() -> float:
    """The most memory that this process has held so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def stage_keys(jobs: int) -> set[str]:
    """Keys of the stage folders that the ``jobs`` newest jobs of each data set used, in all experiments."""
    setup()
    newest: dict[str, Any] = {"search_all_experiments": True, "order_by": ["attributes.start_time DESC"]}
    children: dict[str, set[str]] = defaultdict(set)
    for run in mlflow.search_runs(filter_string="tags.`sealr.key` != ''", output_format="list", **newest):
        children[run.data.tags.get("mlflow.parentRunId", "")].add(run.data.tags["sealr.key"])
    keys, seen = set[str](), Counter[str]()
    for run in mlflow.search_runs(filter_string="tags.`sealr.job` != ''", output_format="list", **newest):
        data = run.data.tags.get("sealr.data", "")
        seen[data] += 1
        if seen[data] <= jobs:
            keys |= children[run.info.run_id]
    return keys


def log_file(path: Path, run_id: str) -> None:
    """Logs one file as an artifact of a run."""
    mlflow.log_artifact(str(path), run_id=run_id)


def describe(run_id: str, text: str) -> None:
    """Writes Markdown as the first lines of the run's description, above the link to Prefect."""
    client = mlflow.MlflowClient()
    tags = client.get_run(run_id).data.tags
    made = [made_by(tags["prefect.flow_run_name"], tags["prefect.url"])] if "prefect.url" in tags else []
    client.set_tag(run_id, DESCRIPTION, "\n\n".join([text, *made]))


def made_by(name: str, page: str) -> str:
    """Markdown that leads to the Prefect flow run of a job."""
    return f"Made by the Prefect flow run [{name}]({page})."


def log_folder(folder: Path, target: str) -> None:
    """Logs a folder, such as Data Docs, as artifacts of the active run."""
    if folder.exists():
        mlflow.log_artifacts(str(folder), target)


def address() -> str:
    """The tracking server or database in use, without its password."""
    return redact(mlflow.get_tracking_uri())


def page(run_id: str) -> str:
    """The address of a run's page on the tracking server; empty without a server."""
    uri = address()
    if not uri.startswith("http"):
        return ""
    # The default page is MLflow's view of GenAI, where a run is an evaluation
    experiment = mlflow.get_run(run_id).info.experiment_id
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"


def link(run_id: str) -> str:
    """Markdown that leads to a run: a link to the tracking server, else the run id and how to open it."""
    if address_of_page := page(run_id):
        return f"[MLflow run {run_id}]({address_of_page})"
    experiment, uri = mlflow.get_run(run_id).info.experiment_id, address()
    return f"MLflow run `{run_id}`, experiment `{experiment}`; open it with `mlflow ui --backend-store-uri {uri}`"
