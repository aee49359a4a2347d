"""The rejected table, written row by row, so that millions of bad rows need no memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sealr.data.tables import atomic_path

RAW_LIMIT = 10_000  # maximum characters of a raw record
BATCH = 10_000
TEXT = pa.large_string()
SCHEMA = pa.schema({"source": TEXT, "line": pa.int64(), "reason": TEXT, "record": TEXT})


class Rejects:
    """Rejected rows; `rejected_table` makes one."""

    def __init__(self, writer: pq.ParquetWriter):
        self.writer = writer
        self.rows: list[dict[str, str | int]] = []  # not yet written
        self.counts: Counter[str] = Counter()  # by reason

    def add(self, source: str, line: int, reason: str, record: str) -> None:
        """Adds a rejected row; the record is cut to RAW_LIMIT characters."""
        record = record[:RAW_LIMIT].encode("utf-8", "backslashreplace").decode()  # Parquet takes no lone surrogates
        self.rows.append({"source": source, "line": line, "reason": reason, "record": record})
        self.counts[reason] += 1
        if len(self.rows) >= BATCH:
            self.flush()

    def flush(self) -> None:
        if not self.rows:
            return
        self.writer.write_table(pa.Table.from_pylist(self.rows, schema=SCHEMA))
        self.rows.clear()


@contextmanager
def rejected_table(path: Path) -> Iterator[Rejects]:
    """Writes the rows added in the block to ``path``; the file appears if the block ends without an error."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        rejects = Rejects(writer)
        yield rejects
        rejects.flush()
