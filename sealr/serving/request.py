"""What a call may ask for: every value is checked here, and a wrong one becomes a sentence (BadRequest), not a trace."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

FAILED = "MODEL_FAILED"  # MLflow error class of what is the model's fault, not the caller's
MAX_TOP_K = 1000
MAX_HISTORY = 10_000  # items of one request
MAX_ID = 512  # characters of a user or item id
WARM_UP = {"records": 2, "items": 2, "text": 10, "answers": 10}  # what a model's input example needs (`package.example`)
SHAPE = "history must be a list of objects like {'item': 'B000', 'text': 'Great!'}"
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60
_REPR.maxlevel = 2


class BadRequest(ValueError):
    """The request is malformed; the message tells the caller what to change."""


@dataclass(frozen=True)
class Limits:
    """The most that one call to a server may ask for. Batch scoring has no limits: there, a call is a part of a table."""

    records: int = 64  # requests of one call; with an LLM of 135M parameters that is about a minute on two cores
    items: int = 20_000  # history items of all requests of one call
    texts: int = 256  # review texts to label in one call
    text: int = 100_000  # characters of one review text
    answers: int = 20_000  # requests times top_k
    explained: int = 4  # requests of one call with explain: each is ranked once more for each of 20 items of its history

    @classmethod
    def from_environment(cls) -> Limits:
        """The defaults, changed by SEALR_LIMITS such as ``"records=256 texts=1000"``. Raises ValueError on a mistake in it, and on
        a limit that the request which warms a server up would not keep to.
        """
        given = {}
        for word in os.environ.get("SEALR_LIMITS", "").split():
            name, _, value = word.partition("=")
            if name not in {f.name for f in fields(cls)} or not value.isdecimal() or not int(value):
                names = ", ".join(f.name for f in fields(cls))
                raise ValueError(f"SEALR_LIMITS: {word!r} is not name=number with a name of {names} and a number above 0")
            if int(value) < (least := WARM_UP.get(name, 1)):
                raise ValueError(f"SEALR_LIMITS: {word} is too little, a server's own first request needs {least}")
            given[name] = int(value)
        return cls(**given)


@dataclass(frozen=True)
class Event:
    """One item of a history that came with a request."""

    item: str
    text: str  # "" where none came
    sentiment: int | None  # -2..2; None where none came
    expected: float | None = None  # the labeller's expected sentiment where it is known; a request cannot bring it


@dataclass(frozen=True)
class ApiRequest:
    """One request as it was written, before anything is looked up."""

    user: str | None
    events: list[Event] | None  # oldest first; None: no history came


@dataclass(frozen=True)
class Options:
    """What holds for all requests of a call."""

    top_k: int
    exclude_seen: bool
    explain: bool  # reasons by leaving out each item of the history in turn


def read(
    frame: pd.DataFrame, params: Mapping[str, Any], limits: Limits | None = None, exclude_seen: bool = True
) -> tuple[list[ApiRequest], Options]:
    """The requests of a call (one row each, ``user`` and/or ``history``) and its options. Raises BadRequest.

    exclude_seen: what holds where the call does not say.
    """
    options = _options(params, exclude_seen)
    if not frame.columns.is_unique:
        raise BadRequest("a column is there twice; name each of 'user' and 'history' once")
    columns = [c for c in ("user", "history") if c in frame.columns]
    if not columns:
        raise BadRequest("a request needs a 'user' (an id) or a 'history' (a list of {item, text or sentiment})")
    if limits and len(frame) > limits.records:
        raise BadRequest(f"one call holds {len(frame)} requests, at most {limits.records} are answered; send several calls")
    if limits and len(frame) * options.top_k > limits.answers:
        raise BadRequest(
            f"{len(frame)} requests with top_k {options.top_k} ask for more than {limits.answers} items in one call; "
            "lower top_k or send several calls"
        )
    if limits and options.explain and len(frame) > limits.explained:
        raise BadRequest(
            f"one call with explain holds {len(frame)} requests, at most {limits.explained} are explained; send several calls"
        )
    rows = frame[columns].to_dict("records")
    asked = [ApiRequest(_user(row.get("user"), n), _events(row.get("history"), n)) for n, row in enumerate(rows)]
    if limits:
        _within(asked, limits)
    return asked, options


def _options(params: Mapping[str, Any], usual: bool) -> Options:
    top_k, exclude_seen, explain = (params.get(name) for name in ("top_k", "exclude_seen", "explain"))  # null: the default
    top_k = 10 if top_k is None else top_k
    if not _whole(top_k) or not 1 <= top_k <= MAX_TOP_K:
        raise BadRequest(f"top_k must be a whole number from 1 to {MAX_TOP_K}, got {short(top_k)}")
    for name, value in (("exclude_seen", exclude_seen), ("explain", explain)):
        if value is not None and not isinstance(value, (bool, np.bool_)):
            raise BadRequest(f"{name} must be true or false, got {short(value)}")
    return Options(int(top_k), usual if exclude_seen is None else bool(exclude_seen), bool(explain))


def _within(asked: list[ApiRequest], limits: Limits) -> None:
    events = [(number, e) for number, a in enumerate(asked) for e in a.events or ()]
    texts = [(number, e) for number, e in events if e.text]
    if len(events) > limits.items:
        raise BadRequest(
            f"the histories of one call hold {len(events)} items, at most {limits.items} are read; send several calls"
        )
    if (to_label := sum(e.sentiment is None for _, e in texts)) > limits.texts:
        raise BadRequest(f"one call brings {to_label} texts to label, at most {limits.texts} are; send several calls")
    for number, event in texts:
        if len(event.text) > limits.text:
            raise BadRequest(f"request {number}: a text has {len(event.text)} characters, at most {limits.text} are read; cut it")


def _user(value: Any, number: int) -> str | None:
    return None if _missing(value) else _id(value, f"request {number}: user")


def _id(value: Any, what: str) -> str:
    """Numbers are ids too; one that a table's missing values turned into a float is the number it was."""
    if isinstance(value, (float, np.floating)) and np.isfinite(value) and value == int(value):
        value = int(value)
    if not isinstance(value, str) and not _whole(value):
        raise BadRequest(f"{what} must be an id (a text or a whole number), got {short(value)}")
    if isinstance(value, str) and len(value) > MAX_ID or not isinstance(value, str) and abs(value) > 10**18:
        raise BadRequest(f"{what} is longer than any id: at most {MAX_ID} characters")
    return str(value)


