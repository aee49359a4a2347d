"""The requests of one call. pydantic checks every value, and a mistake becomes one sentence (`BadRequest`)."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationError, model_validator

from sealr.config import nearest
from sealr.serving.limits import BadRequest, Limits

FAILED = "MODEL_FAILED"  # MLflow error class of a failure inside the model, which is not the caller's fault
MAX_TOP_K = 1000
MAX_HISTORY = 10_000  # items of one request
MAX_WEIGHT = 100.0  # of satisfaction, times the chosen one
MAX_ID = 512  # characters of a user or item id
HISTORY = "history must be a list of objects like {'item': 'B000', 'text': 'Great!'}"
RULES = {
    "user": f"user must be an id: a text of at most {MAX_ID} characters or a whole number",
    "item": f"item must be an id: a text of at most {MAX_ID} characters or a whole number",
    "history": HISTORY,
    "text": "text must be a text",
    "rating": "rating must be a number of stars from 1 to 5",
    "sentiment": "sentiment must be a whole number from -2 (strong negative) to 2 (strong positive)",
    "top_k": f"top_k must be a whole number from 1 to {MAX_TOP_K}",
    "exclude_seen": "exclude_seen must be true or false",
    "explain": "explain must be true or false",
    "satisfaction_weight": f"satisfaction_weight must be a number from 0 to {MAX_WEIGHT:g}",
    "include_items": "include_items must be a list of item ids",
    "exclude_items": "exclude_items must be a list of item ids",
    "categories": "categories must be a list of names of categories",
    "available_only": "available_only must be true or false",
}
LISTS = ("include_items", "exclude_items", "categories")
Model = TypeVar("Model", bound="Values")
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60
_REPR.maxlevel = 2


def _plain(value: Any) -> Any:
    """A table's value as a Python value: None where it is missing, an int where a float is whole."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return None if value is pd.NA else value


def _id(value: Any) -> Any:
    return str(value) if type(value) is int and abs(value) <= 10**18 else value


def _list(value: Any) -> Any:
    """A CSV file can only carry a list as JSON; Parquet gives an array."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value.tolist() if isinstance(value, (np.ndarray, pd.Series, pd.Index)) else value


def _history(value: Any) -> Any:
    value = _list(value)
    if isinstance(value, list) and len(value) > MAX_HISTORY:  # checked before any item is read
        raise ValueError(f"history has {len(value)} items, at most {MAX_HISTORY} are read; send the most recent ones")
    return value


# pydantic's own str refuses lone surrogates, which a cut emoji leaves behind; the labeller can read texts with them
Id = Annotated[InstanceOf[str], Field(max_length=MAX_ID), BeforeValidator(_id)]


Texts = Annotated[list[Id], Field(fail_fast=True), BeforeValidator(_list)]


class Values(BaseModel):
    """A missing value, in any way that tables write it, takes its default. An unknown name is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _present(cls, given: Any) -> Any:
        return {k: p for k, v in given.items() if (p := _plain(v)) is not None} if isinstance(given, dict) else given


class Event(Values):
    """One item of a history that came with a request."""

    item: Id
    text: InstanceOf[str] = ""
    rating: float | None = Field(None, ge=1, le=5, strict=True)  # stars
    sentiment: int | None = Field(None, ge=-2, le=2, strict=True)


History = Annotated[list[Event], Field(fail_fast=True), BeforeValidator(_history)]


class Filters(Values):
    """Which items may be recommended. An empty list is as none; what a call says holds besides what a request says."""

    include_items: Texts | None = None  # only these
    exclude_items: Texts | None = None
    categories: Texts | None = None  # only items of any of these
    available_only: bool | None = Field(None, strict=True)  # None: where the server holds a list


class ApiRequest(Filters):
    """One request as it was sent, before items and feelings are looked up."""

    user: Id | None = None
    history: History | None = None  # oldest first; follows the user's stored history


class Options(Filters):
    """What holds for all requests of a call."""

    top_k: int = Field(10, ge=1, le=MAX_TOP_K, strict=True)
    exclude_seen: bool = Field(True, strict=True)
    explain: bool = Field(False, strict=True)  # reasons by leaving out each item of the history in turn
    # 0: what users will take; 1: as validation chose; more: what they will be glad of
    satisfaction_weight: float = Field(1.0, ge=0, le=MAX_WEIGHT, strict=True)


