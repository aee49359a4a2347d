"""Reading files line by line, gzip or plain, with a progress bar in bytes.

Every reader yields ``Row``s. A row has raw values, which ``sealr.data.cleaning`` checks later, or the reason why the
record is unreadable. It always has its line number and raw text.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
NOT_UTF8 = "not UTF-8"
LONGEST = 64 << 20  # maximum bytes per line: a small gzip file can hold a line that exceeds the memory


class DataFileError(ValueError):
    """A data file is damaged, empty or has another format; the message names the file."""


class Row(NamedTuple):
    line: int  # first line (text) or row (Parquet) of the record, from 1
    values: dict[str, Any] | None  # None if the record is unreadable
    raw: str  # the record as in the file
    reason: str = ""  # why values is None


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, without a byte order mark; gzip is recognised by content.

    Raises DataFileError for a damaged gzip file or an endless line, FileNotFoundError without a file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file, tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
        compressed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        lines = gzip.GzipFile(fileobj=file) if compressed else file
        number = 0
        try:
            while line := lines.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise DataFileError(f"{path}: line {number} is longer than {LONGEST:,} bytes; is this a text file?")
                if number == 1:
                    line = line.removeprefix(BOM)
                if number % 1000 == 0:
                    bar.update(file.tell() - bar.n)
                yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataFileError(
                f"{path}: the gzip file is truncated or damaged after line {number} ({error}); download it again"
            ) from None
        bar.update(size - bar.n)


def decode(line: bytes) -> tuple[str, bool]:
    """The line as text without its end, and whether it is UTF-8; invalid bytes become ``\\xNN``."""
    line = line.rstrip(b"\r\n")
    try:
        return line.decode("utf-8"), True
    except UnicodeDecodeError:
        return line.decode("utf-8", "backslashreplace"), False


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse_json(text: str) -> Any:
    """json.loads that raises ValueError for NaN and Infinity, which are not JSON."""
    return json.loads(text, parse_constant=_no_constant)


def read_objects(
    path: Path, fields: Callable[[dict[str, Any]], dict[str, Any]], parse: Callable[[str], Any] = parse_json
) -> Iterator[Row]:
    """One Row per non-blank line; ``fields`` maps the parsed object to our fields.

    parse: parses a line; raises ValueError for invalid text.
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        text, valid = decode(line)
        record, reason = None, "" if valid else NOT_UTF8
        try:
            record = parse(text) if valid else None
        except (ValueError, RecursionError):  # thousands of nested brackets recurse too deeply
            reason = "not JSON"
        if isinstance(record, dict):
            yield Row(number, fields(record), text)
        else:
            yield Row(number, None, text, reason or "not an object")


def seconds(value: Any) -> Any:
    """An ISO 8601 date or date-time as seconds since 1970; UTC if it has no offset.

    None and unreadable values are returned unchanged, so that cleaning rejects the row with its raw value.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return value
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return value
    return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() // 1)
