"""Checks of what surrounds a job: folders, disks, servers, libraries, weights. Fast, and without heavy imports.

`check_job` raises before a job what would stop it later; `diagnose` reports everything for ``sealr doctor``.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from sealr import __version__
from sealr.redact import redact
from sealr.settings import Config, DataConfig

DEFAULT_URI = "sqlite:///mlflow.db"
PATIENCE = 5.0  # seconds to wait for a server
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
GIB = 1 << 30


class SurroundingsError(OSError):
    """A folder, database or server cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Check:
    """One line of `diagnose`."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str  # what was found and, unless ok, how to mend it


def check_job(config: Config | None) -> None:
    """Raises the mistake that would stop a job after its start. config: None where the job reads it later."""
    from sealr.data.manifest import state_dir

    check_folder(state_dir(), "SEALR_HOME")
    if home := os.environ.get("PREFECT_HOME"):
        check_folder(Path(home), "PREFECT_HOME")
    check_tracking()
    check_prefect()
    if config is not None:
        check_retriever(config)
        check_files(config)


def check_retriever(config: Config) -> None:
    """Raises ConfigError for parts or a teacher that no retriever can have."""
    if config.retrieve.model == "fusion" or config.retrieve.teacher:
        from sealr.retrieve.models.fusion import built_on

        built_on(config.retrieve)


def check_folder(folder: Path, variable: str) -> None:
    """Makes a folder and writes into it. Raises SurroundingsError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SurroundingsError(
            f"cannot write to {folder} ({error.strerror}): set {variable} to a folder that you may write to"
        ) from None


