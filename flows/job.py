"""What surrounds every flow: the MLflow run, links between the two UIs, locks, log lines, and a clean end."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock, Timeout
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.exceptions import TerminationSignal
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL

from sealr import tracking
from sealr.config import load_config
from sealr.data.manifest import state_dir
from sealr.flows import progress, quiet_libraries, temporary_server
from sealr.pipeline.job import Job

log = logging.getLogger("sealr.flows")
EXIT_SECONDS = 30.0  # the longest that Prefect may take to deliver its last events after a job
STOP_SECONDS = 10.0  # the longest that a job may take to end after Ctrl-C or SIGTERM
DISK_FULL = 1_000_000  # a disk with fewer free bytes is full
_stopping = threading.Event()


@contextmanager
def open_job(name: str, data: str, base: str, overrides: str, tasks: int = 1) -> Iterator[Job]:
    """The configuration and the MLflow run of a job, linked to the Prefect run that executes it.

    tasks: that the flow will run, for its bar of progress.
    """
    quiet_libraries()
    config = load_config(data, base, overrides)
    tags = {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_name": str(flow_run.name)}
    if str(flow_run.ui_url).startswith("http") and not temporary_server.running():  # it has no pages
        tags["prefect.url"] = str(flow_run.ui_url)
        tags[tracking.DESCRIPTION] = tracking.made_by(str(flow_run.name), str(flow_run.ui_url))
    with one_scheduled_job(config.data.name), sigterm_by_hand(), tracking.job(name, config, tags) as run_id:
        log.info("%s on %s: MLflow run %s at %s", name, config.data.name, run_id, tracking.address())
        title = "The MLflow run of this flow run"
        if page := tracking.page(run_id):
            create_link_artifact(page, link_text=f"MLflow run {run_id}", key="mlflow-run", description=title)
        else:
            create_markdown_artifact(key="mlflow-run", markdown=tracking.link(run_id), description=title)
        if tasks > 1:
            progress.start(str(flow_run.id), tasks)
        yield Job(config, run_id)


@contextmanager
def one_scheduled_job(data: str) -> Iterator[None]:
    """Lets one scheduled job at a time work on a data set, whatever its flow. A later one waits and logs it.

    It is a file lock, which the operating system frees as soon as a process is killed; a server would notice late.
    Runs by hand do not wait: stages have their own locks.
    """
    if not deployment.id:
        yield
        return
    with hold_lock(state_dir() / data / "job.lock", f"another scheduled job works on data set {data}"):
        yield


@contextmanager
def hold_lock(path: Path, taken: str) -> Iterator[None]:
    """Holds the lock file ``path``. Logs ``taken`` and waits while another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: waiting until it ends", taken)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def sigterm_by_hand() -> Iterator[None]:
    """Restores our SIGTERM handler inside a flow that a user started.

    Prefect's handler first reports to the server. A temporary server often receives the same signal and is gone.
    """
    if deployment.id or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_flow(flow: Callable[..., Any], **arguments: Any) -> None:
    """Runs a flow from the command line. Log lines go to the terminal and, as in a deployment, to the Prefect server.

    Raises what the flow raises, and SystemExit with 130 after Ctrl-C and 143 after SIGTERM.
    """
    for known in [logging.getLogger(name) for name in ("", *logging.root.manager.loggerDict)]:
        for handler in known.handlers:  # Prefect prints failures with a traceback; the UI keeps them
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.CRITICAL)
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("sealr")
    logger.addHandler(console)  # beside Prefect's handler, which sends the lines to the server
    logger.propagate = False
    quiet_libraries()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        flow(**arguments)
    except (KeyboardInterrupt, TerminationSignal) as stop:
        number = stop.signal if isinstance(stop, TerminationSignal) else signal.SIGINT
        raise SystemExit(128 + number) from None


def _interrupt(number: int, _frame: object) -> None:
    """Ends a job promptly and cleanly after Ctrl-C or SIGTERM.

    The default of SIGTERM would leave Prefect's temporary server behind. Ctrl-C also reaches that server, and Prefect's
    client would then try for minutes to report the end of the run, and log every failure.
    """
    if not _stopping.is_set():  # Prefect sends SIGTERM again when it has cleaned up
        _stopping.set()
        os.write(2, b"\ninterrupted; the same command continues where this one stopped\n")
        logging.disable()
        logging.raiseExceptions = False
        sys.unraisablehook = lambda _: None  # the exception below may arrive in a finalizer, which ignores it
        force_exit_after(STOP_SECONDS, 128 + number, "")
    raise KeyboardInterrupt if number == signal.SIGINT else TerminationSignal(number)


def external_failure(error: Exception) -> str:
    """The cause of an error outside the job: a full disk or a Prefect server that went away. Empty for other errors."""
    full = [
        str(f)
        for f in (state_dir(), Path(tempfile.gettempdir()))
        if f.exists() and shutil.disk_usage(f).free < DISK_FULL
    ]
    if full:
        return f"no space left on the disk of {' and '.join(full)} ({error})"
    if isinstance(error, httpx.TransportError) or "Failed to reach API" in str(
        error
    ):  # a RuntimeError of Prefect's client
        server = "a temporary one" if temporary_server.running() else PREFECT_API_URL.value()
        return f"the Prefect server ({server or 'a temporary one'}) went away"
    return ""


def force_exit_after(
    seconds: float, code: int, message: str = "Prefect did not accept the final events; exiting after {:.0f} s."
) -> None:
    """Ends the process if it is still alive after ``seconds``. Prefect would wait for a lost server without limit."""

    def wait() -> None:
        time.sleep(seconds)
        if message:
            print(message.format(seconds), file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        temporary_server.stop()  # as a normal exit would, and the one that Prefect may have started:
        if server := sys.modules.get("prefect.server.api.server"):
            server.SubprocessASGIServer().stop()
        os._exit(code)

    threading.Thread(target=wait, daemon=True, name="force-exit").start()
