"""Tells an address of the team when a flow fails or crashes: a POST with JSON, as chat services and pagers take it.

Prefect calls hooks in the process of the flow. If that process was killed, the process that started it does:
`sealr deployments`, or a worker.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Any

import httpx
from prefect.exceptions import MissingResult
from prefect.utilities.urls import url_for

from sealr import tracking
from sealr.redact import redact

log = logging.getLogger("sealr.flows")
VARIABLE = "SEALR_WEBHOOK"  # the address; unset or empty: nobody is told
SECONDS = 10.0  # the longest that a receiver may take
LONGEST = 300  # characters of a reason
QUOTED = re.compile(r"(['\"])(?:(?!\1).){40,}\1")  # a value this long can be somebody's text
REPEATED = re.compile(r"(exception|failed|server|start): .*")  # Prefect's words, and then the text of an error


def tell(flow: Any, flow_run: Any, state: Any) -> None:
    """The hook; Prefect names its arguments. Never raises, because it comes after the failure that matters."""
    if not (address := os.environ.get(VARIABLE)):
        return
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=2), timeout=SECONDS) as client:
            client.post(address, json=message(flow, flow_run, state)).raise_for_status()
    except Exception as error:  # its text can hold the address, which can be a secret
        log.warning("the address in %s could not be told of the failure: %s", VARIABLE, type(error).__name__)


def message(flow: Any, run: Any, state: Any) -> dict[str, str]:
    """What is sent: flow, run, state, why, link, and all of it as one ``text``.

    A killed run has the name that Prefect drew for it when it was scheduled.
    """
    why, link = reason(state), url_for(run) or ""
    text = f"SEALR, {flow.name} ({run.name}): {state.name}. {why}" + (f" {link}" if link else "")
    return {"flow": flow.name, "run": run.name, "state": state.name, "why": why, "link": link, "text": text}


def reason(state: Any) -> str:
    """One sentence without passwords and without texts of reviews.

    Of errors that are not ours only the type is told: their messages can hold data.
    """
    try:
        error = state.result(raise_on_failure=False) if state.is_failed() else None
    except MissingResult:
        error = None
    if error is None:  # Prefect's own words: a signal, an exit code
        said = REPEATED.sub(r"\1", (state.message or "the process ended").splitlines()[0])
    elif ours(error):
        said = tracking.failure(error)
    else:
        said = f"{type(error).__name__}; the log of the run says more"
    said = QUOTED.sub(r"\1...\1", redact(said)).encode("utf-8", "backslashreplace").decode()  # half an emoji
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."


def ours(error: BaseException) -> bool:
    """Whether SEALR wrote the message: the error is of its own kind, or was raised by its code."""
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    raised_in = last.tb_frame.f_globals.get("__name__", "") if last else ""
    return any(name.split(".")[0] == "sealr" for name in (type(error).__module__, raised_in))


HOOKS: Any = {"on_failure": [tell], "on_crashed": [tell]}  # arguments of every flow
