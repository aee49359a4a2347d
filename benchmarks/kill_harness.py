"""Kills the whole job with SIGKILL at random moments of every stage, restarts it, and compares the results.

``python -m benchmarks.kill_harness --kills 20`` prints a table of moments, stages and outcomes. It exits with 1 if any
run differs.

The job uses demo data and toy weights, so a run takes seconds; resuming works the same way with real weights. A run
starts from copies of the uninterrupted run's stages before the killed stage, and reuses them. Every run has its own
state folder, tracking database and process group. All runs share one Prefect server.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import mlflow
import numpy as np
import pandas as pd
import requests
import typer
import yaml
from safetensors import safe_open

from sealr.data.manifest import CHECKPOINT, file_digest
from tests import toys

ROOT = Path(__file__).resolve().parents[1]
NAME = "tiny"
REGISTER = "register"  # has no stage folder: it starts when the last stage has its manifest
OF_THE_ATTEMPT = ("second", "cache.")  # metrics of the last attempt, not of its result
POLL = 0.005
TRIES = 4  # draws of a moment, if the next stage had already begun

DATA = {
    "data": {"name": NAME, "source": "demo", "demo_users": 40, "category": "beauty products"},
    "retrieve": {"hidden": 16, "epochs": 30, "eval_every": 1, "patience": 30, "n_retrieved": 20, "dropout": 0.1},
    "evaluate": {"users": 12, "valid_users": 12},
}
RERANK = {"finetune_share": 0.5, "n_reranked": 12, "max_history": 4, "epochs": 2, "lr": 0.01, "decode_batch": 4}


@dataclass(frozen=True)
class Job:
    """One copy of the job: a folder with its state and tracking database."""

    folder: Path
    project: Path
    api: str

    @property
    def state(self) -> Path:
        return self.folder / "state" / NAME

    def start(self) -> subprocess.Popen[bytes]:
        options = ["--data", str(self.project / "data.yaml"), "--base", str(self.project / "base.yaml")]
        command = ["-m", "tests.e2e.small_steps", "run", *options]
        environment = os.environ | {
            "SEALR_HOME": str(self.folder / "state"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db",
            "PREFECT_HOME": str(self.project / "prefect"),
            "PREFECT_API_URL": self.api,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        log = open(self.folder / "log", "ab")  # noqa: SIM115  the child keeps it
        return subprocess.Popen(
            [sys.executable, *command], env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
        )

    def finish(self) -> None:
        process = self.start()
        if process.wait(600):
            raise RuntimeError(f"the job ended with {process.returncode}; see {self.folder / 'log'}")

    def begun(self, stage: str, last: str) -> bool:
        """Whether a stage has started."""
        return (
            any((self.state / last).glob("*/manifest.json"))
            if stage == REGISTER
            else any((self.state / stage).glob("*/"))
        )


@dataclass(frozen=True)
class Kill:
    stage: str  # the last one that had begun, including its checks
    moment: float  # seconds after the start of the intended stage
    files: int  # checked after the kill
    outcome: str


def main(
    kills: Annotated[int, typer.Option(min=1, help="Runs that are killed.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the moments.")] = 0,
    out: Annotated[str, typer.Option(help="Markdown file for the table.")] = "",
    work: Annotated[str, typer.Option(help="Folder to work in, kept; empty: a temporary one.")] = "",
) -> None:
    """Kill, restart, compare."""
    if work:
        Path(work).mkdir(parents=True, exist_ok=True)
        done = harness(kills, seed, Path(work).resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            done = harness(kills, seed, Path(folder))
    text = table(done, seed)
    print(text)
    if out:
        Path(out).write_text(text, encoding="utf-8")
    raise SystemExit(any(k.outcome != "identical" for k in done))


def harness(kills: int, seed: int, work: Path) -> list[Kill]:
    project(work)
    rng = np.random.default_rng(seed)
    with prefect_server(work) as api:
        undisturbed = new_job(work, "undisturbed", api)
        stages = timed(undisturbed)
        expected = result(undisturbed)
        print(f"undisturbed: {', '.join(f'{s} {t:.1f} s' for s, t in stages.items())}", flush=True)
        done = []
        for number in range(kills):
            stage = list(stages)[number % len(stages)]
            done.append(one(new_job(work, f"kill{number:02d}", api), undisturbed, stage, stages, expected, rng))
            print(f"{number + 1:2} {done[-1].stage:10} at {done[-1].moment:5.2f} s: {done[-1].outcome}", flush=True)
        return done


def one(
    job: Job, undisturbed: Job, stage: str, stages: dict[str, float], expected: dict[str, Any], rng: np.random.Generator
) -> Kill:
    """Starts a job, kills it, and starts it again."""
    names = list(stages)
    copy_stages(undisturbed, job, names[: names.index(stage)])
    longest, hit = stages[stage], ""
    for attempt in range(TRIES):
        moment = float(rng.uniform(0, longest))
        process = job.start()
        while process.poll() is None and not job.begun(stage, names[-2]):
            time.sleep(POLL)
        time.sleep(moment)
        alive = process.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        hit = max((s for s in names if job.begun(s, names[-2])), key=names.index)
        if alive and (hit == stage or attempt == TRIES - 1):
            break
        longest /= 2  # copies have less to do: draw an earlier moment
        job = new_job(job.folder.parent, job.folder.name, job.api)
        copy_stages(undisturbed, job, names[: names.index(stage)])
    else:
        return Kill(stage, moment, 0, "not killed in time")
    broken, files = unreadable(job.state)
    if broken:
        return Kill(hit, moment, files, f"HALF-WRITTEN: {', '.join(broken)}")
    job.finish()
    found = result(job)
    different = [name for name in expected if found.get(name) != expected[name]]
    return Kill(hit, moment, files, f"DIFFERENT: {', '.join(different)}" if different else "identical")


def copy_stages(source: Job, target: Job, stages: list[str]) -> None:
    """Copies the folders of these stages and of their tables' checks."""
    tables: set[str] = set()
    for stage in stages:
        shutil.copytree(source.state / stage, target.state / stage)
        for path in (source.state / stage).glob("*/manifest.json"):
            tables |= set(json.loads(path.read_text())["files"].values())
    for path in source.state.glob("gate-*/*/manifest.json"):
        if json.loads(path.read_text())["inputs"]["table"] in tables:
            shutil.copytree(path.parent, target.state / path.parent.relative_to(source.state))


