"""Where ingest runs: DuckDB and processes on this machine, or Spark (`sealr.data.spark`).

Both take the same SQL. Both work beyond memory: DuckDB writes to ``folder`` what exceeds MEMORY.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from sealr.data.processes import cores, in_processes

MEMORY = "1GB"  # of DuckDB
ROWS = 20_000  # rows of a batch


class Engine(Protocol):
    def run(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterable[tuple[int, Any]]:
        """Applies a function to tasks, at the same time; gives their places and results, in any order."""

    def view(self, name: str, files: Iterable[Path]) -> None:
        """Names the rows of Parquet files."""

    def make(self, name: str, query: str) -> None:
        """Stores the rows of a query under a name, also in place of an earlier table."""

    def number(self, query: str) -> int:
        """The only value of a query."""

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query in its order, in batches."""


class DuckDB:
    """The embedded engine. folder: for what exceeds the memory."""

    run = staticmethod(in_processes)

    def __init__(self, folder: Path):
        import duckdb

        settings: dict[str, Any] = {"memory_limit": MEMORY, "threads": cores(), "temp_directory": str(folder / "spill")}
        # Files of Python's memory are no tables, and no extension is loaded from anywhere
        settings |= {"python_enable_replacements": False, "autoinstall_known_extensions": False}
        self.connection = duckdb.connect(str(folder / "tables.duckdb"), config=settings)
        with suppress(duckdb.InvalidInputException):  # in a notebook without ipywidgets, there is no bar to switch off
            self.connection.execute("SET enable_progress_bar = false")  # it would go to the output of commands

    def view(self, name: str, files: Iterable[Path], numbered: bool = False) -> None:
        """numbered: with the column ``file_row_number``, from 0."""
        source = f"read_parquet([{', '.join(text(str(file)) for file in files)}], file_row_number={numbered})"
        self.connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM {source}")

    def make(self, name: str, query: str) -> None:
        self.connection.execute(f"CREATE OR REPLACE TABLE {name} AS {query}")

    def number(self, query: str) -> int:
        ((value,),) = self.connection.execute(query).fetchall()
        return value

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        with self.connection.cursor() as cursor:
            yield from cursor.sql(query).to_arrow_reader(ROWS)


def text(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


@contextmanager
def open_engine(folder: Path) -> Iterator[DuckDB]:
    engine = DuckDB(folder)
    try:
        yield engine
    finally:
        engine.connection.close()
