"""Removing a user from what MLflow keeps of a data set: registered versions, unregistered models, artifacts of runs.

A version that holds the user is logged again without, which trains nothing. The new version takes the aliases and the
place in the list of champions; the old one and its artifacts are deleted.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path

from sealr import tracking
from sealr.config import from_dict
from sealr.data.manifest import file_digest, text_digest
from sealr.data.tables import atomic_path, read_json, write_json
from sealr.data.traces import Traces
from sealr.registry import card, gate, promote
from sealr.registry.package import log_packed
from sealr.serving.packing import HISTORIES, find
from sealr.settings import Config
from sealr.tracked import ORIGIN

REWRITES = "sealr.rewrites"  # tag of a version: the number of the one that it was made from, without a user
RUNS, DATABASE, UNREGISTERED = "artifacts of MLflow runs", "MLflow's database", "unregistered models"
CODE = "code"  # subfolder of a logged model: our own modules


class ForgetError(ValueError):
    """A version cannot be rewritten; the message says what to do."""


@dataclass(frozen=True)
class Logged:
    """A model that a run of the data set logged."""

    uri: str  # of its artifacts; empty if they are gone
    model_id: str | None
    name: str = ""  # in the registry; empty if no version was made of it
    version: str = ""

    @property
    def place(self) -> str:
        return promote.uri(self.name, self.version) if self.name else UNREGISTERED


def survey(traces: Traces, data: str) -> dict[str, int]:
    """Findings in each version, in the other models and the artifacts of the data set's runs, and in a SQLite file."""
    found: dict[str, int] = {}
    for model in models(data):
        found[model.place] = found.get(model.place, 0) + sum(_traced(traces, model.uri).values())
    artifacts = [n for run in _runs(data) for n in _traced(traces, run.info.artifact_uri).values()]
    found[RUNS] = sum(artifacts)
    uri = mlflow.get_tracking_uri()
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        found[DATABASE] = sum(traces.count(p) for p in path.parent.glob(f"{path.name}*") if p.is_file())
    return found


def forget(traces: Traces, data: str) -> dict[str, str]:
    """Rewrites or deletes what holds the user. Returns new versions by the places that they replace."""
    replaced = {}
    for model in models(data):
        if not _traced(traces, model.uri):
            continue
        if model.name:
            replaced[model.place] = promote.uri(model.name, _rewrite(model, traces))
        _delete(model)
    for run in _runs(data):
        for path in _traced(traces, run.info.artifact_uri):
            get_artifact_repository(run.info.artifact_uri).delete_artifacts(path)
    return replaced


def models(data: str) -> list[Logged]:
    """The models that runs of the data set logged, and its versions, oldest first."""
    client, runs = MlflowClient(), {run.info.run_id: run for run in _runs(data)}
    found, known = [], set()
    versions = [v for v in client.search_model_versions() if v.tags.get(promote.DATA) == data]
    for version in sorted(versions, key=lambda v: int(v.version)):
        source = version.source or ""
        model_id = source.removeprefix("models:/") if source.startswith("models:/") else None
        uri = client.get_logged_model(model_id).artifact_location if model_id else source
        known.add(model_id)
        found.append(Logged(uri, model_id, version.name, str(version.version)))
    experiments = sorted({run.info.experiment_id for run in runs.values()})
    for model in client.search_logged_models(experiments) if experiments else ():
        if model.model_id not in known and model.source_run_id in runs:
            found.append(Logged(model.artifact_location, model.model_id))
    return found


def _runs(data: str) -> list[Run]:
    """The data set's jobs and their stages, also those that were deleted: their artifacts stay until `mlflow gc`."""
    search: dict[str, Any] = {
        "search_all_experiments": True, "run_view_type": ViewType.ALL, "output_format": "list"
    }  # fmt: skip
    jobs = mlflow.search_runs(filter_string=f"tags.`{promote.DATA}` = '{data}'", **search)
    ids = {run.info.run_id for run in jobs}
    stages = mlflow.search_runs(filter_string="tags.`mlflow.parentRunId` != ''", **search)
    return [*jobs, *(run for run in stages if run.data.tags["mlflow.parentRunId"] in ids - {run.info.run_id})]


