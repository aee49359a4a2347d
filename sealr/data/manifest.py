"""Stages: skip what is unchanged, resume what was interrupted, describe what was made.

A stage's folder is ``<state>/<data set>/<stage>/<key>``. The key hashes the stage's configuration, the content of its
inputs and its code. ``manifest.json`` is written last, so a folder that has one is complete and is reused. In a folder
without one the work is called again and resumes from its own checkpoints in ``checkpoint/``, which is removed at the
end. A lock per folder makes a second process wait for the first one's result.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

import sealr
from sealr.data.parts import parts
from sealr.data.tables import read_json, write_json
from sealr.redact import redacted

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint"  # subfolder for a stage's own checkpoints
REFIT = "refit-"  # start of the names of stages that train what is served
PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class StageResult:
    """What a stage's work returns: row counts, and metrics by flat name, for the manifest."""

    rows: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    stage: str
    folder: Path  # holds the files below
    key: str  # hash of config, inputs and code
    digest: str  # hash of the files' content, which the next stage's key depends on
    inputs: dict[str, str]  # name -> digest
    config: dict[str, Any]
    code: str
    rows: dict[str, int]
    metrics: dict[str, float]
    files: dict[str, str]  # relative path -> SHA-256
    seconds: float  # wall time of the attempt that finished
    reused: bool = False  # whether this call found the stage complete

    def path(self, name: str) -> Path:
        """The file ``name`` of the stage's folder. Raises FileNotFoundError, which names the stage."""
        path = self.folder / name
        if not path.exists():
            raise FileNotFoundError(f"stage {self.stage} did not write {name} (folder {self.folder})")
        return path


def state_dir() -> Path:
    """The folder of all stages: SEALR_HOME, else ``.sealr`` in the working folder."""
    return Path(os.environ.get("SEALR_HOME", ".sealr")).resolve()


def run_stage(
    stage: str,
    data_name: str,
    config: Any,
    inputs: Mapping[str, Manifest | Path],
    code: tuple[str, ...],
    work: Callable[[Path], StageResult],
    state: Path | None = None,
) -> Manifest:
    """Runs ``work(folder)`` unless the same work was done before, and returns its manifest.

    config: a config dataclass or a dict of them. inputs: manifests of earlier stages, or files from outside.
    code: subpackages and modules of sealr that the result depends on, with the module that defines ``work``, e.g.
    ``("data", "evaluate/metrics.py", "pipeline/stages.py")``.
    """
    plain = {k: _plain(v) for k, v in config.items()} if isinstance(config, dict) else _plain(config)
    digests = {name: i.digest if isinstance(i, Manifest) else file_digest(i) for name, i in sorted(inputs.items())}
    code_hash = code_digest(code)
    key = text_digest({"stage": stage, "config": plain, "inputs": digests, "code": code_hash})[:16]
    folder = (state or state_dir()) / data_name / stage / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        folder.mkdir(exist_ok=True)
        done = folder / "manifest.json"
        shown = os.path.relpath(folder)
        if done.exists():
            log.info("%s: unchanged, reusing %s", stage, shown)
            shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)  # left if a kill came right after the manifest
            made = read_json(done)
            del made["version"]
            return Manifest(folder=folder, reused=True, **made)
        log.info("%s: %s %s", stage, "resuming in" if any(folder.iterdir()) else "working in", shown)
        started = time.monotonic()
        result = work(folder)
        paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and folder / CHECKPOINT not in p.parents]
        files = {str(p.relative_to(folder)): file_digest(p) for p in paths if not p.name.startswith(".")}
        made = {"stage": stage, "key": key, "inputs": digests, "config": redacted(plain), "code": code_hash}
        made |= {"rows": result.rows, "metrics": result.metrics, "files": files, "digest": text_digest(files)}
        made["seconds"] = round(time.monotonic() - started, 2)
        write_json(made | {"version": sealr.__version__}, done)
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)  # last: without a manifest, all progress is in there
        return Manifest(folder=folder, **made)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal; of a folder of parts: of their names and bytes."""
    if path.is_dir():
        return text_digest({str(part.relative_to(path)): file_digest(part) for part in parts(path)})
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(parts: tuple[str, ...]) -> str:
    """Hash of subpackages ("data") and modules ("evaluate/metrics.py") of sealr as parsed: comments do not count.

    Raises ValueError for a part that does not exist.
    """
    code = []
    for part in sorted(parts):
        path = PACKAGE / part
        files = [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.yaml")])
        if not files:
            raise ValueError(f"there is no code in sealr/{part}")
        code += [(str(file.relative_to(PACKAGE)), _parsed(file)) for file in files]
    return text_digest(code)[:16]


@functools.cache
def _parsed(file: Path) -> str:
    """Read once per process: edits made meanwhile are not the code that runs."""
    text = file.read_text(encoding="utf-8")
    return ast.dump(ast.parse(text)) if file.suffix == ".py" else text


def text_digest(values: Any) -> str:
    """SHA-256 of a JSON-serialisable value, hexadecimal."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
