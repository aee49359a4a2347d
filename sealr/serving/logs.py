"""Lines of the server's log. None holds a text, a user id or a title."""

from __future__ import annotations

import json
import logging
import re
import traceback
import uuid
import warnings
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import Response

from sealr.serving.calls import Call, Refusal

log = logging.getLogger("sealr.serve")
calls = logging.getLogger("sealr.serve.calls")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
Form = Literal["plain", "json"]


class PlainLines(logging.Formatter):
    """Lines for people. An error is told by its class and place: its message may repeat what was sent."""

    def formatException(self, ei: Any) -> str:
        return "".join(traceback.format_tb(ei[2])) + ei[0].__name__


class JsonLines(logging.Formatter):
    """One JSON object a line, with the last places of an error."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower()}
        line |= getattr(record, "call", None) or {"message": record.getMessage()}
        if record.exc_info and record.exc_info[0]:
            frames = traceback.extract_tb(record.exc_info[2])
            line["error"] = record.exc_info[0].__name__
            line["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-5:]]
        return json.dumps(line)


def setup(form: Form) -> None:
    """plain: messages for people, and no line for each call."""
    handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(PlainLines("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    log.setLevel(logging.INFO)
    calls.setLevel(logging.INFO if form == "json" else logging.WARNING)
    # transformers warns at each pass that its own arguments will get other names
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|transformers")


def request_id(given: str | None) -> str:
    """The caller's X-Request-ID if it is a plain one, else a new one."""
    return given if given and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def write_call(number: str, response: Response, seconds: float, call: Call | None) -> None:
    """One line for a call. number: its request id. call: None if it could not be read."""
    about: dict[str, Any] = {"request": number, "status": response.status_code, "ms": round(seconds * 1000, 1)}
    if call is not None:
        about |= {"rows": call.rows, "batch": call.batch, "version": call.served.version}
    if isinstance(response, Refusal):
        about["refused"] = response.reason
    calls.info("a call", extra={"call": about})
