"""Ratings of any scale as stars from 1 to 5."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

NUMBER = r"-?\d+(?:[.,]\d+)?"
FRACTION = re.compile(rf"({NUMBER})\s*(?:/|(?:out )?of)\s*({NUMBER})(?: stars?)?", re.IGNORECASE)
STARS = re.compile(rf"({NUMBER})(?: stars?)?", re.IGNORECASE)


class ScaleError(ValueError):
    """`rating_scale` is wrong; the message says how to write it."""


def star_reader(scale: str | dict[str, float]) -> Callable[[Any], Any]:
    """The function that turns a raw rating into stars; it leaves what it cannot read to cleaning, which rejects it.

    scale: `rating_scale` of `DataConfig`. A range is mapped linearly, its ends to 1 and 5. A fraction v/n is 5 v / n
    stars, and 1 at least. Words of a map are compared without regard to case.
    """
    words = {word.strip().lower(): stars for word, stars in scale.items()} if isinstance(scale, dict) else {}
    low, high = _range(scale) if isinstance(scale, str) and scale else (1.0, 5.0)

    def linear(value: float) -> float:
        return min(5.0, max(1.0, 1 + 4 * (value - low) / (high - low))) if low <= value <= high else math.inf

    @functools.lru_cache(10_000)  # ratings repeat
    def of_text(text: str) -> Any:
        if match := FRACTION.fullmatch(text.strip()):
            part, whole = (float(n.replace(",", ".")) for n in match.groups())
            return max(1.0, 5 * part / whole) if 0 <= part and 0 < whole else math.inf
        if match := STARS.fullmatch(text.strip()):
            return linear(float(match[1].replace(",", ".")))
        return text

    def stars(value: Any) -> Any:
        if words and (found := words.get(_word(value))) is not None:
            return found
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, (int, float)):
            return linear(value) if value == value else value
        return of_text(value) if isinstance(value, str) else value

    return stars


def _range(scale: str) -> tuple[float, float]:
    try:
        low, high = map(float, scale.split(".."))
    except ValueError:
        raise ScaleError(
            f"data.rating_scale {scale!r} is neither a range such as 1..10 nor a map such as {{good: 5}}"
        ) from None
    if low >= high:
        raise ScaleError(
            f"data.rating_scale {scale!r}: the first number is the worst rating, and must be the smaller one"
        )
    return low, high


def _word(value: Any) -> str:
    """A value as the words of a map are written: True is ``true``, 1.0 is ``1``."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip().lower()
