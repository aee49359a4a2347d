"""Which failures of a task another attempt may mend: services that are away. Never bad data, settings or a full disk."""

from __future__ import annotations

import re
from typing import Any

import httpx
import requests
from prefect.runtime import deployment

from sealr import tracking
from sealr.data.download import DownloadFailed

RETRIES = 3
FIRST_WAIT = 15.0  # seconds, doubled each time; MLflow's own client has waited for minutes before that
AWAY = (requests.ConnectionError, requests.Timeout, httpx.TransportError)
# MLflow has one exception for everything. A server's 4xx says that the request was wrong; all else of this is weather
TRACKING_AWAY = re.compile(
    r"API request to .* failed (?!with error code 4)|database is locked|TEMPORARILY_UNAVAILABLE", re.DOTALL
)


def worth_retrying(task: Any, run: Any, state: Any) -> bool:
    """Prefect's question after a failed task run."""
    return transient(state.result(raise_on_failure=False), scheduled=bool(deployment.id))


def transient(error: Any, scheduled: bool) -> bool:
    """Whether an error is of the kind that goes away by itself.

    scheduled: nobody is waiting. Somebody who started the job by hand shall be told at once which file to place where.
    """
    if isinstance(error, DownloadFailed):
        return scheduled
    if isinstance(error, tracking.TrackingError):
        return bool(TRACKING_AWAY.search(str(error)))
    return isinstance(error, AWAY)
