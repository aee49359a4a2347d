"""Which failures of a task deserve another attempt: unreachable services, never bad data, settings or a full disk."""

from __future__ import annotations

import re
from typing import Any

import httpx
from prefect.runtime import deployment

from sealr import tracking
from sealr.data.download import DownloadFailed

RETRIES = 3
FIRST_WAIT = 15.0  # seconds, doubled each time; MLflow's own client retries for minutes before
# MLflow has one exception for everything. A 4xx means that the request was wrong; the other failures may pass
TRACKING_AWAY = re.compile(
    r"API request to .* failed (?!with error code 4)|database is locked|TEMPORARILY_UNAVAILABLE", re.DOTALL
)


def worth_retrying(task: Any, run: Any, state: Any) -> bool:
    """Answers Prefect's question after a failed task run."""
    return transient(state.result(raise_on_failure=False), scheduled=bool(deployment.id))


def transient(error: Any, scheduled: bool) -> bool:
    """Whether an error may pass by itself.

    scheduled: nobody is waiting, so failed downloads are retried. A user at the terminal is told at once which file to
    put where.
    """
    if isinstance(error, DownloadFailed):
        return scheduled
    if isinstance(error, tracking.TrackingError):
        return bool(TRACKING_AWAY.search(str(error)))
    return isinstance(error, httpx.TransportError)