@contextmanager
def _folder(uri: str) -> Iterator[Path]:
    """The artifacts at an address as a folder of this machine, in place where they are; it may be empty."""
    if uri.startswith(("/", "file:")):
        yield Path(local_file_uri_to_path(uri))
        return
    with tempfile.TemporaryDirectory(prefix="sealr-forget-") as scratch:
        try:
            mlflow.artifacts.download_artifacts(uri, dst_path=scratch)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        yield Path(scratch)


def _traced(traces: Traces, uri: str) -> dict[str, int]:
    """Relative paths of the artifacts with findings. Our own code names no user, but its examples look as if."""
    with _folder(uri) as folder:
        code = [path.parent / CODE for path in folder.rglob("MLmodel")]
        return {str(path.relative_to(folder)): n for path, n in traces.count_in(folder, code).items()}


def _rewrite(model: Logged, traces: Traces) -> str:
    """The number of a new version without the user, which has taken the old one's place."""
    with _folder(model.uri) as folder, tempfile.TemporaryDirectory(prefix="sealr-forget-") as scratch:
        if (source := find(folder)) is None:
            raise ForgetError(f"{model.place} holds the user, but is no model of sealr: delete it in MLflow")
        packed, notes = Path(scratch) / "model", Path(scratch) / gate.NOTES
        shutil.copytree(source, packed)
        shutil.copytree(source.parent / gate.NOTES, notes)
        without_user(packed, notes, traces.ids)
        new = _register(model, packed, notes)
    promote.take_over(model.name, model.version, new)
    return new


def without_user(packed: Path, notes: Path, ids: tuple[str, ...]) -> None:
    """Removes the user from the histories and the gate's evidence of an unpacked model."""
    table = pd.read_parquet(packed / HISTORIES)
    with atomic_path(packed / HISTORIES) as temporary:
        table[~table["user"].isin(ids)].to_parquet(temporary, index=False)
    path = notes / gate.EVIDENCE
    if not path.is_file():
        return
    evidence = read_json(path)
    kept = [row for row, user in enumerate(evidence["users"]) if user not in ids]
    for column in ("users", "ranks", "popularity"):
        if column in evidence:
            evidence[column] = [evidence[column][row] for row in kept]
    evidence["learned"] = {user: n for user, n in evidence.get("learned", {}).items() if user not in ids}
    write_json(evidence, path)


def _register(model: Logged, packed: Path, notes: Path) -> str:
    values = read_json(packed / "model.json")
    config: Config = from_dict(Config, values["config"], f"model.json of {model.place}")
    old = MlflowClient().get_model_version(model.name, model.version)
    before = old.tags
    files = {path.name: file_digest(path) for path in (packed / HISTORIES, *sorted(notes.glob(gate.EVIDENCE)))}
    content = text_digest([before.get(promote.CONTENT, model.version), files])
    if found := promote.find(model.name, content):  # an interrupted call made it
        return found
    about = (
        f"Rewrites version {model.version}, which was deleted: a user was removed from its histories and from the "
        f"gate's evidence. Nothing was trained.\n\n{(notes / gate.CARD).read_text(encoding='utf-8')}"
    )
    (notes / gate.CARD).write_text(about, encoding="utf-8")
    tracking.choose_experiment()
    run_tags = {promote.DATA: config.data.name, ORIGIN: old.run_id}
    with mlflow.start_run(run_name=f"forget {config.data.name}", tags=run_tags):
        items = pd.read_parquet(packed / "items.parquet", columns=["item"])["item"].tolist()
        logged = log_packed(config, packed, notes, values["weights"]["llm"], items)
    tags = before | {promote.CONTENT: content, REWRITES: model.version}
    return promote.create(model.name, logged.model_uri, logged.run_id, tags, card.description(about), logged.model_id)


def _delete(model: Logged) -> None:
    client = MlflowClient()
    get_artifact_repository(model.uri).delete_artifacts()
    if model.name:
        client.delete_model_version(model.name, model.version)
    if model.model_id:
        client.delete_logged_model(model.model_id)
