"""One call: what it asks, and its answer. MLflow's own code makes tables of bodies and JSON of predictions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from fastapi import Response
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from sealr.serving.follower import Served, sentence
from sealr.serving.limits import BadRequest, Limits
from sealr.serving.request import FAILED, counts, read_options, read_rows, refuse_unknown
from sealr.serving.stages import Stage, recorded

log = logging.getLogger("sealr.serve")
RECORDS = "dataframe_records"
FORMS = (RECORDS, "dataframe_split", "instances", "inputs")  # in which MLflow takes requests
REASONS = {  # why calls are refused, by status: for metrics
    400: "bad_request",
    408: "body_late",
    413: "body_too_large",
    415: "not_json",
    500: "model_failed",
    503: "unavailable",
    504: "too_slow",
}
ERROR_CODES = {
    408: "REQUEST_TIMEOUT",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Refusal(Response):
    """An error in MLflow's shape: {error_code, message}."""

    def __init__(self, status: int, message: str, code: str = "", retry: int = 0, reason: str = "") -> None:
        """retry: seconds. reason: for metrics, where the status does not say enough."""
        content = json.dumps({"error_code": code or ERROR_CODES.get(status, "BAD_REQUEST"), "message": message})
        headers = {"Retry-After": str(retry)} if retry else None
        super().__init__(content, status, headers, media_type="application/json")
        self.reason = reason or REASONS[status]


@dataclass(eq=False)
class Call:
    """A call that was read. ``form`` and ``params`` are as they were sent."""

    served: Served
    form: dict[str, Any]  # a name of FORMS -> the requests
    params: Any = None
    key: tuple[int, str] | None = None  # calls with the same one may be answered in one pass; None: alone
    counts: Mapping[str, int] = field(default_factory=dict)  # against the limits; those of a batch add up
    read: int = field(default_factory=time.time_ns)  # when; ns since 1970
    # Known once it is answered
    users: Sequence[str | None] = ()  # id of each request
    batch: int = 0  # calls that were answered together
    stages: Sequence[Stage] = ()

    @property
    def rows(self) -> int:
        """Requests in it."""
        return self.counts.get("records", len(self.users))


def read_call(served: Served, body: bytes, content_type: str, limits: Limits) -> Call | Refusal:
    """A call that can be answered, or why it cannot: a mistake costs no worker and fails no other call."""
    kind, *more = (part.strip().lower() for part in content_type.split(";"))
    if kind != scoring_server.CONTENT_TYPE_JSON or not {m.replace('"', "") for m in more} <= {"charset=utf-8", ""}:
        return Refusal(415, f"send JSON with the header Content-Type: application/json, got {content_type[:100]!r}")
    try:
        given = json.loads(body.decode("utf-8"))
        if not isinstance(given, dict):
            raise BadRequest("the body must be an object such as {'dataframe_records': [...]}")
        check(given, served)
        call = Call(served, {name: given[name] for name in FORMS if name in given}, given.get("params"))
        if list(call.form) == [RECORDS] and plain(given[RECORDS]):
            share(call, limits)
    except Exception as error:  # for example RecursionError on deeply nested JSON
        return refused(error)
    return call


def check(given: Mapping[str, Any], served: Served) -> None:
    """Raises BadRequest for names that the model does not know, which MLflow would drop, and for wrong parameters."""
    refuse_unknown("key", given, [*FORMS, "params"])
    rows, fields = next((given[form] for form in FORMS if form in given), None), served.schema.input_names()
    if isinstance(rows, dict):  # columns and data, or a list for each field
        columns = rows.get("columns") if "dataframe_split" in given else list(rows)
        refuse_unknown("field", columns if isinstance(columns, list) else (), fields)
    for number, row in enumerate(rows if isinstance(rows, list) else ()):
        refuse_unknown("field", row if isinstance(row, dict) else (), fields, f"request {number}: ")
    params = given.get("params")
    if isinstance(params, dict):
        refuse_unknown("parameter", params, [param.name for param in served.model.metadata.get_params_schema()])
        read_options(params)


def plain(rows: Any) -> bool:
    """Whether a table of these rows and others has the same cells as one of these rows alone.

    pandas turns whole numbers into floats where another row has none, so a user must be a text.
    """
    if not isinstance(rows, list) or not rows:
        return False
    return all(isinstance(row, dict) and isinstance(row.get("user"), str | None) for row in rows)


def share(call: Call, limits: Limits) -> None:
    """Reads the requests as the model will, and lets the call share a pass. Raises BadRequest."""
    rows, params = call.form[RECORDS], call.params if call.params is not None else {}
    if not isinstance(params, dict):
        return
    options = read_options(params)
    requests = read_rows(list(dict.fromkeys(name for row in rows for name in row)), rows, options, limits)
    call.counts = counts(requests, options)
    call.key = (id(call.served), json.dumps(call.params, sort_keys=True))


def answer(calls: Sequence[Call]) -> list[Response]:
    """Answers to calls of one key, in one pass. If it fails, each is answered alone, so that one fails no other."""
    try:
        return together(calls)
    except Exception as error:
        if len(calls) == 1:
            return [refused(error)]
    return [answer([call])[0] for call in calls]


def together(calls: Sequence[Call]) -> list[Response]:
    """Raises what MLflow or the model raises."""
    served, form = calls[0].served, calls[0].form
    if len(calls) > 1:
        form = {RECORDS: [row for call in calls for row in call.form[RECORDS]]}
    began = time.time_ns()
    data = scoring_server.infer_and_parse_data(form, served.schema)
    with recorded() as passed:
        predictions: Any = served.model.predict(data, params=calls[0].params)  # a DataFrame
    answers: list[Response] = []
    for call in calls:
        part = predictions.iloc[: call.counts.get("records", len(predictions))]
        predictions = predictions.iloc[len(part) :]
        call.users, call.batch, call.stages = list(part["user"]), len(calls), [Stage("wait", call.read, began), *passed]
        content = StringIO()
        scoring_server.predictions_to_json(part, content)
        headers = {"X-Model-Version": served.version}
        answers.append(Response(content.getvalue(), media_type="application/json", headers=headers))
    return answers


def refused(error: Exception) -> Refusal:
    """One sentence for an error, with a status that says whose fault it is."""
    if isinstance(error, BadRequest):
        return Refusal(400, str(error))
    if isinstance(error, json.JSONDecodeError):
        return Refusal(400, f"the body is not valid JSON: {error}")
    if isinstance(error, MlflowException):
        # If the model did not fail, MLflow could not make a table of the body, whatever status it gives itself
        return Refusal(500 if error.error_class == FAILED else 400, sentence(error.message), error.error_code)
    name = type(error).__name__
    log.warning("a request could not be read: %s", name)
    return Refusal(400, f"the request could not be read ({name}); send {{'dataframe_records': [...]}}")
