"""Stages: skip what is unchanged, resume what was killed, describe what was made.

A stage's folder is ``<state>/<data set>/<stage>/<key>``, where the key hashes its configuration, the content of
its inputs and the code that does the work. ``manifest.json`` is written last: a folder that has one is complete and
is reused; a folder without one is resumed by calling the work again on it (the work finds its own checkpoints in
``checkpoint/``, which is removed at the end). A lock lets two processes ask for the same stage: the second one waits.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from filelock import FileLock

import sealr
from sealr.data.tables import read_json, write_json

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint"  # subfolder for a stage's own checkpoints
PACKAGE = Path(__file__).resolve().parent.parent
SOURCES = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


@dataclass(frozen=True)
class StageResult:
    """What a stage's work returns: the manifest's row counts and the metrics worth keeping (flat name -> number)."""

    rows: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    stage: str
    folder: Path  # holds the files below
    key: str  # hash of config, inputs and code
    digest: str  # hash of the files' content: what the next stage's key depends on
    inputs: dict[str, str]  # name -> digest
    config: dict[str, Any]
    code: str
    rows: dict[str, int]
    metrics: dict[str, float]
    files: dict[str, str]  # relative path -> sha256
    seconds: float  # wall time of the attempt that finished
    reused: bool = False  # this call found it complete

    def path(self, name: str) -> Path:
        """The file ``name`` of the stage's folder. Raises FileNotFoundError with the stage's name."""
        path = self.folder / name
        if not path.exists():
            raise FileNotFoundError(f"stage {self.stage} did not write {name} (folder {self.folder})")
        return path


def state_dir() -> Path:
    """Where stages keep their folders: SEALR_HOME, else ``.sealr`` in the working folder."""
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
    code: subpackages and modules of sealr that the result depends on, e.g. ``("data", "evaluate/metrics.py")``. What ``work``
    itself does is part of it.
    """
    plain = (
        {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in config.items()}
        if isinstance(config, dict)
        else dataclasses.asdict(config)
    )
    digests = {name: i.digest if isinstance(i, Manifest) else file_digest(i) for name, i in sorted(inputs.items())}
    code_hash = text_digest([code_digest(code), work_digest(work)])[:16]
    key = text_digest({"stage": stage, "config": plain, "inputs": digests, "code": code_hash})[:16]
    folder = (state or state_dir()) / data_name / stage / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        folder.mkdir(exist_ok=True)
        done = folder / "manifest.json"
        if done.exists():
            log.info("%s: unchanged, reusing %s", stage, _shown(folder))
            shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)  # a kill came between the manifest and this
            return _load(folder, reused=True)
        log.info("%s: %s %s", stage, "resuming in" if any(folder.iterdir()) else "working in", _shown(folder))
        started = time.monotonic()
        output = work(folder)
        made = [
            p
            for p in sorted(folder.rglob("*"))
            if p.is_file() and not p.name.startswith(".") and folder / CHECKPOINT not in p.parents
        ]
        files = {str(p.relative_to(folder)): file_digest(p) for p in made}
        manifest = Manifest(
            stage,
            folder,
            key,
            text_digest(files),
            digests,
            plain,
            code_hash,
            output.rows,
            output.metrics,
            files,
            round(time.monotonic() - started, 2),
        )
        values = dataclasses.asdict(manifest) | {"version": sealr.__version__}
        del values["folder"], values["reused"]
        write_json(values, done)
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)  # last: until the manifest stands, it is all there is
        return manifest


def _load(folder: Path, reused: bool) -> Manifest:
    values = read_json(folder / "manifest.json")
    values.pop("version")
    return Manifest(folder=folder, reused=reused, **values)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(parts: tuple[str, ...]) -> str:
    """Hash of the code of subpackages ("data") and modules ("evaluate/metrics.py") as parsed: comments do not count.

    Of the files as they were when this process began: what runs is not what somebody writes into them meanwhile.
    """
    code = []
    for part in sorted(parts):
        whole = PACKAGE / part
        for path in sorted(p for p in SOURCES if whole == p or whole in p.parents):
            code.append((str(path.relative_to(PACKAGE)), ast.dump(ast.parse(SOURCES[path]))))
    return text_digest(code)[:16]


def work_digest(work: Callable[..., Any]) -> str:
    """Hash of a function and of the functions of its own package that it uses, as compiled. Those of sealr are ``run_stage``'s ``code``.

    Not of their source: the file may have been edited since the process started.
    """
    seen: dict[str, Any] = {}

    def visit(code: CodeType, scope: dict[str, Any]) -> None:
        constants = [sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c) for c in code.co_consts if not _is_code(c)]
        names = [code.co_names, code.co_varnames, code.co_freevars]
        seen[f"{len(seen)} {code.co_qualname}"] = [code.co_code.hex(), constants, names]
        for inner in filter(_is_code, code.co_consts):
            visit(inner, scope)
        for name in code.co_names:
            used = scope.get(name)
            if isinstance(used, FunctionType) and _package(used.__module__) == _package(scope["__name__"]) and used not in visited:
                visited.append(used)
                visit(used.__code__, used.__globals__)

    first = work if isinstance(work, FunctionType) else type(work).__call__
    visited = [first]
    visit(first.__code__, first.__globals__)
    return text_digest(seen)[:16]


def _package(module: str) -> str:
    return module.partition(".")[0]


def _is_code(value: Any) -> bool:
    return isinstance(value, CodeType)


def text_digest(values: Any) -> str:
    """SHA-256 of a JSON-serialisable value, hexadecimal."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _shown(folder: Path) -> str:
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
