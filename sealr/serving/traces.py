"""A trace of each call in MLflow, for `sealr serve --trace`: times and sizes, but no texts, user ids or titles."""

from __future__ import annotations

import time
from typing import Any

import mlflow
from fastapi import Response
from mlflow.entities import SpanStatusCode, SpanType

from sealr.serving.calls import Call


def trace(number: str, response: Response, seconds: float, call: Call | None) -> None:
    """Logs the trace of a call that was just answered, in the active experiment. MLflow sends it in the background.

    number: the request id. call: None if it could not be read. Spans of a batch appear in the traces of all its calls.
    """
    ended = time.time_ns()
    began = ended - int(seconds * 1e9)
    about: dict[str, Any] = {"status": response.status_code}
    if call is not None:
        about |= {"rows": call.rows, "batch": call.batch}
    root = mlflow.start_span_no_context(
        "call",
        SpanType.CHAIN,
        attributes=about,
        tags={"sealr.request": number, "sealr.version": call.served.version if call else ""},
        start_time_ns=began,
    )
    if call is not None:
        for name, start, stop in (("read", began, call.read), *call.stages):
            mlflow.start_span_no_context(name, parent_span=root, start_time_ns=start).end(end_time_ns=stop)
    failed = response.status_code >= 400
    root.set_status(SpanStatusCode.ERROR if failed else SpanStatusCode.OK)
    root.end(end_time_ns=ended)
