"""Timestamps as seconds since 1970: numbers, ISO 8601, and dates as people write them.

``auto`` finds the patterns by sight: it reads dates until day and month are told apart, to the end of the file if
needed. Where they are not, it stops and shows both readings.
"""

from __future__ import annotations

import calendar
import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sealr.data.sources.lines import seconds

SAMPLE = 10_000  # dates read, unless more are needed
DAY = 86_400  # seconds; clocks differ by less
STRAY = 0.01  # share of dates that may contradict the others, such as typing errors
TOKEN = re.compile(
    r"(?P<time>\d?\d:\d\d(?P<second>:\d\d(?P<fraction>\.\d+)?)?)(?P<half> ?[AaPp][Mm])?"
    r"(?P<zone> ?(?:[+-]\d\d:?\d\d|UTC|GMT|Z)\b)?|(?P<number>\d+)|(?P<word>[A-Za-z]+)|(?P<other>.)"
)
NUMBER = re.compile(r"\s*-?\d+(\.\d+)?\s*")
NAMES = {
    pattern: {n.lower() for n in names if n}
    for pattern, names in (
        ("%b", calendar.month_abbr), ("%B", calendar.month_name), ("%a", calendar.day_abbr), ("%A", calendar.day_name)
    )
}  # fmt: skip
FILLERS = ("at", "on", "of", "the", "t", "st", "nd", "rd", "th")  # words of dates that say nothing


class DateError(ValueError):
    """Dates have several readings, or a pattern is wrong; the message shows what to set."""


class Timestamps:
    """Reads the values of a timestamp column.

    unit, formats: `time_unit` and `date_format` of `DataConfig`. sample: gives the column's values, for ``auto``.
    """

    def __init__(self, unit: str, formats: str | tuple[str, ...], sample: Callable[[], Iterable[Any]]):
        self.unit, self.sample = unit, sample
        given = (formats,) if isinstance(formats, str) else formats
        self.auto = given in ((), ("auto",))
        self.formats: tuple[str, ...] = ("iso",) if self.auto else given
        self.wanted = "" if self.auto else " or ".join(given)
        for pattern in self.formats:
            check_pattern(pattern)

    def __call__(self, value: Any) -> tuple[Any, str]:
        """Seconds, or the value itself if cleaning has to judge it; and a reason for an unreadable date, or ""."""
        if isinstance(value, str) and value.strip():
            if self.auto and self.unit != "iso" and (value.isdecimal() or NUMBER.fullmatch(value)):
                return _number(value, self.unit), ""
            found = parse(value, self.formats)
            if found is None and self.auto and not self.wanted:
                self.formats = ("iso", *guess(self.sample()))
                self.wanted = " or ".join(self.formats)
                found = parse(value, self.formats)
            if found is not None:
                return seconds(found), ""
            return None, f"timestamp is not of the form {self.wanted}: see data.date_format"
        number = isinstance(value, (int, float)) and value == value
        if number and (not self.auto or self.unit == "iso"):  # a year, or 20240131, in a table with types
            return self(f"{value:.0f}")
        return _number(value, self.unit) if number else seconds(value), ""


