"""The encoding of a text file: found by sight, or given. No line is lost because of a few odd bytes."""

from __future__ import annotations

import codecs
import functools
import io
import logging
from collections.abc import Iterator
from pathlib import Path

from sealr.data.sources.lines import DataFileError, open_bytes, read_lines

log = logging.getLogger(__name__)
SAMPLE = 1 << 20  # bytes
WESTERN = "cp1252"  # what is tried where nothing is known: latin-1 with the signs of Windows
# Others that charset-normalizer may name; a shorter list errs less
CANDIDATES = ["cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp932", "gb18030", "big5", "cp949", "euc_jp"]
WIDE = ("utf-16", "utf-32")


def detect(sample: bytes) -> tuple[str, str]:
    """The encoding of the beginning of a file, and why it is thought so."""
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if sample.startswith(mark):
            return name, "it starts with a byte order mark"
    if sample[:400].count(0) > len(sample[:400]) // 4:
        return ("utf-16-le" if sample[1:400:2].count(0) > sample[:400:2].count(0) else "utf-16-be"), "it has zero bytes"
    whole = sample[: sample.rfind(b"\n") + 1] or sample  # the last line may end within a character
    try:
        whole.decode("utf-8")
        return "utf-8", "ASCII only" if whole.isascii() else "all its characters are valid"
    except UnicodeDecodeError:
        odd = b"\n".join(line for line in whole.split(b"\n") if not _is_utf8(line))
        return guess(odd[: 1 << 16]), "some lines are not UTF-8"


def guess(lines: bytes) -> str:
    """The likeliest encoding of lines that are not UTF-8."""
    from charset_normalizer import from_bytes

    found = from_bytes(lines, cp_isolation=CANDIDATES)
    if not found or any(WESTERN in match.could_be_from_charset for match in found):
        return WESTERN
    return found[0].encoding


def read_blocks(path: Path, encoding: str = "auto", characters: int = 1 << 20) -> Iterator[str]:
    """The text of a file in blocks; characters that are not of its encoding become ``\ufffd``."""
    with open_bytes(path) as (stream, _):
        name = _known(encoding) if encoding != "auto" else detect(stream.peek(1 << 16))[0]
        wide = encoding != "auto" or name.startswith(WIDE)
        with io.TextIOWrapper(stream, name if wide else "utf-8-sig", errors="replace") as text:
            while block := text.read(characters):
                yield block


def _known(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise DataFileError(f"data.encoding {encoding!r} is unknown; try utf-8, cp1252, utf-16 or auto") from None


def read_text(path: Path, encoding: str = "auto") -> Iterator[tuple[int, str, str]]:
    """Lines as text without their ends, with their numbers from 1 and the reason why a line is unreadable, or "".

    auto: UTF-8; lines that are not UTF-8 are read in the encoding that the first megabyte suggests, and a warning
    counts them. Raises DataFileError for an unknown encoding.
    """
    if encoding != "auto":
        name = _known(encoding)
        for number, line in read_lines(path, name if name.startswith(WIDE) else ""):
            text, reason = _decode(line, "utf-8" if name.startswith(WIDE) else name)
            yield number, text, reason and f"not {encoding}: see data.encoding"
        return
    with open_bytes(path) as (stream, _):
        name, _ = detect(stream.read(SAMPLE))
    odd = 0
    other = WESTERN if name.startswith(("utf-", *WIDE)) else name
    for number, line in read_lines(path, name if name.startswith(WIDE) else ""):
        text, reason = _decode(line, "utf-8")
        if reason:
            odd += 1
            text, reason = _decode(line, other)
            text = line.rstrip(b"\r\n").decode("latin-1") if reason else text  # which knows every byte
        yield number, text, ""
    if odd:
        _warn(path, odd, other)


@functools.lru_cache(64)  # once, although a file is read more than once
def _warn(path: Path, lines: int, encoding: str) -> None:
    log.warning(
        "%s: %s lines are not UTF-8, so they are read as %s; or set data.encoding", path, f"{lines:,}", encoding
    )


def _decode(line: bytes, encoding: str) -> tuple[str, str]:
    line = line.rstrip(b"\r\n")
    try:
        return line.decode(encoding), ""
    except UnicodeDecodeError as error:
        return line.decode("utf-8", "backslashreplace"), error.reason


def _is_utf8(line: bytes) -> bool:
    return not _decode(line, "utf-8")[1]
