"""What a valid review is: raw values of any source in, clean values or a reason out."""

from __future__ import annotations

import math
from typing import Any

YEAR_1990, YEAR_2100 = 631_152_000, 4_102_444_800  # seconds; values outside are unknown or have another unit


def clean(
    values: dict[str, Any], since: int, until: int, need_text: bool = False
) -> tuple[tuple[str, str, int, float, str] | None, str]:
    """Raw values -> (user, item, timestamp, rating, text), or None and the reason.

    since, until: earliest and latest timestamp in seconds; dates before 1990 need an earlier ``since``. Numbers may be
    text, as in CSV; a whole float counts as an integer; a missing rating becomes NaN.
    """
    ids = []
    for name in ("user", "item"):
        value = values[name]
        value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if value is None or (isinstance(value, str) and not value.strip()):
            return None, f"missing {name}"
        if not isinstance(value, str) or not _encodable(value):
            return None, f"{name} is not text"
        ids.append(value)
    timestamp, reason = _timestamp(values["timestamp"], since, until)
    if reason:
        return None, reason
    rating, reason = _rating(values["rating"])
    if reason:
        return None, reason
    text = values["text"]
    text = "" if text is None or (isinstance(text, float) and math.isnan(text)) else text
    if not isinstance(text, str):
        return None, "text is not text"
    if need_text and not text.strip():
        return None, "missing text"
    if not _encodable(text):  # broken exports hold halves of surrogate pairs
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return (ids[0], ids[1], timestamp, rating, text), ""


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _timestamp(value: Any, since: int, until: int) -> tuple[int, str]:
    blank = isinstance(value, str) and not value.strip()
    if value is None or blank or (isinstance(value, float) and math.isnan(value)):
        return 0, "missing timestamp"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            whole = value.strip().removesuffix(".0")  # tables write integers so if the column has gaps
            value = int(whole) if whole.isdecimal() else value
    if not isinstance(value, int) or isinstance(value, bool):
        return 0, "timestamp not readable: see data.time_unit and data.date_format"
    if value > YEAR_2100:
        return 0, "timestamp after 2100: in milliseconds? set data.time_unit to ms"
    if value > until:
        return 0, "timestamp in the future"
    if value < YEAR_1990 <= since:
        return 0, "timestamp before 1990: see data.time_unit and data.start_date"
    if value < since:
        return 0, "before start_date"
    return value, ""


def _rating(value: Any) -> tuple[float, str]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan, ""
    try:
        number = float(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None:
        return 0.0, "rating not a number: see data.rating_scale"
    if math.isnan(number):
        return (math.nan, "") if isinstance(value, float) else (0.0, "rating not a number: see data.rating_scale")
    return (number, "") if 1 <= number <= 5 else (0.0, "rating not from 1 to 5: see data.rating_scale")


def words(value: Any) -> str | None:
    """A text as it is, the texts of a list such as categories, or a number as text; None for anything else."""
    if isinstance(value, (list, tuple)):
        value = " > ".join(v for v in value if isinstance(v, str) and v.strip())
    if isinstance(value, (int, float)) and value == value:
        value = str(value)
    return value if isinstance(value, str) and value.strip() and _encodable(value) else None