def check_tracking() -> None:
    """Opens the MLflow database or asks the server; MLflow itself would retry for minutes. Raises SurroundingsError."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        check_sqlite(Path(parts.path.removeprefix("/") or ":memory:"), uri)
    elif scheme in ("http", "https"):
        check_server(uri, "health", "MLFLOW_TRACKING_URI", "mlflow server --port 5000")
    elif scheme in PORTS:
        try:
            socket.create_connection((parts.hostname or "localhost", parts.port or PORTS[scheme]), PATIENCE).close()
        except OSError as error:
            raise SurroundingsError(
                f"the database of MLFLOW_TRACKING_URI ({redact(uri)}) cannot be reached ({error.strerror or error}): "
                "start it, or correct MLFLOW_TRACKING_URI"
            ) from None
    elif scheme not in ("", "file", "databricks", "databricks-uc", "uc"):  # MLflow explains a folder itself
        raise SurroundingsError(
            f"MLFLOW_TRACKING_URI ({redact(uri)}) is not an address of MLflow: "
            "set it to one such as sqlite:////home/me/mlflow.db or http://127.0.0.1:5000"
        )


def check_sqlite(path: Path, uri: str) -> None:
    """Opens an SQLite file for writing; a new file needs a writable folder. Raises SurroundingsError."""
    advice = "set MLFLOW_TRACKING_URI to a file that you may write to, such as sqlite:////home/me/mlflow.db"
    try:
        if path.exists():
            with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("PRAGMA user_version").fetchone()
                database.execute("ROLLBACK")
        else:
            with tempfile.TemporaryFile(dir=path.resolve().parent):
                pass
    except sqlite3.DatabaseError as error:
        if "locked" not in str(error):  # a job that is writing is no mistake
            raise SurroundingsError(
                f"the MLflow database {path.resolve()} cannot be opened ({error}): {advice}"
            ) from None
    except OSError as error:
        raise SurroundingsError(f"cannot write the MLflow database {uri} ({error.strerror}): {advice}") from None


def check_prefect() -> None:
    """Asks the Prefect server, where PREFECT_API_URL names one. Raises SurroundingsError."""
    if url := os.environ.get("PREFECT_API_URL"):
        check_server(url, "health", "PREFECT_API_URL", "prefect server start")


def check_server(url: str, page: str, variable: str, start: str) -> None:
    """Any answer will do, also "not allowed". Raises SurroundingsError."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=f"{parts.path.rstrip('/')}/{page}").geturl()
    try:
        urllib.request.urlopen(bare, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        advice = f"start it with `{start}`, or correct {variable}"
        cause = getattr(error, "reason", error)
        cause = getattr(cause, "strerror", None) or cause  # without Python's [Errno 111]
        raise SurroundingsError(
            f"the server of {variable} ({redact(url)}) does not answer ({cause}): {advice}"
        ) from None


def check_files(config: Config) -> None:
    """Raises MissingFile or WeightsError for what cannot be had, and what `check_head` raises."""
    from sealr.data.download import data_dir, local_path

    reviews = config.data.reviews
    here = bool(reviews.path) and local_path(reviews, data_dir()).exists()
    if config.data.source != "demo" and not reviews.query and (here or not (reviews.url or "://" in reviews.path)):
        check_head(config.data)
    for name in (config.rerank.base, config.label.model):
        if name.startswith(("/", ".", "~")) and not Path(name).expanduser().is_dir():
            from sealr.weights import resolve

            resolve(name)


def check_head(config: DataConfig) -> None:
    """Reads the first row of the reviews: wrong columns and damaged files are said before a job starts.

    Raises MissingFile, ChecksumError, DataFileError, ColumnError, DateError or IngestError.
    """
    from sealr.data.download import data_dir, fetch
    from sealr.data.ingest import IngestError
    from sealr.data.sources import reader

    source = reader(config.source)
    path = fetch(config.reviews, data_dir(), source.HINT)
    if next(iter(source.read_reviews(config, path)), None) is None:
        raise IngestError(f"{path} holds no reviews")


def diagnose(config: Config) -> Iterator[Check]:
    """Every check of ``sealr doctor``, for the data set and the base model of a configuration."""
    from sealr.data.download import data_dir
    from sealr.data.manifest import state_dir

    yield from check_packages()
    yield check_machine()
    for name, folder in (("state folder", state_dir()), ("temporary folder", Path(tempfile.gettempdir()))):
        yield check_disk(name, folder)
    address = redact(os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)
    yield attempt("MLflow", f"{address} can be used", check_tracking)
    prefect = redact(os.environ.get("PREFECT_API_URL") or "")
    yield attempt("Prefect", f"{prefect} answers" if prefect else "each job starts a temporary server", check_prefect)
    yield attempt(
        "data folder", f"{data_dir()}: what {config.data.name} needs is here or can be downloaded", check_files, config
    )
    yield check_weights("base LLM", config.rerank.base)
    from sealr.emotion.network import BASE  # here: it imports torch

    yield check_weights("labeller's encoder", BASE)


def attempt(name: str, good: str, check: Callable[..., None], *arguments: object) -> Check:
    """The outcome of a check that raises."""
    try:
        check(*arguments)
    except (OSError, ValueError) as error:
        return Check(name, "fail", str(error))
    return Check(name, "ok", good)


def check_packages() -> Iterator[Check]:
    """Installed versions against what pyproject.toml asks for."""
    from importlib import metadata

    from packaging.requirements import Requirement

    from sealr.resources import requirements

    right = 0
    for extra in ("", "train"):
        for requirement in map(Requirement, requirements(extra)):
            advice = f"pip install '{requirement.name}{requirement.specifier}'"
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                text = f"is not installed: {advice}" + (", or pip install 'sealr[train]'" if extra else "")
                yield Check(requirement.name, "warn" if extra else "fail", text)
                continue
            if requirement.specifier.contains(version, prereleases=True):
                right += 1
            else:
                yield Check(requirement.name, "warn", f"version {version} is untested: {advice}")
    text = f"{right} have the versions that pyproject.toml asks for"
    yield Check("packages", "ok", f"Python {platform.python_version()}, sealr {__version__}; {text}")


def check_machine() -> Check:
    """Cores, and the memory that is free."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration):
        return Check("machine", "ok", f"{cores} cores")
    text = f"{cores} cores, {free / GIB:.1f} GiB of free memory"
    if free < 2 * GIB:
        return Check("machine", "warn", f"{text}; the demo needs 2: close other programs")
    return Check("machine", "ok", text)


def check_disk(name: str, folder: Path) -> Check:
    """Free space of the disk that holds a folder, which need not exist yet."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    text = f"{folder}: {free / GIB:.1f} GiB free"
    if free < GIB:
        return Check(name, "fail", f"{text}: free some space (`sealr prune` lists old stages)")
    return Check(name, "warn" if free < 5 * GIB else "ok", text)


def check_weights(name: str, model: str) -> Check:
    """Whether weights are on this machine, or where they would come from."""
    from sealr import weights

    if folder := weights.local(model):
        return Check(name, "ok", f"{model} in {folder}")
    if not (reason := weights.hub_trouble()):
        return Check(name, "ok", f"{model} is not here yet; the first job downloads it from the model hub")
    if model in weights.PACKAGES:
        return Check(
            name, "warn", f"{model} is not here, and the hub is away ({reason}): it comes from a Python package"
        )
    return Check(
        name, "fail", f"{model} is not here, and the hub is away ({reason}): copy its folder here and name that"
    )
