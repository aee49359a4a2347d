"""Starts Prefect's temporary server while the modules of a job are still being imported.

Prefect itself would start it afterwards, when the flow begins, and wait. Both take seconds, on different cores.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

from sealr.flows import quiet_libraries


def start() -> Callable[[], None]:
    """Gives a function that waits until the server answers. Does nothing where a Prefect server is named.

    An error is left to Prefect, which starts the server again when the flow begins, and says what is wrong.
    """
    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        return lambda: None
    quiet_libraries()
    settings = contextvars.copy_context()
    thread = threading.Thread(target=settings.run, args=(_try,), name="temporary server", daemon=True)
    thread.start()
    return thread.join


def _try() -> None:
    try:
        SubprocessASGIServer().start()
    except Exception:  # Prefect tries again, and raises
        return
