"""What a finished job left behind: the folders of its stages, and what MLflow knows about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealr import tracked
from sealr.data.manifest import state_dir
from sealr.data.tables import read_json
from sealr.data.validate import CHECK_STAGE, CHECKS
from sealr.registry.promote import GATE

WHOLE = ("finetune", "refresh", "fit")  # kinds of jobs that train; `sealr report` shows the newest of them
PARTS = ("ingest", "label", "retrieve", "evaluate")  # jobs that end early; their reports are shorter


class ReportError(ValueError):
    """No report can be made of a job; the message says why."""


@dataclass(frozen=True)
class Stage:
    """One finished stage. made: its manifest.json."""

    name: str  # such as "retriever sasrec"
    folder: Path
    made: dict[str, Any]
    reused: bool = False
    megabytes: float = float("nan")  # the most that the process held up to the end of the stage

    @property
    def kind(self) -> str:
        """The stage without the model, such as "retriever"."""
        return str(self.made["stage"])


@dataclass(frozen=True)
class Version:
    """A registered version, and the gate's verdict: decision, reason, against, at and figures."""

    name: str
    number: str
    aliases: tuple[str, ...]
    verdict: dict[str, str]


@dataclass(frozen=True)
class Checks:
    """The expectations that a table meets. met: expectation, arguments and found of each."""

    table: str
    rows: int
    met: list[dict[str, str]]


@dataclass(frozen=True)
class Sources:
    """All that a report is made of. started: seconds since 1970. config: the job's settings. kind: of the job."""

    run_id: str
    started: float
    config: dict[str, Any]
    stages: tuple[Stage, ...]
    version: Version | None = None
    kind: str = "finetune"
    checks: tuple[Checks, ...] = ()

    def stage(self, kind: str) -> Stage | None:
        """The newest stage of a kind, such as "evaluate"; None if the job has none."""
        return next((stage for stage in reversed(self.stages) if stage.kind == kind), None)

    def folder(self, kind: str) -> Path | None:
        """The folder of the newest stage of a kind."""
        found = self.stage(kind)
        return found.folder if found else None


def find(run_id: str, state: Path | None = None) -> Sources:
    """The stages of a job, by the id of its MLflow run.

    state: the state folder. Raises ReportError for a job of another kind or a folder that is gone, and TrackingError.
    """
    job = tracked.read_job(run_id)
    if job.kind not in (*WHOLE, *PARTS):
        raise ReportError(f"MLflow run {run_id} is a {job.kind}, which has no report; `sealr run` makes one")
    data = job.config["data"]["name"]
    folders = {path.parent.name: path.parent for path in (state or state_dir()).glob(f"{data}/*/*/manifest.json")}
    stages: dict[str, Stage] = {}  # by key: a stage that is asked for again counts once
    for run in job.stages:
        if not run.key or run.key in stages:
            continue
        if run.key not in folders:
            raise ReportError(
                f"stage {run.name} has no folder {run.key} in {state or state_dir()}: it was removed, or the job ran "
                "elsewhere; run the job again"
            )
        folder = folders[run.key]
        stages[run.key] = Stage(run.name, folder, read_json(folder / "manifest.json"), run.reused, run.megabytes)
    found = _with_content(tuple(stages.values()), folders.values())
    registered = next((run.version for run in job.stages if run.version), "")
    version = _version(job.config["registry"]["name"], registered) if registered else None
    checks = tuple(_checks(found, folders.values()))
    return Sources(job.run_id, job.started, job.config, found, version, job.kind, checks)


def _with_content(stages: tuple[Stage, ...], folders: Iterable[Path]) -> tuple[Stage, ...]:
    """The stages, and before the first that read them what texts say about items, which has no run of its own."""
    for place, stage in enumerate(stages):
        if digest := stage.made["inputs"].get("content"):
            made = ((f, read_json(f / "manifest.json")) for f in folders if f.parent.name == "content")
            found = [Stage("content", folder, values) for folder, values in made if values["digest"] == digest]
            return (*stages[:place], *found[:1], *stages[place:])
    return stages


def _checks(stages: tuple[Stage, ...], folders: Iterable[Path]) -> Iterator[Checks]:
    """What was checked of the tables of these stages; checks have no run of their own."""
    gates = [folder for folder in folders if folder.parent.name.startswith(CHECK_STAGE) and (folder / CHECKS).exists()]
    tables = {digest: Path(file).stem for stage in stages for file, digest in stage.made["files"].items()}
    for folder in sorted(gates, key=lambda folder: folder.stat().st_mtime):
        made = read_json(folder / "manifest.json")
        if table := tables.get(made["inputs"]["table"]):
            yield Checks(table, made["rows"]["rows"], read_json(folder / CHECKS))


def _version(name: str, number: str) -> Version:
    tags, aliases = tracked.read_version(name, number)
    return Version(name, number, aliases, {k.removeprefix(GATE): v for k, v in tags.items() if k.startswith(GATE)})
