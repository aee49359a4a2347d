"""Expectations of a table that is too large to be held: counts over all rows by DuckDB, and a sample of rows.

Great Expectations then judges the sample (`sealr.data.validate.validate_file`). The sample is seeded and holds the
first offending rows of each expectation that must hold in every row, so no bad row escapes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sealr.data.engine import open_engine, text
from sealr.data.tables import SCHEMAS

ROWS = 200_000  # of a sample; smaller tables are checked whole


@dataclass(frozen=True)
class Sample:
    frame: pd.DataFrame
    numbers: np.ndarray  # row of the table for each row of the frame
    rows: int  # of the table
    unexpected: dict[str, int]  # by `key` of an expectation: offending rows of the table


def key(expectation: str, kwargs: dict[str, Any]) -> str:
    given = {k: v for k, v in kwargs.items() if k != "batch_id" and v is not None}
    return json.dumps([expectation, given], sort_keys=True, default=str)


def sample(path: Path, name: str, expectations: list[tuple[str, dict[str, Any]]], shown: int) -> Sample:
    """Counts the rows that break expectations (type and arguments), and draws a sample with ``shown`` of each."""
    rows = pq.ParquetFile(path).metadata.num_rows
    unexpected, bad = {}, []
    with tempfile.TemporaryDirectory() as folder, open_engine(Path(folder)) as engine:
        engine.view("checked", [path], numbered=True)
        for kind, kwargs in expectations:
            condition = _condition(kind, kwargs, set(pq.read_schema(path).names))
            if condition is None:
                continue
            count = engine.number(f"SELECT count(*) FROM checked WHERE {condition}")
            unexpected[key(kind, kwargs)] = count
            if count:
                first = f"SELECT file_row_number FROM checked WHERE {condition} ORDER BY file_row_number LIMIT {shown}"
                bad += [n for batch in engine.batches(first) for n in batch[0].to_pylist()]
    drawn = np.random.default_rng(0).choice(rows, min(rows, ROWS), replace=False)
    numbers = np.union1d(drawn, np.array(bad, np.int64))
    return Sample(_take(path, numbers).astype(SCHEMAS[name]), numbers, rows, unexpected)


def _take(path: Path, numbers: np.ndarray) -> pd.DataFrame:
    """Rows of a Parquet file by their sorted numbers."""
    found, start = [], 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            a, b = np.searchsorted(numbers, [start, start + len(table)])
            found.append(table.take(pa.array(numbers[a:b] - start)))
            start += len(table)
    return pa.concat_tables(found).to_pandas()


def _condition(kind: str, kwargs: dict[str, Any], columns: set[str]) -> str | None:
    """SQL that is true for offending rows; None unless the expectation must hold in every row."""
    names = kwargs.get("column_list") or [kwargs.get("column")]
    if kind not in CONDITIONS or kwargs.get("mostly") not in (None, 1) or not columns.issuperset(names):
        return None
    return CONDITIONS[kind](", ".join(f'"{name}"' for name in names), kwargs)


def _outside(column: str, kwargs: dict[str, Any]) -> str:
    signs = (("min_value", "<"), ("max_value", ">"))
    limits = [f"{column} {sign} {kwargs[name]}" for name, sign in signs if kwargs.get(name) is not None]
    return " OR ".join(limits) or "false"


def _repeated(columns: str, kwargs: dict[str, Any]) -> str:
    return f"({columns}) IN (SELECT ({columns}) FROM checked GROUP BY {columns} HAVING count(*) > 1)"


CONDITIONS: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "expect_column_values_to_not_be_null": lambda column, _: f"{column} IS NULL",
    "expect_column_values_to_match_regex": lambda column, k: f"NOT regexp_matches({column}, {text(k['regex'])})",
    "expect_column_values_to_be_between": _outside,
    "expect_column_values_to_be_in_set": lambda c, k: f"{c} NOT IN ({', '.join(map(_literal, k['value_set']))})",
    "expect_column_values_to_be_unique": _repeated,
    "expect_compound_columns_to_be_unique": _repeated,
}


def _literal(value: Any) -> str:
    return text(value) if isinstance(value, str) else str(value)
