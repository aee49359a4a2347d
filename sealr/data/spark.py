"""Ingest on Spark: ``data.engine=spark``. The same functions and the same SQL as on one machine, so equal tables.

Workers need SEALR and must see the files of reviews and the state folder, for example on a shared file system. Tables
pass between steps as Parquet files, so a killed worker costs only its own tasks.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sealr.data.engine import ROWS
from sealr.data.sources.lines import DataFileError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SENTENCE = re.compile(r"DataFileError: (.+)$", re.MULTILINE)  # in a worker's stack trace


class SparkError(ValueError):
    """Spark is missing."""


class Spark:
    """The engine on a session. folder: for tables, seen by all workers."""

    def __init__(self, session: SparkSession, folder: Path):
        self.session, self.folder, self.numbers = session, folder, itertools.count()

    def run(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterable[tuple[int, Any]]:
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import PySparkException

        context = self.session.sparkContext
        try:
            return enumerate(context.parallelize(tasks, len(tasks)).map(work).collect())
        except (PySparkException, Py4JJavaError) as error:
            if found := SENTENCE.findall(str(error)):
                raise DataFileError(found[-1]) from None
            raise

    def view(self, name: str, files: Iterable[Path]) -> None:
        self.session.read.parquet(*map(str, files)).createOrReplaceTempView(name)

    def make(self, name: str, query: str) -> None:
        self.view(name, [self._written(query)])

    def number(self, query: str) -> int:
        ((value,),) = self.session.sql(query).collect()
        return value

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        folder = self._written(query)
        for part in sorted(folder.glob("part-*.parquet")):  # Spark names parts in the order of the rows
            with pq.ParquetFile(part) as file:
                yield from file.iter_batches(ROWS)
        shutil.rmtree(folder)

    def _written(self, query: str) -> Path:
        folder = self.folder / f"table-{next(self.numbers)}"
        self.session.sql(query).write.parquet(str(folder))
        return folder


@contextmanager
def open_spark(folder: Path) -> Iterator[Spark]:
    """The active session, or a new one that ends with the block. Raises SparkError."""
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise SparkError("data.engine=spark needs Spark: pip install 'sealr[spark]', and Java 17 or later") from None
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        raise SparkError("data.engine=spark needs Java 17 or later: install it, or set JAVA_HOME")
    if (session := SparkSession.getActiveSession()) is not None:
        yield Spark(session, folder)
        return
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers in this environment
    builder = SparkSession.builder.appName("sealr-ingest").config("spark.ui.showConsoleProgress", "false")
    if master := os.environ.get("SPARK_MASTER"):
        builder = builder.master(master)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield Spark(session, folder)
    finally:
        session.stop()
