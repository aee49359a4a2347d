"""The rejected table, written in blocks, so that millions of bad rows need no memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sealr.data.tables import atomic_path

RAW_LIMIT = 10_000  # maximum characters of a raw record
BATCH = 10_000
TEXT = pa.large_string()
SCHEMA = pa.schema({"source": TEXT, "line": pa.int64(), "reason": TEXT, "record": TEXT})


def shown(record: str) -> str:
    """A raw record as it is kept: cut to RAW_LIMIT characters, without lone surrogates, which Parquet does not take."""
    record = record[:RAW_LIMIT]
    return record if record.isascii() else record.encode("utf-8", "backslashreplace").decode()


class Rejects:
    """Rejected rows; `rejected_table` makes one."""

    def __init__(self, writer: pq.ParquetWriter):
        self.writer = writer
        self.rows: list[dict[str, str | int]] = []  # not yet in blocks
        self.blocks: list[pa.Table] = []  # not yet written
        self.waiting = 0  # rows of the blocks
        self.counts: Counter[str] = Counter()  # by reason

    def add(self, source: str, line: int, reason: str, record: str) -> None:
        """Adds a rejected row."""
        self.rows.append({"source": source, "line": line, "reason": reason, "record": shown(record)})
        if len(self.rows) >= BATCH:
            self.flush()

    def add_block(self, block: pa.Table) -> None:
        """Adds rows with the columns of SCHEMA, whose records are `shown`."""
        self.blocks.append(block.select(SCHEMA.names))
        self.waiting += len(block)
        found = block["reason"].value_counts()
        self.counts.update(dict(zip(*(found.field(i).to_pylist() for i in (0, 1)), strict=True)))
        if self.waiting >= BATCH:
            self._write()

    def flush(self) -> None:
        """Writes what waits, and counts it."""
        if self.rows:
            self.add_block(pa.Table.from_pylist(self.rows, schema=SCHEMA))
            self.rows.clear()
        self._write()

    def _write(self) -> None:
        if self.blocks:
            self.writer.write_table(pa.concat_tables(self.blocks))
        self.blocks.clear()
        self.waiting = 0


@contextmanager
def rejected_table(path: Path) -> Iterator[Rejects]:
    """Writes the rows added in the block to ``path``; the file appears if the block ends without an error."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        rejects = Rejects(writer)
        yield rejects
        rejects.flush()


def blocks_of(files: Iterable[Path], columns: list[str]) -> Iterator[pa.Table]:
    """The rows of Parquet files, block by block."""
    for file in files:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(BATCH, columns=columns):
                yield pa.Table.from_batches([batch])


def join_late(late: Iterator[pa.RecordBatch], blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Rows of ``blocks`` whose numbers ``n`` are in ``late``, with its reasons; both are in the order of ``n``."""
    numbers, reasons = np.empty(0, np.int64), pa.array([], TEXT)
    for block in blocks:
        n = block["n"].to_numpy()
        while (not len(numbers) or numbers[-1] < n[-1]) and (more := next(late, None)) is not None:
            numbers = np.concatenate([numbers, more["n"].to_numpy()])
            reasons = pa.concat_arrays([reasons, more["reason"].cast(TEXT)])
        count = int(np.searchsorted(numbers, n[-1], side="right"))
        if count:
            found = block.take(np.searchsorted(n, numbers[:count]))
            yield found.append_column("reason", reasons[:count])
        numbers, reasons = numbers[count:], reasons[count:]
