"""Reading files line by line, plain, gzip or zstd, with a progress bar in bytes.

Every reader yields ``Row``s. A row has raw values, which ``sealr.data.cleaning`` checks later, or the reason why the
record is unreadable. It always has its line number and raw text.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from sealr.data.parts import parts
from sealr.progress import progress_bar

GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
BOM = b"\xef\xbb\xbf"
BOMS_16 = (b"\xff\xfe", b"\xfe\xff")
NOT_UTF8 = "not UTF-8"
LONGEST = 64 << 20  # maximum bytes per line: a small gzip file can hold a line that exceeds the memory


class DataFileError(ValueError):
    """A data file is damaged, empty or has another format; the message names the file."""


class Row(NamedTuple):
    line: int  # first line (text) or row (Parquet) of the record in its file, from 1
    values: dict[str, Any] | None  # None if the record is unreadable
    raw: str  # the record as in the file
    reason: str = ""  # why values is None
    file: str = ""  # name of the part, if the data set is a folder


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[Any, IO[bytes]]]:
    """The decompressed bytes of a file, and the file itself, whose position tells the progress.

    The content tells the compression. Raises DataFileError within the block if the compressed bytes are damaged.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
        file.seek(0)
        stream: Any = file
        if magic.startswith(GZIP_MAGIC):
            stream = gzip.GzipFile(fileobj=file)
        elif magic == ZSTD_MAGIC:
            stream = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))
        try:
            yield stream, file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataFileError(f"{path}: the gzip file is truncated or damaged ({error}); download it again") from None
        except OSError as error:
            if magic != ZSTD_MAGIC:
                raise
            raise DataFileError(f"{path}: the zstd file is truncated or damaged ({error}); download it again") from None


def read_lines(path: Path, encoding: str = "") -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, without a byte order mark; the content tells gzip and zstd.

    encoding: of a file with two or four bytes per character, whose lines become UTF-8; a byte order mark tells it too.
    Raises DataFileError for damaged compression or an endless line, FileNotFoundError without a file.
    """
    size, number = path.stat().st_size, 0
    with (
        progress_bar(label=f"read {path.name}", unit="MB", total=size, scale=1e-6) as bar,
        open_bytes(path) as (stream, file),
    ):
        lines: Iterator[bytes] = iter(lambda: stream.readline(LONGEST + 1), b"")
        if encoding or stream.peek(2)[:2] in BOMS_16:
            wide = io.TextIOWrapper(stream, encoding or "utf-16", errors="replace", newline="\n")
            lines = (line.encode() for line in iter(lambda: wide.readline(LONGEST + 1), ""))
        for number, line in enumerate(lines, 1):
            if len(line) > LONGEST:
                raise DataFileError(f"{path}: line {number} is longer than {LONGEST:,} bytes; is this a text file?")
            if number % 1000 == 0:
                bar.update(file.tell() - bar.n)
            yield number, line.removeprefix(BOM) if number == 1 else line
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
    """One Row per non-blank line of a file or of a folder of parts; ``fields`` maps the parsed object to our fields.

    parse: parses a line; raises ValueError for invalid text.
    """
    for part in parts(path):
        for number, line in read_lines(part):
            if line.strip():
                text, valid = decode(line)
                record, reason = parse_object(text, parse) if valid else (None, NOT_UTF8)
                yield Row(number, fields(record) if record is not None else None, text, reason, part.name)


def parse_object(text: str, parse: Callable[[str], Any] = parse_json) -> tuple[dict[str, Any] | None, str]:
    """The object that a line holds; or None, and the reason."""
    try:
        record = parse(text)
    except (ValueError, RecursionError):  # thousands of nested brackets recurse too deeply
        return None, "not JSON"
    return (record, "") if isinstance(record, dict) else (None, "not an object")


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
