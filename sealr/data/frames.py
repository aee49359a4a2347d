"""DataFrames as a data source: `store` checks their columns and writes them where ``data.source=columns`` reads."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sealr.config import nearest
from sealr.data.cleaning import words
from sealr.data.manifest import Manifest, StageResult, run_stage
from sealr.data.privacy import forgotten, salted

REVIEWS = ("user", "item", "timestamp", "text", "rating")
ITEMS = ("item", "title", "brand", "categories")
NEEDED = ("user", "item", "timestamp")
EXPECTED = (*NEEDED, "text")  # a frame without texts must say so
FIELDS = tuple(dict.fromkeys(REVIEWS + ITEMS))


def store(
    reviews: pd.DataFrame, items: pd.DataFrame | None, columns: Mapping[str, str | None], name: str
) -> tuple[Manifest, dict[str, Any]]:
    """Writes the frames into the state folder, equal frames once; returns the stage and the settings that read it.

    columns: field -> column of the frames; None: there is no such column. name: of the data set. Rows of forgotten
    users are left out.
    Raises TypeError for anything but a DataFrame, ValueError for an empty frame or a missing column.
    """
    frames = {"reviews": _select(reviews, "reviews", REVIEWS, columns)}
    if items is not None:
        frames["items"] = _select(items, "items", ITEMS, columns)
    if gone := forgotten(name):  # or the state folder would hold them again
        users = frames["reviews"]["user"].map(salted(), na_action="ignore")
        frames["reviews"] = frames["reviews"][~users.isin(gone)]
    files = {}
    for kind, frame in frames.items():
        frame.to_parquet(buffer := io.BytesIO(), index=False)
        files[f"{kind}.parquet"] = buffer.getvalue()

    def work(folder: Path) -> StageResult:
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return StageResult({kind: len(frame) for kind, frame in frames.items()})

    digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    stored = run_stage("frames", name, digests, {}, ("data/frames.py",), work)
    given = {field for frame in frames.values() for field in frame}
    settings: dict[str, Any] = {f"data.columns.{field}": field if field in given else "" for field in FIELDS}
    settings |= {f"data.{kind}.path": str(stored.path(f"{kind}.parquet").resolve()) for kind in frames}
    iso = pd.api.types.is_string_dtype(frames["reviews"]["timestamp"])
    return stored, settings | {"data.name": name, "data.source": "columns", "data.time_unit": "iso" if iso else "s"}


def _select(frame: pd.DataFrame, kind: str, fields: tuple[str, ...], columns: Mapping[str, str | None]) -> pd.DataFrame:
    """The columns of ``fields`` under the names of the fields, with types that Parquet holds."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{kind} must be a pandas DataFrame, got {type(frame).__name__}")
    if frame.empty:
        raise ValueError(f"{kind} has no rows")
    if unknown := [field for field in columns if field not in FIELDS]:
        raise ValueError(f"columns: no field is named {unknown[0]!r}{nearest(unknown[0], list(FIELDS))}")
    chosen: dict[str, pd.Series] = {}
    for field in fields:
        column = columns.get(field, field)
        if field == "item" and kind == "items" and column not in frame.columns:
            column = "item"  # the mapping may name the column of the reviews
        count = int((frame.columns == column).sum())
        if count > 1:
            raise ValueError(f"{kind} has {count} columns named {column!r}")
        if count:
            chosen[field] = _plain(frame[column], field)
        elif field in NEEDED or (column is not None and (field in EXPECTED or field in columns)):
            found = [str(c) for c in frame.columns]
            without = "" if field in NEEDED else f", or columns={{{field!r}: None}} if there is none"
            raise ValueError(
                f"{kind} has no column {column!r}{nearest(str(column), found) or '.'} Its columns: {', '.join(found)}. "
                f"Name it with columns={{{field!r}: ...}}{without}"
            )
    return pd.DataFrame(chosen)


def _plain(values: pd.Series, field: str) -> pd.Series:
    """Ids and words as text; timestamps and ratings as numbers or datetimes where they are, else as text."""
    if field in ("user", "item"):
        return values.convert_dtypes().astype("string")  # 7.0 in a column with gaps is the id 7
    if field in ("title", "brand", "categories"):
        return values.map(words).astype("string")
    number = pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values)
    return values if number and field != "text" else values.astype("string")