def _events(given: Any, number: int) -> list[Event] | None:
    if _missing(given):
        return None
    if isinstance(given, str):
        try:
            given = json.loads(given)  # a table of texts can only carry the history as JSON
        except (ValueError, RecursionError):
            raise BadRequest(f"request {number}: {SHAPE}") from None
    if not isinstance(given, (list, np.ndarray)):
        raise BadRequest(f"request {number}: {SHAPE}, got {short(given)}")
    if len(given) > MAX_HISTORY:
        raise BadRequest(
            f"request {number}: history has {len(given)} items, at most {MAX_HISTORY} are read; send the most recent ones"
        )
    return [_event(e, number) for e in given]


def _event(given: Any, number: int) -> Event:
    if not isinstance(given, dict) or _missing(given.get("item")):
        raise BadRequest(f"request {number}: {SHAPE}, each with an item, got {short(given)}")
    text, sentiment = given.get("text"), given.get("sentiment")
    if not _missing(text) and not isinstance(text, str):
        raise BadRequest(f"request {number}: text must be a text, got {short(text)}")
    if not _missing(sentiment) and not (_number(sentiment) and sentiment in (-2, -1, 0, 1, 2)):
        raise BadRequest(
            f"request {number}: sentiment must be a whole number from -2 (strong negative) to 2 (strong positive), "
            f"got {short(sentiment)}"
        )
    return Event(
        _id(given["item"], f"request {number}: item"),
        "" if _missing(text) else text,
        None if _missing(sentiment) else int(sentiment),
    )


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, (float, np.floating)) and bool(np.isnan(value)))


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or isinstance(value, (float, np.floating))


def short(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    try:
        return _REPR.repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__}"
