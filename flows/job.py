"""What every flow shares: configuration, the MLflow parent run, links between the two UIs, messages, and the CLI."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from filelock import FileLock, Timeout
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import TerminationSignal
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL

from sealr.pipeline.job import Job
from sealr import tracking
from sealr.config import load_config
from sealr.data.manifest import state_dir
from sealr.redact import redact

log = logging.getLogger("sealr.flows")
# Frameworks that report every detail of their own doings at the level we report results
NOISY = (
    "prefect",
    "httpx",
    "mlflow",
    "alembic",
    "great_expectations",
    "transformers",
    "huggingface_hub",
    "matplotlib",
    "git",
    "urllib3",
)
EXIT_SECONDS = 30.0  # the most that Prefect may take to deliver its last events after a job
STOP_SECONDS = 10.0  # and the most that a job may take to end after Ctrl-C or SIGTERM
MISTAKES = (ValueError, OSError, ArithmeticError, tracking.TrackingError)  # ConfigError, MissingFile, WeightsError, ...
FULL = 1_000_000  # a disk with fewer bytes left is full

Data = Annotated[str, typer.Option(help="Data set: a name in configs/ or the path of a YAML file.")]
Base = Annotated[str, typer.Option(help="Base model: a name in configs/ or the path of a YAML file.")]
Overrides = Annotated[str, typer.Option("--set", help='Overrides, e.g. "retrieve.epochs=20 rerank.finetune_share=0.1".')]


@contextmanager
def open_job(name: str, data: str, base: str, overrides: str) -> Iterator[Job]:
    """The job's configuration and MLflow run, linked to the Prefect run that executes it."""
    quiet()
    config = load_config(data, base, overrides)
    tags = {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_name": str(flow_run.name)}
    if str(flow_run.ui_url).startswith("http"):  # the temporary server of a run by hand has no UI
        tags["prefect.url"] = str(flow_run.ui_url)
        tags[tracking.DESCRIPTION] = f"Made by the Prefect flow run [{flow_run.name}]({flow_run.ui_url})."
    with alone(config.data.name), by_hand(), tracking.job(name, config, tags) as run_id:
        log.info("%s on %s: MLflow run %s at %s", name, config.data.name, run_id, tracking.address())
        create_markdown_artifact(key="mlflow-run", markdown=tracking.link(run_id), description="The MLflow run of this flow run")
        yield Job(config, run_id)


@contextmanager
def alone(data: str) -> Iterator[None]:
    """One scheduled job a data set at a time, whatever its flow, on this state folder; a later one waits and says so.

    The operating system frees the lock of a process that was killed, which no server can know of at once. Jobs by hand
    are not held up: stages have locks of their own.
    """
    if not deployment.id:
        yield
        return
    with turn(state_dir() / data / "job.lock", f"another scheduled job works on data set {data}"):
        yield


@contextmanager
def turn(path: Path, taken: str) -> Iterator[None]:
    """Holds the lock ``path``. Where another process has it, says what is ``taken`` and waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: waiting until it has ended", taken)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def by_hand() -> Iterator[None]:
    """Within a flow that no worker started, SIGTERM does what it does around it (`_stop`).

    Prefect's own handler raises the same, but only hands the signal on when it has told the server, and the temporary one may have been
    ended by the same signal: it often goes to all processes of a job.
    """
    if deployment.id or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def quiet() -> None:
    """Our own lines at INFO, everybody else's only when something is wrong."""
    logging.getLogger("sealr").setLevel(logging.INFO)  # Prefect hands on the lines of its extra loggers, and leaves their level
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning)


def run(flow: Callable[..., Any], **arguments: Any) -> None:
    """Runs a flow from the command line: plain log lines, and user mistakes as one message without a stack trace."""
    for known in [logging.getLogger(n) for n in ("", *logging.root.manager.loggerDict)]:
        for console in known.handlers:  # Prefect prints every failure with its trace; it stays in the Prefect UI
            if isinstance(console, PrefectConsoleHandler):
                console.setLevel(logging.CRITICAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("sealr")
    logger.handlers, logger.propagate = [handler], False
    quiet()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    code = 1
    try:
        flow(**arguments)
        code = 0
    except (KeyboardInterrupt, TerminationSignal) as stop:
        code = 128 + (stop.signal if isinstance(stop, TerminationSignal) else signal.SIGINT)
        raise SystemExit(code) from None
    except Exception as error:
        if trouble := outside(error):
            message = f"{trouble}. Nothing that was finished is lost; the same command goes on from there"
        elif isinstance(error, MISTAKES):
            message = str(error)
        else:
            raise
        print(redact(f"\nerror: {message}"), file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        leave_within(EXIT_SECONDS, code)


def _stop(number: int, _frame: object) -> None:
    """Ctrl-C and SIGTERM end a job in order, and soon.

    SIGTERM, left to its default, would end the process at once, and with it all that stops things at exit: Prefect's temporary
    server, a process of its own, would stay. Ctrl-C reaches that server, too, and Prefect's client would ask it for minutes to
    mark the run.
    """
    os.write(2, b"\ninterrupted; the same command goes on where this one stopped\n")
    leave_within(STOP_SECONDS, 128 + number)
    raise KeyboardInterrupt if number == signal.SIGINT else TerminationSignal(number)


def outside(error: Exception) -> str:
    """What is wrong outside of the job, when it is that: libraries have exceptions of their own for it. Else empty."""
    if full := [str(f) for f in (state_dir(), tempfile.gettempdir()) if shutil.disk_usage(f).free < FULL]:
        return f"no space left on the disk of {' and '.join(full)} ({error})"
    if isinstance(error, httpx.TransportError) or "Failed to reach API" in str(error):  # a RuntimeError of Prefect's client
        return f"the Prefect server ({PREFECT_API_URL.value() or 'a temporary one'}) went away"
    return ""


def leave_within(seconds: float, code: int) -> None:
    """Ends the process when it has not ended by itself: Prefect delivers its last events and logs at exit, and to a server
    that has gone away it would try for ever."""

    def wait() -> None:
        time.sleep(seconds)
        print(f"the Prefect server does not take the last events, left after {seconds:.0f} s", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        if server := sys.modules.get("prefect.server.api.server"):
            server.SubprocessASGIServer().stop()  # the temporary one, which would be stopped at exit
        os._exit(code)

    threading.Thread(target=wait, daemon=True, name="leave").start()
