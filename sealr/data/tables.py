"""The tables that stages exchange (Parquet), their columns, and atomic writes.

Every write goes to a temporary name in the same folder and is then renamed: an interruption leaves the old file or the
new one, never a part of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

EMOTIONS: tuple[str, ...] = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip  # GoEmotions, in the order of its emotions.txt

SCHEMAS: dict[str, dict[str, str]] = {
    # one row per review; position counts a user's reviews from 0, oldest first (by timestamp, then file order)
    "reviews": {
        "user": "str", "item": "str", "timestamp": "int64", "rating": "float32", "text": "str", "position": "int32",
    },
    # one row per reviewed item; all columns but item may be null
    "items": {"item": "str", "title": "str", "brand": "str", "categories": "str"},
    # rows that were read but are not in reviews: source file name, line from 1, reason, raw record
    "rejected": {"source": "str", "line": "int64", "reason": "str", "record": "str"},
    # one row per review, keyed by (user, position). A text that cannot be labelled has a reason and nulls.
    # sentiment: the paper's class of the argmax emotion; expected: the mean class under the 28 probabilities
    "labels": {
        "user": "str", "position": "int32", "emotion": "str", "score": "float32", "sentiment": "Int8",
        "expected": "float32", "reason": "str", **{f"p_{e}": "float32" for e in EMOTIONS},
    },
    # retrieved items, rank from 1; split: "valid" or "gate" (history without the last two items), or "test" (without
    # the last)
    "candidates": {"user": "str", "item": "str", "rank": "int32", "score": "float32", "split": "str"},
    # re-ranked lists, rank from 1
    "rankings": {"user": "str", "item": "str", "rank": "int32", "score": "float32", "ranker": "str", "split": "str"},
}  # fmt: skip


class TableError(ValueError):
    """A table cannot be read or lacks a column of its schema; the message names file and column."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, which replaces ``path`` on success and is removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(frame: pd.DataFrame, path: Path, schema: str) -> None:
    """Writes the columns of the schema atomically, in its order and dtypes. Raises TableError on a missing column."""
    write_blocks([frame], path, schema)


def write_blocks(frames: Iterable[pd.DataFrame], path: Path, schema: str) -> int:
    """Writes one table from frames, one or more, that need not be in memory together; returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, rows = SCHEMAS[schema], 0
    with atomic_path(path) as temporary, ExitStack() as stack:
        writer = None
        for frame in frames:
            if missing := [c for c in columns if c not in frame]:
                raise TableError(f"cannot write {path}: a {schema} table needs column {missing[0]!r}")
            block = pa.Table.from_pandas(frame[list(columns)].astype(columns), preserve_index=False)
            writer = writer or stack.enter_context(pq.ParquetWriter(temporary, block.schema))
            writer.write_table(block)
            rows += len(block)
    return rows


def read_table(
    path: Path,
    schema: str,
    columns: Collection[str] = (),
    filters: Sequence[tuple[str, str, Any]] | None = None,
) -> pd.DataFrame:
    """Reads a table and checks its columns. Raises TableError, which names the file.

    columns: the only ones to read, in the schema's order; empty for all. Texts and probabilities take most of a table's
    memory. filters: of rows, as `pandas.read_parquet` takes them.
    """
    import pandas as pd  # here, so that modules that only need paths and JSON start fast
    import pyarrow.parquet as pq

    wanted = {name: kind for name, kind in SCHEMAS[schema].items() if not columns or name in columns}
    try:
        missing = [name for name in wanted if name not in pq.read_schema(path).names]
        frame = pd.DataFrame() if missing else pd.read_parquet(path, columns=list(wanted), filters=filters)
    except FileNotFoundError:
        raise TableError(f"{path} does not exist: run the stage that writes the {schema} table first") from None
    except (OSError, ValueError) as error:
        raise TableError(f"{path} is not a readable Parquet file: {error}") from None
    if missing:
        raise TableError(f"{path} is not a {schema} table: column {missing[0]!r} is missing")
    return frame.astype(wanted)


def write_json(values: Any, path: Path) -> None:
    """Atomic, sorted, indented JSON. Raises ValueError on NaN and infinity, which are not JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
