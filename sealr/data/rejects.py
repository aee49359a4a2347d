"""The rejected table, written row by row, so that millions of bad rows need no memory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from sealr.data.tables import atomic_path

RAW_LIMIT = 10_000  # maximum characters of a raw record
BATCH = 10_000
TEXT = pa.large_string()
SCHEMA = pa.schema([("source", TEXT), ("line", pa.int64()), ("reason", TEXT), ("record", TEXT)])


class Rejects:
    """Context manager that writes ``rejected.parquet``; the file appears if the block ends without an error."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[tuple[str, int, str, str]] = []

    def __enter__(self) -> Rejects:
        self.stack = ExitStack()
        temporary = self.stack.enter_context(atomic_path(self.path))
        self.writer = self.stack.enter_context(pq.ParquetWriter(temporary, SCHEMA))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None:
            self._flush()
        return self.stack.__exit__(kind, error, trace)

    def add(self, source: str, line: int, reason: str, record: str) -> None:
        """Adds a rejected row; the record is cut to RAW_LIMIT characters."""
        record = record[:RAW_LIMIT].encode("utf-8", "backslashreplace").decode()  # Parquet takes no lone surrogates
        self.rows.append((source, line, reason, record))
        if len(self.rows) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self.rows:
            columns = zip(*self.rows, strict=True)
            arrays = [pa.array(column, type) for column, type in zip(columns, SCHEMA.types, strict=True)]
            self.writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
            self.rows.clear()
