"""Where recommendations go: a Parquet file, a CSV file or a table of a database. Nothing unfinished looks finished.

Files are written under a hidden name, and tables under one that ends in ``_unfinished``; both are renamed at the end.
Parquet has one row a request with the lists of an answer; CSV and databases, which have no lists, one a recommended
item.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sealr.data.tables import atomic_path
from sealr.redact import redact

Rows = Sequence[dict[str, Any]]
Write = Callable[[Rows, Rows, str | None], None]  # other columns, answers (COLUMNS each) and version of the model
LISTS = {name: pa.list_(pa.string()) for name in ("items", "titles", "reasons", "warnings")} | {
    "scores": pa.list_(pa.float64())
}
ORDER = ("items", "titles", "scores", "reasons", "warnings")
LONG = ("rank", "item", "title", "score", "reason", "model_version")
ADDED = (*ORDER, *LONG)
UNFINISHED = "_unfinished"


class OutputError(ValueError):
    """The output exists already, has an unknown form, or cannot be written; the message says what to do."""


@contextmanager
def writer(out: str, table: str = "", overwrite: bool = False) -> Iterator[Write]:
    """Yields a function that writes a block. When all is written without an error, the output gets its name.

    out: a file whose name ends in .parquet, .csv or .csv.gz, or the address of a database, as SQLAlchemy writes it,
    with the name of a ``table``. overwrite: replaces what is there. Raises OutputError.
    """
    if "://" in out:
        if not table:
            raise OutputError(f"{redact(out)} is a database: name a --table")
        with _database(out, table, overwrite) as write:
            yield write
        return
    if table:
        raise OutputError(f"--table is for databases, and {out} is a file")
    path = Path(out)
    kind = next((made for end, made in FILES.items() if path.name.endswith(end)), None)
    if kind is None:
        raise OutputError(f"{out} ends in none of {', '.join(FILES)}, and is no address of a database")
    if path.exists() and (not overwrite or path.is_dir()):
        raise OutputError(f"{out} exists already: name another, for example with the date, or add --overwrite")
    with atomic_path(path) as temporary, kind(temporary, path) as write:
        yield write


@contextmanager
def _parquet(temporary: Path, path: Path) -> Iterator[Write]:
    file: pq.ParquetWriter | None = None

    def write(others: Rows, answers: Rows, version: str | None) -> None:
        nonlocal file
        block = pa.table(
            {"user": pa.array([a["user"] for a in answers], pa.string())}
            | _columns(others, None if file is None else file.schema)
            | {name: pa.array([list(a[name]) for a in answers], LISTS[name]) for name in ORDER}
            | {"model_version": pa.array([version] * len(answers), pa.string())}
        )
        file = file or pq.ParquetWriter(temporary, block.schema)
        file.write_table(block)

    try:
        yield write
    finally:
        if file is not None:
            file.close()


def _columns(others: Rows, schema: pa.Schema | None) -> dict[str, pa.Array]:
    """The other columns of a block, with the types of the first one, in which a column without values is of texts."""
    names = list(dict.fromkeys(name for row in others for name in row)) if schema is None else schema.names
    made = {}
    for name in names:
        if name == "user" or name in ADDED:
            continue
        values = [row.get(name) for row in others]
        try:
            array = pa.array(values, None if schema is None else schema.field(name).type)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise OutputError(f"the column {name} has values of several types ({error}): make it one, or CSV") from None
        made[name] = array.cast(pa.string()) if pa.types.is_null(array.type) else array
    return made


@contextmanager
def _csv(temporary: Path, path: Path) -> Iterator[Write]:
    names: list[str] = []
    compressed = path.suffix == ".gz"
    with (
        gzip.open(temporary, "wt", encoding="utf-8", newline="")
        if compressed
        else open(temporary, "w", encoding="utf-8", newline="") as file
    ):

        def write(others: Rows, answers: Rows, version: str | None) -> None:
            frame = _long(others, answers, version, names)
            frame.to_csv(file, index=False, header=not names)
            names[:] = frame.columns

        yield write


FILES = {".parquet": _parquet, ".csv": _csv, ".csv.gz": _csv}


def _long(others: Rows, answers: Rows, version: str | None, names: Sequence[str]) -> pd.DataFrame:
    """One row a recommended item. names: the columns of earlier blocks, if there were any."""
    kept = [n for n in names if n != "user" and n not in ADDED] or list(dict.fromkeys(n for row in others for n in row))
    rows = [
        (answer["user"], *(_flat(row.get(n)) for n in kept), rank, item, title, value, reason, version)
        for row, answer in zip(others, answers, strict=True)
        for rank, (item, title, value, reason) in enumerate(
            zip(answer["items"], answer["titles"], answer["scores"], answer["reasons"], strict=True), start=1
        )
    ]
    frame = pd.DataFrame(rows, columns=["user", *kept, *LONG])
    return frame.astype({"rank": "int64", "score": "float64"})


def _flat(value: Any) -> Any:
    """A list or object as JSON."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else value


@contextmanager
def _database(url: str, table: str, overwrite: bool) -> Iterator[Write]:
    from sqlalchemy import BigInteger, Float, create_engine, inspect
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    staging, names = table + UNFINISHED, list[str]()
    try:
        engine = create_engine(url)
    except ModuleNotFoundError as error:
        raise OutputError(f"{redact(url)} needs the driver {error.name}: pip install {error.name}") from None
    except ArgumentError:
        raise OutputError(f"{redact(url)} is no address of a database, such as sqlite:///shop.db") from None
    try:
        quote = engine.dialect.identifier_preparer.quote
        if not overwrite and inspect(engine).has_table(table):
            raise OutputError(f"the table {table} exists already: name another, or add --overwrite to replace it")
        with engine.begin() as connection:  # left by a run that was killed
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {quote(staging)}")

        def write(others: Rows, answers: Rows, version: str | None) -> None:
            frame = _long(others, answers, version, names)
            names[:] = frame.columns
            types: Any = {"rank": BigInteger(), "score": Float(53)}
            with engine.begin() as connection:
                frame.to_sql(staging, connection, if_exists="append", index=False, dtype=types)

        try:
            yield write
        except BaseException:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {quote(staging)}")
            raise
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":  # its driver begins no transaction for these statements
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            if overwrite:
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {quote(table)}")
            connection.exec_driver_sql(f"ALTER TABLE {quote(staging)} RENAME TO {quote(table)}")
            connection.commit()
    except SQLAlchemyError as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise OutputError(f"{redact(url)}: {redact(cause)}") from None
