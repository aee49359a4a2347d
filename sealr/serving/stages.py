"""How long the parts of an answer take: a clock that costs nothing unless somebody listens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Stage(NamedTuple):
    name: str
    began: int  # ns since 1970
    ended: int


_recorded: ContextVar[list[Stage] | None] = ContextVar("stages", default=None)


@contextmanager
def recorded() -> Iterator[list[Stage]]:
    """Collects the stages that this thread passes within."""
    found: list[Stage] = []
    token = _recorded.set(found)
    try:
        yield found
    finally:
        _recorded.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Names what is done within, for whoever records it."""
    found, began = _recorded.get(), time.time_ns()
    yield
    if found is not None:
        found.append(Stage(name, began, time.time_ns()))
