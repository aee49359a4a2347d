"""Any CSV, TSV, JSON lines or Parquet file; ``DataConfig.columns`` names its columns.

The suffix tells the format: .csv, .tsv, .jsonl, .json or .ndjson (each also with .gz), or .parquet. CSV and TSV have a
header line and standard double quotes, so a record may span up to MAX_LINES lines. A bad record has its first line's
number.
"""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowInvalid
from tqdm import tqdm

from sealr.data.sources.lines import NOT_UTF8, DataFileError, Row, decode, read_lines, read_objects, seconds
from sealr.settings import DataConfig

log = logging.getLogger(__name__)
HINT = "Name your own file in data.reviews.path."
SEPARATORS = {".csv": ",", ".tsv": "\t"}
OTHER_SEPARATORS = ";\t,|"  # what other programs write; for the advice only
MAX_LINES = 1000  # of a record; a longer one has an unclosed double quote, which swallows the following records
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")


class ColumnError(ValueError):
    """The file lacks a mapped column; the message names both and lists the columns found."""


def read_reviews(config: DataConfig, path: Path) -> Iterator[Row]:
    """Rows with timestamps in seconds. Raises ColumnError and DataFileError."""
    required = ("user", "item", "timestamp")
    for row in _read(config, path, (*required, "rating", "text"), required):
        if row.values is not None:
            row.values["timestamp"] = _to_seconds(row.values["timestamp"], config.time_unit)
        yield row


def read_items(config: DataConfig, path: Path) -> Iterator[Row]:
    return _read(config, path, ("item", "title", "brand", "categories"), ("item",))


def _to_seconds(value: Any, unit: str) -> Any:
    if unit == "iso" or isinstance(value, datetime):  # timestamps of Parquet have their own unit
        return seconds(value)
    try:
        return int((value if isinstance(value, int) else float(value)) // 1000) if unit == "ms" else value
    except (TypeError, ValueError, OverflowError):
        return value


def _read(config: DataConfig, path: Path, fields: tuple[str, ...], required: tuple[str, ...]) -> Iterator[Row]:
    names = {field: getattr(config.columns, field) for field in fields}
    for field in required:
        if not names[field]:
            raise ColumnError(f"data.columns.{field} is empty, but {path.name} needs it")
    suffix = (Path(path.stem) if path.suffix == ".gz" else path).suffix.lower()
    if suffix in SEPARATORS:
        return _read_csv(path, names, SEPARATORS[suffix])
    if suffix in JSON_SUFFIXES:
        return _read_json(path, names)
    if suffix == ".parquet":
        return _read_parquet(path, names)
    raise DataFileError(
        f"{path}: {suffix!r} is not a known format; use .csv, .tsv, .jsonl (each also with .gz) or .parquet"
    )


def _check(path: Path, names: dict[str, str], found: Iterable[str]) -> None:
    found = list(found)
    for field, name in names.items():
        if name and name not in found:
            advice = f'Set data.columns.{field} to one of them, or to "" if the file has none'
            for separator in OTHER_SEPARATORS:
                if len(found) == 1 and name in found[0].split(separator):
                    advice = f"The file is separated by {separator!r}: save it with commas, or with tabs as .tsv"
            raise ColumnError(
                f"{path}: no column {name!r} (data.columns.{field}); the columns are: {', '.join(found)}. {advice}"
            )


def _read_csv(path: Path, names: dict[str, str], separator: str) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # for the process; the default refuses texts over 128 KiB
    lines: list[tuple[int, str, bool]] = []  # of the current record: number, text, whether it is UTF-8

    def remembered() -> Iterator[str]:
        for number, line in read_lines(path):
            if len(lines) == MAX_LINES:
                raise DataFileError(
                    f"{path} line {lines[0][0]}: the record has more than {MAX_LINES:,} lines, because a double quote "
                    'is not closed. Double each quote inside a text, and quote the whole field: 1,"a ""good"" one"'
                )
            lines.append((number, *decode(line)))
            yield lines[-1][1] + "\n"

    records = csv.reader(remembered(), delimiter=separator, strict=True)
    header: list[str] = []
    swallowed = 0  # lines inside of accepted records that have the separators of a whole record
    while True:
        lines.clear()
        try:
            record, reason = next(records), ""
        except StopIteration:
            break
        except csv.Error as error:
            record, reason = [], f"not CSV: {error}"
        if not record and not reason:
            continue  # a blank line
        numbers, texts, valid = zip(*lines, strict=True)
        if not header:
            if reason:
                raise DataFileError(f"{path} line {numbers[0]}: the header is {reason}")
            header = record
            _check(path, names, header)
            continue
        if not all(valid):
            reason = NOT_UTF8
        elif not reason and len(record) != len(header):
            reason = f"expected {len(header)} columns, found {len(record)}"
        if not reason:
            swallowed += sum(text.count(separator) == len(header) - 1 for text in texts[1:-1])
        found = dict(zip(header[::-1], record[::-1], strict=False))  # the first of two columns with the same name
        values = None if reason else {field: found.get(name) if name else None for field, name in names.items()}
        yield Row(numbers[0], values, "\n".join(texts), reason)
    if swallowed:
        log.warning("%s: %d lines inside of quoted fields look like records: is a quote not closed?", path, swallowed)


def _read_json(path: Path, names: dict[str, str]) -> Iterator[Row]:
    """A key that is missing in some objects is null there; a key that no object has is an error."""
    seen: set[str] = set()

    def fields(record: dict[str, Any]) -> dict[str, Any]:
        seen.update(record)
        return {field: record.get(name) if name else None for field, name in names.items()}

    yield from read_objects(path, fields)
    if seen:
        _check(path, names, sorted(seen))


def _read_parquet(path: Path, names: dict[str, str]) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise DataFileError(f"{path} is not a readable Parquet file: {error}") from None
    with file, tqdm(total=file.metadata.num_rows, unit="row", unit_scale=True, desc=path.name, disable=None) as bar:
        _check(path, names, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(batch_size=10_000, columns=sorted({name for name in names.values() if name})):
            for record in batch.to_pylist():
                number += 1
                values = {field: record[name] if name else None for field, name in names.items()}
                yield Row(number, values, json.dumps(record, default=str, ensure_ascii=False))
            bar.update(len(batch))