def read(
    frame: pd.DataFrame, params: Mapping[str, Any], limits: Limits | None = None, exclude_seen: bool = True
) -> tuple[list[ApiRequest], Options]:
    """The requests of a call (one row each, ``user`` and/or ``history``) and its options. Raises BadRequest.

    exclude_seen: the default where ``params`` does not say.
    """
    if not frame.columns.is_unique:
        raise BadRequest("a column appears twice; name each field once")
    options = read_options(params, exclude_seen)
    return read_rows(frame.columns, frame.to_dict("records"), options, limits), options


def read_rows(
    columns: Iterable[Any], rows: Sequence[Mapping[Any, Any]], options: Options, limits: Limits | None = None
) -> list[ApiRequest]:
    """As `read`, for rows as JSON gives them. columns: names of all rows."""
    refuse_unknown("field", columns)
    if not {"user", "history"} & set(columns):
        form = "a list of {item, text, rating or sentiment}"
        raise BadRequest(f"a request needs a 'user' (an id) or a 'history' ({form})")
    if limits:
        count = len(rows)
        limits.check(records=count, answers=count * options.top_k, explained=count * options.explain)
    requests = [_read(ApiRequest, row, f"request {number}: ") for number, row in enumerate(rows)]
    if limits:
        limits.check(**counts(requests, options))
        for number, request in enumerate(requests):
            limits.check(f"request {number}: ", text=max((len(e.text) for e in request.history or ()), default=0))
    return requests


def counts(requests: Sequence[ApiRequest], options: Options) -> dict[str, int]:
    """What a call counts towards the limits of these names; the counts of several calls add up."""
    events, number = [event for request in requests for event in request.history or ()], len(requests)
    return {
        "records": number,
        "answers": number * options.top_k,
        "explained": number * options.explain,
        "items": len(events),
        "texts": sum(bool(e.text) and e.sentiment is None for e in events),
        "filters": sum(len(getattr(each, name) or ()) for each in (options, *requests) for name in LISTS),
    }


def read_options(params: Mapping[str, Any], exclude_seen: bool = True) -> Options:
    """The options of a call; null is the default. Raises BadRequest."""
    refuse_unknown("parameter", params)
    return _read(Options, {k: v for k, v in params.items() if _plain(v) is not None}, exclude_seen=exclude_seen)


def refuse_unknown(what: str, given: Iterable[Any], known: Iterable[str] | None = None, place: str = "") -> None:
    """Raises BadRequest for a name that is not known, with the nearest one that is.

    what: field, parameter, key of a history, or key of a call. known: by default, all names of its kind.
    """
    names = list(KNOWN[what] if known is None else known)
    for name in given:
        if name not in names:
            there = nearest(str(name)[:MAX_ID], names) or f"; there are {', '.join(names)}"
            raise BadRequest(f"{place}unknown {what} {short(name)}{there}")


KEY = "key of a history"
KNOWN = {
    "field": ["user", "history", *Filters.model_fields],
    "parameter": list(Options.model_fields),
    KEY: list(Event.model_fields),
}


def _read(model: type[Model], values: Mapping[Any, Any], place: str = "", **defaults: Any) -> Model:
    try:
        return model.model_validate(defaults | dict(values))
    except ValidationError as wrong:
        error = wrong.errors(include_url=False)[0]
    first, field, got = error["loc"][0], error["loc"][-1], f", got {short(error['input'])}"
    if error["type"] == "extra_forbidden":
        refuse_unknown(KEY, [field], place=place)
    if error["type"] == "value_error":
        raise BadRequest(f"{place}{error['ctx']['error']}")
    if first in LISTS:
        raise BadRequest(place + RULES[str(first)] + got)
    if isinstance(field, int) or error["type"] in ("missing", "invalid_key"):
        raise BadRequest(f"{place}{HISTORY}, each with an item{got}")
    raise BadRequest(place + RULES[field] + got)


def short(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    try:
        return _REPR.repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__}"