def _number(value: Any, unit: str) -> Any:
    """Milliseconds as seconds; other values unchanged."""
    try:
        return int((value if isinstance(value, int) else float(value)) // 1000) if unit == "ms" else value
    except (TypeError, ValueError, OverflowError):
        return value


def check_pattern(pattern: str) -> None:
    """Raises DateError unless strptime knows all directives of the pattern and they tell a year."""
    try:
        # An error about the text, not about the pattern, is fine
        datetime.strptime("", pattern)
        known = True
    except ValueError as error:
        known = "does not match format" in str(error)
    if pattern != "iso" and not (known and re.search("%[yYcxGsD]", pattern)):
        raise DateError(f'data.date_format {pattern!r} is neither auto, iso nor a pattern such as "%d.%m.%Y %H:%M"')


def parse(value: str, patterns: Iterable[str]) -> datetime | None:
    """The date by the first pattern that fits; None if none does."""
    text = " ".join(value.split())
    for pattern in patterns:
        try:
            return datetime.fromisoformat(text) if pattern == "iso" else datetime.strptime(text, pattern)
        except ValueError:
            continue
    return None


def candidates(value: str) -> tuple[str, ...]:
    """The strptime patterns that a date's look allows, e.g. two for 03/04/2018; none if it is no date."""
    return _candidates(re.sub(r"\d", "0", " ".join(value.split())))


@functools.lru_cache(4096)
def _candidates(shape: str) -> tuple[str, ...]:
    pieces, numbers, named = [], [], False
    for match in TOKEN.finditer(shape):
        if match["time"]:
            pieces.append(_clock(match))
        elif match["number"]:
            numbers.append(len(match["number"]))
            pieces.append("{}")
        elif match["word"]:
            word = match["word"].lower()
            name = next((p for p, names in NAMES.items() if word in names), match["word"] if word in FILLERS else "")
            if not name:
                return ()
            named |= name in ("%b", "%B")
            pieces.append(name)
        else:
            pieces.append(match["other"].replace("%", "%%").replace("{", "{{").replace("}", "}}"))
    return tuple("".join(pieces).format(*fields) for fields in _orders(numbers, named, "." in shape))


def _clock(match: re.Match[str]) -> str:
    half, zone = match["half"] or "", match["zone"] or ""
    pattern = (
        ("%I" if half else "%H") + ":%M" + (":%S" if match["second"] else "") + (".%f" if match["fraction"] else "")
    )
    if half:
        pattern += " " * half.startswith(" ") + "%p"
    if zone:
        pattern += " " * zone.startswith(" ") + ("%Z" if "T" in zone else "%z")  # UTC and GMT are names
    return pattern


def _orders(lengths: list[int], named: bool, dotted: bool) -> list[tuple[str, ...]]:
    """What numbers with these lengths can be, in their order. named: the month is a word. dotted: like 05.11.2018."""
    year_first, year = lengths[:1] == [4], "%Y" if lengths[-1:] == [4] else "%y"
    short = lengths[1:] if year_first else lengths[:-1] if year == "%Y" else lengths
    if len(lengths) != (2 if named else 3) or any(n > 2 for n in short):
        return []
    if named:
        return [("%Y", "%d")] if year_first else [("%d", year)]
    if year_first:
        return [("%Y", "%m", "%d")]
    orders: list[tuple[str, ...]] = [("%d", "%m", year)] if dotted else [("%d", "%m", year), ("%m", "%d", year)]
    return [*orders, ("%y", "%m", "%d")] if year == "%y" else orders


Votes = dict[tuple[str, ...], Counter[tuple[str, ...]]]  # candidates -> those that fit a date -> number of dates


def guess(values: Iterable[Any]) -> tuple[str, ...]:
    """The patterns of a column of dates, the most frequent first. Raises DateError where dates have two readings."""
    votes: Votes = {}
    examples: dict[tuple[str, ...], str] = {}
    read = 0

    def open_families() -> list[tuple[str, ...]]:
        return [f for f, counts in votes.items() if counts.total() > STRAY * read and not _best(f, counts)]

    for value in values:
        if not isinstance(value, str) or not value.strip():
            continue
        if read >= SAMPLE and read % 100 == 0 and not open_families():
            break
        read += 1
        family = () if parse(value, ("iso",)) else candidates(value)
        if fits := tuple(pattern for pattern in family if _possible(value, pattern)):
            votes.setdefault(family, Counter())[fits] += 1
            examples.setdefault(fits, value.strip())
    for family in open_families():
        raise DateError(_readings(votes[family], examples))
    found = sorted(votes, key=lambda family: -votes[family].total())
    return tuple(dict.fromkeys(best for family in found if (best := _best(family, votes[family]))))


def _possible(value: str, pattern: str) -> bool:
    """Whether the pattern fits and the date is not in the future."""
    found = parse(value, (pattern,))
    return found is not None and seconds(found) <= time.time() + DAY


def _best(family: tuple[str, ...], counts: Counter[tuple[str, ...]]) -> str:
    """The pattern that explains dates which each other one cannot, with few exceptions; empty if there is none."""

    def alone(pattern: str, other: str) -> int:
        return sum(n for fits, n in counts.items() if pattern in fits and other not in fits)

    def beats(pattern: str, other: str) -> bool:
        return 0 < alone(pattern, other) and alone(other, pattern) <= STRAY * alone(pattern, other)

    return next((p for p in family if all(beats(p, other) for other in family if other != p)), "")


def _readings(counts: Counter[tuple[str, ...]], examples: dict[tuple[str, ...], str]) -> str:
    """The sentence about dates that do not tell day and month apart."""
    fits = max(counts, key=len)
    patterns = " or ".join(f'"{pattern}"' for pattern in fits)
    if len(fits) == 1:
        both = " and ".join(f"{examples[f]} ({f[0]})" for f in counts)
        return f"dates of two forms contradict each other: {both}; set data.date_format to the right one"
    dates = [parse(examples[fits], (pattern,)) for pattern in fits]
    shown = " or ".join(f"{d.day} {d:%B} {d.year}" for d in dates if d)
    return f"{examples[fits]} can be {shown}: set data.date_format to {patterns}"