def timed(job: Job) -> dict[str, float]:
    """Runs the job and returns the seconds of each stage, in order; a stage lasts until the next one begins."""
    process, begun, ended = job.start(), {}, {}
    while process.poll() is None:
        folders = list(job.state.glob("[!g]*/*/"))
        for folder in folders:
            begun.setdefault(folder.parent.name, time.monotonic())
        if all((folder / "manifest.json").exists() for folder in folders):
            ended.setdefault(len(folders), time.monotonic())
        time.sleep(POLL)
    if process.returncode:
        raise RuntimeError(f"the job ended with {process.returncode}; see {job.folder / 'log'}")
    begun[REGISTER] = ended[max(ended)]  # no stage folder came after these
    ends = [*list(begun.values())[1:], time.monotonic()]
    return {stage: end - start for (stage, start), end in zip(begun.items(), ends, strict=True)}


def result(job: Job) -> dict[str, Any]:
    """What the runs must agree on: every stage's files (SHA-256), rows and metrics, and the registered model."""
    found: dict[str, Any] = {}
    for path in sorted(job.state.glob("[!g]*/*/manifest.json")):
        values = json.loads(path.read_text())
        metrics = {k: v for k, v in values["metrics"].items() if not any(part in k for part in OF_THE_ATTEMPT)}
        found[values["stage"]] = (values["key"], values["files"], values["rows"], metrics)
        assert {name: file_digest(path.parent / name) for name in values["files"]} == values["files"], path
    mlflow.set_tracking_uri(f"sqlite:///{job.folder}/mlflow.db")
    client = mlflow.MlflowClient()
    versions = client.search_model_versions("name = 'sealr'")
    (version,) = versions
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/sealr/{version.version}/artifacts"))
    model = {str(p.relative_to(folder)): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    aliases = {alias: str(v) for alias, v in client.get_registered_model("sealr").aliases.items()}
    found[REGISTER] = (aliases, version.tags["sealr.content"], version.tags["sealr.gate.decision"], model)
    return found


def unreadable(state: Path) -> tuple[list[str], int]:
    """The files that should be complete but cannot be read, and the number of checked files.

    The files of a finished folder must match its manifest. In an unfinished folder, only checkpoints are read again;
    names that start with a dot are temporary.
    """
    broken, checked = [], 0
    for folder in state.glob("*/*/"):
        done = folder / "manifest.json"
        if done.exists():
            wanted = json.loads(done.read_text())["files"]
            bad = [n for n, digest in wanted.items() if not (folder / n).is_file() or file_digest(folder / n) != digest]
            checked += len(wanted)
        else:
            files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
            read = [p for p in files if folder / CHECKPOINT in p.parents]
            bad = [str(p.relative_to(folder)) for p in read if not opens(p)]
            checked += len(read)
        broken += [f"{folder.parent.name}/{name}" for name in bad]
    caches = list(state.parent.glob("*/*.sqlite"))
    return broken + [f"{p.parent.name}/{p.name}" for p in caches if not opens(p)], checked + len(caches)


def opens(path: Path) -> bool:
    try:
        if path.suffix == ".parquet":
            pd.read_parquet(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".npz", ".npy"):
            loaded = np.load(path)
            [loaded[name] for name in getattr(loaded, "files", [])]
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                list(tensors.keys())
        elif path.suffix == ".sqlite":
            with closing(sqlite3.connect(path)) as file:
                return file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        elif path.suffix == ".pt":
            import torch

            torch.load(path, weights_only=True)
        return True
    except Exception:  # whatever a reader raises: the file cannot be read
        return False


def table(done: list[Kill], seed: int) -> str:
    lines = [
        f"{len(done)} kills, seed {seed}. Identical: every stage's files (SHA-256), rows and metrics, except speed and",
        "cache hits of the last attempt, and the registered model's files.",
        "",
        "| # | stage | killed after (s) | files checked after the kill | after the restart |",
        "|---:|---|---:|---:|---|",
        *(f"| {n} | {k.stage} | {k.moment:.2f} | {k.files} | {k.outcome} |" for n, k in enumerate(done, 1)),
    ]
    return "\n".join(lines) + "\n"


def project(work: Path) -> None:
    """Configuration, toy weights, and an empty tracking database to copy."""
    toys.toy_llama(work / "llama")
    toys.toy_labeller(work / "labeller")
    (work / "data.yaml").write_text(yaml.safe_dump(DATA | {"label": {"model": str(work / "labeller")}}))
    (work / "base.yaml").write_text(yaml.safe_dump({"rerank": RERANK | {"base": str(work / "llama")}}))
    mlflow.MlflowClient(f"sqlite:///{work}/empty.db").search_registered_models()


def new_job(work: Path, name: str, api: str) -> Job:
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(work / "empty.db", folder / "mlflow.db")
    return Job(folder, work, api)


@contextmanager
def prefect_server(work: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    environment = os.environ | {"PREFECT_HOME": str(work / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    prefect = str(Path(sys.executable).parent / "prefect")
    command = [prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with open(work / "prefect.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=work, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                if requests.get(f"{api}/health", timeout=2).ok:
                    break
            except requests.RequestException:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no Prefect server; see {work / 'prefect.log'}") from None
                time.sleep(0.3)
        yield api
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


if __name__ == "__main__":
    typer.run(main)
