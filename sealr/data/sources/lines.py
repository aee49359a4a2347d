"""Reading files line by line, plain, gzip or zstd, with a progress bar in bytes.

Every reader yields ``Row``s. A row has raw values, which ``sealr.data.cleaning`` checks later, or the reason why the
record is unreadable. It always has its line number and raw text.
"""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
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
BLOCK = 1 << 20  # bytes read at once where lines are only counted
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


class Span(NamedTuple):
    """Whole lines of a file."""

    path: Path
    start: int  # bytes
    end: int  # byte after the last one
    line: int  # lines before the start
    whole: bool  # whether the file has nothing else


def spans(path: Path, size: int) -> Iterator[Span]:
    """The lines of a file, or of a folder of parts, in spans of about ``size`` bytes.

    Only plain files of one byte per character can be split.
    """
    for part in parts(path):
        total = part.stat().st_size
        with open(part, "rb") as file:
            magic = file.read(4)
            start = line = 0
            if not (magic.startswith((GZIP_MAGIC, *BOMS_16)) or magic == ZSTD_MAGIC):
                while total - start > size:
                    file.seek(start)
                    lines, read = 0, 0
                    while read < size and (block := file.read(min(BLOCK, size - read))):
                        lines, read = lines + block.count(b"\n"), read + len(block)
                    read, lines = read + len(file.readline()), lines + 1
                    yield Span(part, start, start + read, line, False)
                    start, line = start + read, line + lines
            if start < total or not total:
                yield Span(part, start, total, line, not start)


def read_lines(path: Path | Span, encoding: str = "") -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, without a byte order mark; the content tells gzip and zstd.

    encoding: of a file with two or four bytes per character, whose lines become UTF-8; a byte order mark tells it too.
    Raises DataFileError for damaged compression or an endless line, FileNotFoundError without a file.
    """
    if isinstance(path, Span):
        if not path.whole:
            yield from _lines_of(path)
            return
        path = path.path
    size, number = path.stat().st_size, 0
    inner = multiprocessing.parent_process() is not None  # the parent shows the progress
    with (
        progress_bar(label=f"read {path.name}", unit="MB", total=size, scale=1e-6, hidden=inner) as bar,
        open_bytes(path) as (stream, file),
    ):
        lines: Iterator[bytes] = iter(lambda: stream.readline(LONGEST + 1), b"")
        if encoding or stream.peek(2)[:2] in BOMS_16:
            wide = io.TextIOWrapper(stream, encoding or "utf-16", errors="replace", newline="\n")
            lines = (line.encode() for line in iter(lambda: wide.readline(LONGEST + 1), ""))
        for number, line in enumerate(lines, 1):
            _check_length(path, number, line)
            if number % 1000 == 0:
                bar.update(file.tell() - bar.n)
            yield number, line.removeprefix(BOM) if number == 1 else line
        bar.update(size - bar.n)


def _lines_of(span: Span) -> Iterator[tuple[int, bytes]]:
    with open(span.path, "rb") as file:
        file.seek(at := span.start)
        number = span.line
        while at < span.end:
            line = file.readline(LONGEST + 1)
            at, number = at + len(line), number + 1
            _check_length(span.path, number, line)
            yield number, line.removeprefix(BOM) if number == 1 else line


def _check_length(path: Path, number: int, line: bytes) -> None:
    if len(line) > LONGEST:
        raise DataFileError(f"{path}: line {number} is longer than {LONGEST:,} bytes; is this a text file?")


def decode(line: bytes) -> tuple[str, bool]:
    """The line as text without its end, and whether it is UTF-8; invalid bytes become ``\\xNN``."""
    line = line.rstrip(b"\r\n")
    try:
        return line.decode("utf-8"), True
    except UnicodeDecodeError:
        return line.decode("utf-8", "backslashreplace"), False


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_no_constant)


def parse_json(text: str) -> Any:
    """json.loads that raises ValueError for NaN and Infinity, which are not JSON; not for bytes."""
    return DECODER.decode(text)


def read_objects(
    path: Path | Span, fields: Callable[[dict[str, Any]], dict[str, Any]], parse: Callable[[str], Any] = parse_json
) -> Iterator[Row]:
    """One Row per non-blank line of a file, a span, or a folder of parts; ``fields`` maps parsed objects to our fields.

    parse: parses a line; raises ValueError for invalid text.
    """
    for part in [path] if isinstance(path, Span) else parts(path):
        name = part.path.name if isinstance(part, Span) else part.name
        for number, line in read_lines(part):
            if line.strip():
                text, valid = decode(line)
                record, reason = parse_object(text, parse) if valid else (None, NOT_UTF8)
                yield Row(number, fields(record) if record is not None else None, text, reason, name)


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
