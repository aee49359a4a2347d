"""CSV and its relatives: a header line, and standard double quotes, so that a record may span up to MAX_LINES lines.

A bad record has its first line's number.
"""

from __future__ import annotations

import csv
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sealr.data.sources.encodings import read_text
from sealr.data.sources.lines import DataFileError, Row
from sealr.settings import DataConfig

log = logging.getLogger(__name__)
DELIMITERS = ",;\t|"
MAX_LINES = 1000  # of a record; a longer one has an unclosed double quote, which swallows the following records

SAID = {"unexpected end of data": "a double quote is not closed"}  # Python's messages in words for a user


def find_delimiter(header: str, wanted: list[str]) -> str:
    """The delimiter that gives most of the wanted columns, or else most columns."""

    def score(delimiter: str) -> tuple[int, int]:
        found = next(csv.reader([header], delimiter=delimiter), [])
        return len(set(found) & set(wanted)), len(found)

    return max(DELIMITERS, key=score)


def read_delimited(
    path: Path, config: DataConfig, wanted: list[str], check: Callable[[list[str]], None]
) -> Iterator[Row]:
    """One Row per record. Raises DataFileError for a bad header or an unclosed quote."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # for the process; the default refuses texts over 128 KiB
    lines: list[tuple[int, str, str]] = []  # of the current record: number, text, why it is unreadable

    def remembered() -> Iterator[str]:
        for line in itertools.chain(head, rest):
            if len(lines) == MAX_LINES:
                raise DataFileError(
                    f"{path} line {lines[0][0]}: the record has more than {MAX_LINES:,} lines, because a double quote "
                    'is not closed. Double each quote inside a text, and quote the whole field: 1,"a ""good"" one"'
                )
            lines.append(line)
            yield line[1] + "\n"

    rest = read_text(path, config.encoding)
    head = list(itertools.islice(rest, 1))
    while head and not head[-1][1].strip() and (line := next(rest, None)):
        head.append(line)
    delimiter = {"tab": "\t", "auto": ""}.get(config.delimiter, config.delimiter)
    delimiter = delimiter or find_delimiter(head[-1][1] if head else "", wanted)
    records = csv.reader(remembered(), delimiter=delimiter, strict=True)
    header: list[str] = []
    places: dict[str, int] = {}
    swallowed = 0  # lines inside of accepted records that have the delimiters of a whole record
    while True:
        lines.clear()
        try:
            record, reason = next(records), ""
        except StopIteration:
            break
        except csv.Error as error:
            record, reason = [], f"not CSV: {SAID.get(str(error), error)}"
        if not record and not reason:
            continue  # a blank line
        numbers, texts, reasons = zip(*lines, strict=True)
        if not header:
            if reason:
                raise DataFileError(f"{path} line {numbers[0]}: the header is {reason}")
            header = record if config.header else [str(n) for n in range(1, len(record) + 1)]
            places = {name: header.index(name) for name in header}  # the first of two columns with the same name
            check(header)
            if config.header:
                continue
        reason = next(filter(None, reasons), reason)
        if not reason and len(record) != len(header):
            reason = f"expected {len(header)} columns, found {len(record)}"
        if not reason:
            swallowed += sum(text.count(delimiter) == len(header) - 1 for text in texts[1:-1])
        values = None if reason else {name: record[place] for name, place in places.items()}
        yield Row(numbers[0], values, "\n".join(texts), reason)
    if swallowed:
        log.warning("%s: %d lines inside of quoted fields look like records: is a quote not closed?", path, swallowed)
