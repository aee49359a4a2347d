"""Any table of reviews, in one file or a folder of parts; ``DataConfig.columns`` names its columns.

`sealr.data.sources.formats` lists the formats. Dates, ratings and several text columns are brought to the form of
reviews here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sealr.data.parts import parts
from sealr.data.sources.dates import DateError, Timestamps
from sealr.data.sources.delimited import DELIMITERS
from sealr.data.sources.formats import lookup, read_records
from sealr.data.sources.lines import Row
from sealr.data.sources.ratings import star_reader
from sealr.settings import DataConfig

HINT = "Name your own file in data.reviews.path."
REQUIRED = ("user", "item", "timestamp")


class ColumnError(ValueError):
    """The file lacks a mapped column; the message names both and lists the columns found."""


def read_reviews(config: DataConfig, path: Path) -> Iterator[Row]:
    """Rows with timestamps in seconds and ratings as stars. Raises ColumnError, DataFileError and DateError."""

    def dates() -> Iterator[Any]:
        return (row.values["timestamp"] for row in _read(config, path, ("timestamp",), ()) if row.values)

    timestamp, stars = Timestamps(config.time_unit, config.date_format, dates), star_reader(config.rating_scale)
    for row in _read(config, path, (*REQUIRED, "rating", "text"), REQUIRED):
        if row.values is None:
            yield row
            continue
        try:
            row.values["timestamp"], reason = timestamp(row.values["timestamp"])
        except DateError as error:
            raise DateError(f"{path} (column {config.columns.timestamp}): {error}") from None
        row.values["rating"] = stars(row.values["rating"])
        yield row._replace(values=None, reason=reason) if reason else row


def read_items(config: DataConfig, path: Path) -> Iterator[Row]:
    return _read(config, path, ("item", "title", "brand", "categories"), ("item",))


def _read(config: DataConfig, path: Path, fields: tuple[str, ...], required: tuple[str, ...]) -> Iterator[Row]:
    names = {field: getattr(config.columns, field) for field in fields}
    names = {field: (name,) if isinstance(name, str) and name else tuple(name) for field, name in names.items()}
    for field in required:
        if not names[field]:
            raise ColumnError(f"data.columns.{field} is empty, but {path.name} needs it")
    wanted = [name for columns in names.values() for name in columns]
    for part in parts(path):
        for row in read_records(part, config, wanted, functools.partial(_check, part, names)):
            record, values = row.values, None
            if record is not None:
                values = {
                    field: record[columns[0]] if len(columns) == 1 and columns[0] in record else _value(record, columns)
                    for field, columns in names.items()
                }
            yield Row(row.line, values, row.raw, row.reason, part.name)


def _value(record: dict[str, Any], columns: tuple[str, ...]) -> Any:
    """The value of a column; several texts are joined by line breaks, without those that are empty."""
    if len(columns) < 2:
        return lookup(record, columns[0]) if columns else None
    found = [value for value in (lookup(record, name) for name in columns) if value not in (None, "")]
    return "\n".join(found) if all(isinstance(value, str) for value in found) else found


def _check(path: Path, names: dict[str, tuple[str, ...]], found: list[str]) -> None:
    for field, columns in names.items():
        for name in columns:
            parent = name.partition(".")[0]
            unseen = parent in found and not any(key.startswith(f"{parent}.") for key in found)  # Parquet hides keys
            if name not in found and not unseen:
                advice = f'Set data.columns.{field} to one of them, or to "" if the file has none'
                if len(found) == 1 and any(d in found[0] for d in DELIMITERS):
                    advice = "If these are several columns, set data.delimiter"
                raise ColumnError(
                    f"{path}: no column {name!r} (data.columns.{field}); the columns are: {', '.join(found)}. {advice}"
                )
