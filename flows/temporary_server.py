"""Prefect's temporary server for a job where no Prefect server is named; it boots while the job's modules are imported.

Prefect can start one itself. It would start it when the flow begins, wait, and import the whole server into the job's
process. Both take seconds.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
    temporary_settings,
)

# As Prefect starts its own: without pages, and with tables that no other server reads
EPHEMERAL = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
APP = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "error", "--lifespan", "on"]
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_server: subprocess.Popen[bytes] | None = None


@contextmanager
def started() -> Iterator[Callable[[], None]]:
    """Gives a function that waits until the server answers, and names it to Prefect until the context ends.

    It does nothing where a Prefect server is named. An error is left to Prefect: it then starts a server of its own
    when the flow begins, and says what is wrong.
    """
    global _server
    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        yield lambda: None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *APP, "--host", "127.0.0.1", "--port", str(port)]
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    environment = {**os.environ, **EPHEMERAL, **settings}
    _server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, preexec_fn=_end_with_parent)
    atexit.register(stop)  # after Prefect's own function, which delivers the last events
    with ExitStack() as named:

        def ready() -> None:
            if _answers(url := f"http://127.0.0.1:{port}/api"):
                named.enter_context(temporary_settings({PREFECT_API_URL: url}))
            else:
                stop()

        yield ready


def _end_with_parent() -> None:
    """In the new process: Linux ends it when the job is gone, also after a SIGKILL, which no job can answer."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def running() -> bool:
    """Whether this process has a temporary server, which has no pages."""
    return _server is not None


def stop() -> None:
    """Asks the server to end, without waiting for it."""
    global _server
    if _server is not None:
        _server.terminate()
        _server = None


def _answers(url: str) -> bool:
    end = time.monotonic() + PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    while _server is not None and _server.poll() is None and time.monotonic() < end:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").is_success:
                return True
        time.sleep(0.05)
    return False
