"""Keeps a server on the version that an alias points to. A thread of its own loads versions and warms them up."""

from __future__ import annotations

import gc
import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.pyfunc import PyFuncModel
from pydantic import BaseModel, ConfigDict, Field

from sealr.redact import redact

log = logging.getLogger("sealr.serve")
ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
MAX_PAUSE = 600.0  # seconds between two attempts to load a version that fails to load
MAX_MESSAGE = 500  # characters of an error message


class ServerOptions(BaseModel):
    """How a server behaves."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str = "models:/sealr@champion"  # an alias is followed; a version or a folder is loaded once
    poll: float = Field(10.0, ge=0.1)  # seconds between two looks at the alias
    workers: int = Field(0, ge=0)  # passes at the same time; 0: CPU cores divided by torch's threads
    batch: int = Field(32, ge=1)  # calls answered in one pass, at most; 1: each alone
    waiting: int = Field(128, ge=0)  # calls that may wait for a worker; more get 503
    timeout: float = Field(60.0, ge=0.1)  # seconds until an unanswered call gets 504
    body: int = Field(4 << 20, ge=1)  # bytes of a request body; more get 413
    trace: bool = False  # whether MLflow gets a trace of each call


@dataclass(frozen=True)
class Served:
    """A loaded model that has answered a request."""

    model: PyFuncModel
    schema: Any  # its input schema
    version: str  # number in the registry; "local" for a folder
    knows: Callable[[str], bool] = lambda user: False  # whether the user's history is stored


class Follower:
    """Keeps ``served`` the model at the address, in a thread of its own; None until the first model is ready."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.served: Served | None = None  # replaced as a whole: a call reads it once and keeps that model
        self.trouble = "the model is being loaded"  # why the newest version is not served; "" if it is
        self._failed = ""  # the version that last failed to load
        self._retry_at = self._pause = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _follow(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            wait = self.options.poll
            try:
                self.update()
            except Exception as error:  # no registry or a broken version: the old model keeps serving
                self.trouble = redact(f"{type(error).__name__}: {sentence(str(error))}")
                log.error("%s cannot be served: %s", self.options.model, self.trouble)
            else:
                if self.served and not ALIAS.fullmatch(self.options.model):
                    return

    def update(self) -> None:
        """Loads and warms up the current version unless it is served already; only then does it take over.

        A version that failed to load is tried again after growing pauses, another version at once.
        """
        address = self.options.model
        version = address.rpartition("/")[2] if address.startswith("models:/") else "local"
        if match := ALIAS.fullmatch(address):
            found = mlflow.MlflowClient().get_model_version_by_alias(match["name"], match["alias"])
            address, version = f"models:/{match['name']}/{found.version}", str(found.version)
        if version == self._failed and time.monotonic() < self._retry_at:
            return
        if self.served is None or self.served.version != version:
            started = time.monotonic()
            try:
                self.served = load(address, version)
            except Exception:
                self._pause = min(MAX_PAUSE, 2 * self._pause) if version == self._failed else self.options.poll
                self._failed, self._retry_at = version, time.monotonic() + self._pause
                raise
            settle_memory()
            seconds = time.monotonic() - started
            log.info("serving %s, version %s, ready after %.1f s", self.options.model, version, seconds)
        self.trouble, self._failed = "", ""


def settle_memory() -> None:
    """Takes libraries and the model out of later garbage collections, which would stop all calls for half a second.

    What an earlier model has left in cycles is collected first. The last line makes later collections cheap and
    regular: Python runs a full one when a quarter as many objects are new as the last one has met.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.collect()


def load(address: str, version: str) -> Served:
    """A model that has answered its own input example. Raises what loading or predicting raises."""
    # A download may be deleted afterwards, as weights are read into memory. A local store is read in place
    with tempfile.TemporaryDirectory(prefix="sealr-serve-", ignore_cleanup_errors=True) as scratch:
        model = mlflow.pyfunc.load_model(address, dst_path=scratch)
        example = model.input_example
        if example is None:
            raise ValueError(f"{address} has no input example to warm up with")
        model.predict(*example) if isinstance(example, tuple) else model.predict(example)
    knows = model.unwrap_python_model().recommender.knows
    return Served(model, model.metadata.get_input_schema(), version, knows)


def sentence(message: str) -> str:
    """MLflow's message without the request, which it repeats, and without advice for users of MLflow 1."""
    message = message.rpartition("\nError: ")[2] if message.startswith("Failed to predict data") else message
    message = message.partition("\nInput: ")[0].partition(" IMPORTANT: ")[0]
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."
