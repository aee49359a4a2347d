"""What a file of reviews is, by a look at its beginning, as a configuration that reads it."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sealr.data.guess import NAMES, Guess, is_name, is_text, is_whole, name_rank, rating_scale, times
from sealr.data.parts import parts
from sealr.data.sources.delimited import DELIMITERS
from sealr.data.sources.encodings import detect, read_text
from sealr.data.sources.formats import Format, format_of, keys, lookup, read_records
from sealr.data.sources.lines import open_bytes
from sealr.settings import DataConfig

ROWS = 10_000  # read at most
LINES = 200  # that tell the delimiter
# Releases by keys that only they have together, the most particular first
RELEASES = (
    ("amazon", "Amazon's release of 2018", {"reviewerID", "asin", "unixReviewTime", "verified"}),
    ("amazon", "Amazon's release of 2014", {"reviewerID", "asin", "unixReviewTime"}),
    ("amazon-2023", "Amazon's release of 2023", {"user_id", "parent_asin", "timestamp", "rating"}),
    ("goodreads", "Goodreads, UCSD Book Graph", {"user_id", "book_id", "review_text", "date_added"}),
    ("yelp", "Yelp Open Dataset", {"review_id", "user_id", "business_id", "stars", "date"}),
)
SHOWN: dict[Format, str] = {
    "delimited": "a table of text", "json lines": "JSON lines", "json array": "a JSON array", "parquet": "Parquet",
    "excel": "Excel",
}  # fmt: skip


class InspectError(ValueError):
    """The file cannot be understood; the message says what is missing and lists the columns."""


@dataclass
class Findings:
    """What a look at a file finds: settings of `DataConfig` by name, with the reason for each."""

    path: Path
    kind: str  # the format, in words
    release: str = ""  # the name of a published data set, whose reader needs no columns
    settings: dict[str, Guess] = field(default_factory=dict)
    columns: dict[str, Guess] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)  # all columns of the file
    rows: int = 0  # that were looked at


def look(path: Path) -> Findings:
    """Reads the beginning of a file, or of the first part of a folder. Raises InspectError and DataFileError."""
    file = next(iter(parts(path)), path)
    kind = format_of(file)
    findings = Findings(path, SHOWN[kind])
    settings: dict[str, Any] = {}
    if kind in ("delimited", "json lines"):
        with open_bytes(file) as (stream, _):
            name, why = detect(stream.read(1 << 20))
        utf = name.startswith("utf")
        why = f"{name}, {why}" if utf else f"lines that are not UTF-8 are read as {name}"
        findings.settings["encoding"] = Guess("auto", "sure" if utf else "likely", why)
    if kind == "delimited":
        delimiter, header = _table(file)
        findings.settings |= {"delimiter": delimiter, "header": header}
        settings = {"delimiter": delimiter.value, "header": header.value}
    config = DataConfig("file", source="columns", **settings)
    rows = itertools.islice(read_records(file, config, [], lambda found: None), ROWS)
    records = [row.values for row in rows if row.values is not None]
    findings.rows = len(records)
    if not records:
        raise InspectError(f"{path} holds no rows that can be read")
    seen = {key: None for record in records for key in keys(record)}
    findings.found = list(seen)
    for source, release, wanted in RELEASES if kind == "json lines" else ():
        if wanted <= set(seen):
            findings.release = release
            findings.settings = {"source": Guess(source, "sure", f"it has the keys {', '.join(sorted(wanted))}")}
            return findings
    _columns(findings, {name: [lookup(record, name) for record in records] for name in seen})
    return findings


def _table(path: Path) -> tuple[Guess, Guess]:
    """The delimiter that gives most of the first records the same number of fields, and whether there is a header."""
    lines = [text for _, text, _ in itertools.islice(read_text(path), LINES) if text.strip()]
    if not lines:
        raise InspectError(f"{path} holds no rows that can be read")
    best, delimiter, table = (0.0, 0), ",", [[""]]
    for candidate in DELIMITERS:
        records = [record for record in csv.reader((line + "\n" for line in lines), delimiter=candidate) if record]
        width, same = Counter(map(len, records)).most_common(1)[0] if records else (1, 0)
        if width > 1 and (score := (round(same / len(records), 1), width)) > best:
            best, delimiter, table = score, candidate, records
    if best == (0.0, 0):
        raise InspectError(
            f"{path} is no table: its lines are not separated by a comma, semicolon, tab or bar; "
            "if they are `user item item ...`, set data.source to sequences"
        )
    share = f"{best[0]:.0%} of the first records have {best[1]} fields"
    shown = "tab" if delimiter == "\t" else delimiter
    return Guess(shown, "sure" if best[0] > 0.9 else "likely", share), _header(table)


def _header(table: list[list[str]]) -> Guess:
    first = table[0]
    if sum(name_rank(kind, cell) is not None for cell in first for kind in NAMES) >= 2:
        return Guess(True, "sure", "the first line has usual names")
    body = list(zip(*(row for row in table[1:] if len(row) == len(first)), strict=True))
    told = [times(column) is not None or rating_scale(column) is not None for column in body]
    alike = [times([cell]) is not None or rating_scale([cell]) is not None for cell in first]
    if any(t and not a for t, a in zip(told, alike, strict=False)) and len(set(first)) == len(first):
        return Guess(True, "likely", "the first line differs from the others")
    return Guess(False, "likely", "the first line looks like the others, so columns are called 1, 2, 3")


def _columns(findings: Findings, values: dict[str, list[Any]]) -> None:
    """Finds the column of each field, by its name and its values, and how dates and ratings are written."""
    when = {name: found for name in values if (found := times(values[name])) is not None}
    rated = {name: scale for name in values if (scale := rating_scale(values[name])) is not None}
    told = {name: length for name in values if (length := is_text(values[name]))}
    named = [name for name in values if is_name(values[name])]
    columns = findings.columns
    columns["timestamp"] = _pick("timestamp", list(when), sorted(when, key=lambda n: "time_unit" in when[n].settings))
    numeric = [n for n in rated if not isinstance(rated[n].value, dict) and n != columns["timestamp"].value]
    columns["rating"] = _pick("rating", [n for n in rated if n != columns["timestamp"].value], numeric)
    columns["text"] = _pick("text", list(told), sorted(told, key=lambda n: -told[n]))
    taken = {guess.value for guess in columns.values()}
    whole = [n for n in values if n not in taken and n not in when and is_whole(values[n])]
    columns["user"] = _pick("user", whole, [n for n in named if n in whole])
    rest = [n for n in whole if n != columns["user"].value]
    columns["item"] = _pick("item", rest, [n for n in named if n in rest])
    for name in ("user", "item", "timestamp"):
        if not columns[name].value:
            wanted = {"user": "users", "item": "items", "timestamp": "dates"}[name]
            raise InspectError(
                f"{findings.path}: no column looks like {wanted}; the columns are: {', '.join(findings.found)}. "
                f"Write the configuration by hand, with data.columns.{name} (docs/guide.md)"
            )
    headline = _pick("headline", [n for n in values if n in told and n != columns["text"].value], [])
    if columns["text"].value and headline.value:
        columns["text"] = Guess([headline.value, columns["text"].value], "likely", "a headline and a body are joined")
    time = when[columns["timestamp"].value]
    findings.settings |= {name: Guess(value, time.sure, time.why) for name, value in time.settings.items()}
    if scale := rated.get(columns["rating"].value):
        findings.settings["rating_scale"] = scale


def _pick(kind: str, fitting: list[str], by_values: list[str]) -> Guess:
    """The fitting column with the likeliest name, or else the first one whose values say so."""
    named = sorted((n for n in fitting if name_rank(kind, n) is not None), key=lambda n: name_rank(kind, n) or 0)
    if named:
        others = f"; others are {', '.join(named[1:])}" if named[1:] else ""
        return Guess(named[0], "likely" if others else "sure", f"its name and its values{others}")
    if by_values:
        return Guess(by_values[0], "not sure", "its values only")
    return Guess("", "likely", "no column looks like one")
