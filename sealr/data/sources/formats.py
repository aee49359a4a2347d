"""Tables in files of any common format, as records: CSV and the like, JSON lines, a JSON array, Parquet, Excel.

The content tells the format, except that .csv, .tsv, .txt, .parquet and .xlsx are what they say. Text formats may be
compressed with gzip or zstd. A ``Row`` holds a whole record, by column name.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from sealr.data.sources.delimited import read_delimited
from sealr.data.sources.encodings import read_blocks, read_text
from sealr.data.sources.lines import LONGEST, DataFileError, Row, open_bytes, parse_object
from sealr.progress import progress_bar
from sealr.settings import DataConfig

Format = Literal["delimited", "json lines", "json array", "parquet", "excel"]
BETWEEN = re.compile(r"[\s,]*")  # objects of a JSON array
SUFFIXES: dict[str, Format] = {
    ".csv": "delimited", ".tsv": "delimited", ".txt": "delimited", ".parquet": "parquet", ".xlsx": "excel",
}  # fmt: skip
REFUSED = {
    b"\xd0\xcf\x11\xe0": "an old Excel file: save it as .xlsx or .csv",
    b"SQLite format 3": "a SQLite database: set data.reviews.path to sqlite:///FILE and data.reviews.query to a query",
    b"\x89PNG": "a picture: name the file with the reviews in data.reviews.path",
    b"%PDF": "a PDF: name the file with the reviews in data.reviews.path",
    b"BZh": "compressed with bzip2: unpack it",
    b"\xfd7zXZ": "compressed with xz: unpack it",
}
Check = Callable[[list[str]], None]  # raises an error if a wanted column is not among those found


def format_of(path: Path) -> Format:
    """The format of a file. Raises DataFileError for a known format that is not read."""
    with open_bytes(path) as (stream, _):
        start = stream.read(1024)
    for magic, what in REFUSED.items():
        if start.startswith(magic):
            raise DataFileError(f"{path} is {what}")
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"PK\x03\x04") and path.suffix.lower() != ".xlsx":
        raise DataFileError(f"{path} is a zip archive: unpack it; an Excel file needs a name that ends in .xlsx")
    suffix = next((s.lower() for s in reversed(path.suffixes) if s.lower() not in (".gz", ".zst")), "")
    text = start.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    return "json array" if text.startswith(b"[") else "json lines" if text.startswith(b"{") else "delimited"


def read_records(path: Path, config: DataConfig, wanted: list[str], check: Check) -> Iterator[Row]:
    """Rows whose values are whole records.

    wanted: the columns that the caller uses; they tell the delimiter, and of Parquet only they are read.
    check: called with the columns of the file, as soon as they are known.
    """
    kind = format_of(path)
    if kind == "parquet":
        yield from _read_parquet(path, wanted, check)
    elif kind == "excel":
        yield from _read_excel(path, check)
    elif kind == "delimited":
        yield from read_delimited(path, config, wanted, check)
    else:
        seen: dict[str, None] = {}
        array = kind == "json array"
        rows = _read_json_array(path, read_blocks(path, config.encoding)) if array else _read_json_lines(path, config)
        for row in rows:
            seen.update(dict.fromkeys(keys(row.values or {})))
            yield row
        if seen:
            check(list(seen))  # a key that is missing in some objects is null there; one that no object has is an error


def keys(record: dict[str, Any]) -> list[str]:
    """The names of all values: ``{"a": {"b": 1}}`` has a and a.b."""
    found = list(record)
    for key, value in record.items():
        if isinstance(value, dict):
            found += [f"{key}.{inner}" for inner in keys(value)]
    return found


def lookup(record: dict[str, Any], name: str) -> Any:
    """The value of a column; ``a.b`` is the key b of the object a, if no column has this name."""
    if name in record:
        return record[name]
    value: Any = record
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _read_json_lines(path: Path, config: DataConfig) -> Iterator[Row]:
    for number, text, reason in read_text(path, config.encoding):
        if text.strip():
            record, reason = (None, reason) if reason else parse_object(text)
            yield Row(number, record, text, reason)


def _read_json_array(path: Path, blocks: Iterator[str]) -> Iterator[Row]:
    """Objects of an array, one at a time: the array may exceed the memory. Line numbers count objects."""
    decoder, text, at, number = json.JSONDecoder(), next(blocks, "").lstrip(), 1, 0
    while True:
        at = BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if text.startswith("]", at):
            return
        try:
            record, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            block = next(blocks, "") if len(text) - at < LONGEST else ""
            if not block:
                raise DataFileError(f"{path}: object {number + 1:,} of the JSON array is damaged: {error}") from None
            text, at = text[at:] + block, 0
            continue
        number += 1
        found = isinstance(record, dict)
        yield Row(number, record if found else None, text[at:end], "" if found else "not an object")
        at = end


def _read_parquet(path: Path, wanted: list[str], check: Check) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataFileError(f"{path} is not a readable Parquet file: {error}") from None
    with file, progress_bar(label=f"read {path.name}", unit="rows", total=file.metadata.num_rows) as bar:
        names = file.schema_arrow.names
        check(names)
        read = {name if name in names else name.partition(".")[0] for name in wanted}
        rows = itertools.count(1)
        for batch in file.iter_batches(batch_size=10_000, columns=sorted(read) if wanted else None):
            for record in batch.to_pylist():
                yield Row(next(rows), record, json.dumps(record, default=str, ensure_ascii=False))
            bar.update(len(batch))


def _read_excel(path: Path, check: Check) -> Iterator[Row]:
    """The first sheet; its first row that is not empty is the header. Raises ImportError without openpyxl."""
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError:
        raise ImportError(f"{path.name} is an Excel file, which needs openpyxl: pip install 'sealr[excel]'") from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # a broken archive raises errors of many types
        raise DataFileError(f"{path} is not a readable Excel file: {error}") from None
    header: list[str] = []
    for number, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
        if all(cell is None for cell in cells):
            continue
        if not header:
            header = ["" if cell is None else str(cell) for cell in cells]
            check(header)
            continue
        record = dict(zip(header, cells, strict=False))
        shown = {k: v.isoformat() if isinstance(v, date) else v for k, v in record.items()}
        yield Row(number, record, json.dumps(shown, default=str, ensure_ascii=False))
    book.close()
