"""Reviews of any source as Parquet parts: read and cleaned block by block, large files in several processes.

A part has two files: ``good-<number>.parquet`` with clean reviews, and ``bad-<number>.parquet`` with the rows that are
none and the reasons. ``n`` numbers rows in the order of the data set; numbers of rows may have gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sealr.data.cleaning import clean
from sealr.data.privacy import Private
from sealr.data.rejects import SCHEMA as BAD
from sealr.data.rejects import TEXT, shown
from sealr.data.sources.lines import Row, Span, spans
from sealr.data.tables import atomic_path
from sealr.progress import progress_bar
from sealr.settings import DataConfig

SPAN = 128 << 20  # bytes of a file that one task reads
ROWS, CHARACTERS = 10_000, 32 << 20  # of a block, which is held as Python objects; the first limit that is reached
STRIDE = 1 << 40  # between the numbers of the first rows of two tasks
# Names that no dialect of SQL reserves
GOOD = pa.schema(
    {
        "n": pa.int64(), "user_id": TEXT, "item_id": TEXT, "seconds": pa.int64(), "stars": pa.float32(), "words": TEXT,
        "source": TEXT, "line": pa.int64(), "record": TEXT,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What a task needs besides its spans. since, until: earliest and latest timestamp in seconds."""

    config: DataConfig
    source: Private
    path: Path
    since: int
    until: int
    folder: Path  # for the parts


Task = tuple[int, tuple[Span, ...]]
Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[tuple[int, Any]]]


def read_parts(reading: Reading, run: Run) -> int:
    """Writes the parts of a data set and returns the number of rows read.

    run: applies a function to tasks, and gives their places and results in any order. Only sources of JSON lines
    (``SPLITS``) have more than one task. Raises DataFileError.
    """
    if not getattr(reading.source.source, "SPLITS", False):
        return write_part(reading, 0, reading.source.read_reviews(reading.config, reading.path))
    tasks: list[Task] = list(enumerate(_grouped(spans(reading.path, SPAN))))
    label, total = f"read {reading.path.name}", 0
    with progress_bar(label=label, unit="parts", total=len(tasks), hidden=len(tasks) == 1) as bar:
        for _, rows in run(partial(read_task, reading), tasks):
            total += rows
            bar.update()
    return total


def read_task(reading: Reading, task: Task) -> int:
    """Writes the part of a task, which may run again after a failure."""
    number, given = task
    rows = (row for span in given for row in reading.source.read_reviews(reading.config, span))
    return write_part(reading, number, rows)


def write_part(reading: Reading, number: int, rows: Iterator[Row]) -> int:
    read = 0
    names = [reading.folder / f"{kind}-{number:06}.parquet" for kind in ("good", "bad")]
    with ExitStack() as stack:
        good_file, bad_file = (
            stack.enter_context(
                pq.ParquetWriter(stack.enter_context(atomic_path(name)), schema, use_dictionary=["source"])
            )
            for name, schema in zip(names, (GOOD, BAD), strict=True)
        )
        for block in _blocks(rows):
            good, bad = [], []
            for n, row in enumerate(block, number * STRIDE + read):
                values, reason = None, row.reason
                if row.values is not None:
                    values, reason = clean(row.values, reading.since, reading.until, reading.config.need_text)
                source, record = row.file or reading.path.name, shown(row.raw)
                if values is not None:
                    good.append((n, *values, source, row.line, record))
                else:
                    bad.append((source, row.line, reason, record))
            read += len(block)
            for writer, schema, found in ((good_file, GOOD, good), (bad_file, BAD, bad)):
                if found:
                    writer.write_batch(_batch(found, schema))
    return read


def _batch(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(zip(*rows, strict=True), schema, strict=True)
    return pa.record_batch([pa.array(c, f.type, from_pandas=True) for c, f in columns], schema=schema)


def _blocks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    block: list[Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += len(row.raw)
        if len(block) == ROWS or size >= CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _grouped(found: Iterable[Span]) -> Iterator[tuple[Span, ...]]:
    """Small files share a task."""
    group: list[Span] = []
    for span in found:
        if group and sum(s.end - s.start for s in group) + span.end - span.start > SPAN:
            yield tuple(group)
            group = []
        group.append(span)
    if group:
        yield tuple(group)
