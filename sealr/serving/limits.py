"""Limits of one call to a server, and the error of a call that a caller has to change."""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sealr.config import nearest


class BadRequest(ValueError):
    """The request is malformed; the message tells the caller what to change."""


def _limit(default: int, least: int, sentence: str) -> Any:
    return Field(default, ge=least, description=f"{sentence}; send several calls")


class Limits(BaseModel):
    """Limits of one call to a server. Batch scoring has none: there, a call is a part of a table.

    A server warms up with the model's own input example, which needs the minima (`sealr.registry.package.example`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    records: int = _limit(64, 2, "one call holds {} requests, at most {} are answered")
    items: int = _limit(20_000, 2, "the histories of one call hold {} items, at most {} are read")
    texts: int = _limit(256, 1, "one call brings {} texts to label, at most {} are labelled")
    text: int = _limit(100_000, 10, "a text has {} characters, at most {} are read: cut it")
    answers: int = _limit(20_000, 10, "one call asks for {} items (requests times top_k), at most {} are ranked")
    explained: int = _limit(4, 1, "one call with explain holds {} requests, at most {} are explained")
    filters: int = _limit(20_000, 1, "the filters of one call hold {} ids and names, at most {} are read")

    @classmethod
    def from_environment(cls) -> Limits:
        """The defaults, changed by SEALR_LIMITS, e.g. ``"records=256 texts=1000"``. Raises ValueError on a mistake."""
        given, names = os.environ.get("SEALR_LIMITS", ""), list(cls.model_fields)
        try:
            return cls.model_validate(dict(word.split("=") for word in given.split()))
        except ValueError as error:
            wrong = f"{given!r} is not read: write name=number, e.g. records=256, with names of {', '.join(names)}"
            if isinstance(error, ValidationError):
                name = str(error.errors()[0]["loc"][0])
                wrong = f"there is no limit {name}{nearest(name, names) or '; there are ' + ', '.join(names)}"
                if name in names:
                    wrong = f"{name} must be a whole number of at least {cls.model_fields[name].metadata[0].ge}"
            raise ValueError(f"SEALR_LIMITS: {wrong}") from None

    def check(self, place: str = "", /, **counts: int) -> None:
        """Raises BadRequest with the limit's sentence where a count exceeds the limit of its name."""
        for name, count in counts.items():
            if count > (most := getattr(self, name)):
                raise BadRequest(place + str(type(self).model_fields[name].description).format(count, most))
