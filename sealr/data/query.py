"""The rows of a SQL query as a file of JSON lines, through SQLAlchemy."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from sealr.redact import redact

ROWS = 10_000  # fetched at once


class QueryError(ValueError):
    """The database cannot be reached, refuses the query, or has no rows; the message says which."""


def run_query(url: str, query: str, path: Path) -> None:
    """Writes one JSON object per row. Raises QueryError."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    path.parent.mkdir(parents=True, exist_ok=True)
    shown, written = redact(url), 0
    try:
        engine = create_engine(url)
        with engine.connect() as connection, open(path, "w", encoding="utf-8") as file:
            rows = connection.execution_options(stream_results=True, max_row_buffer=ROWS).execute(text(query))
            for row in rows.mappings():
                file.write(json.dumps(dict(row), default=_plain, ensure_ascii=False) + "\n")
                written += 1
    except ModuleNotFoundError as error:
        raise QueryError(f"{shown} needs the driver {error.name}: pip install {error.name}") from None
    except SQLAlchemyError as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise QueryError(f"the query on {shown} failed: {redact(cause)}; see data.reviews.query") from None
    finally:
        if not written:
            path.unlink(missing_ok=True)
    if not written:
        raise QueryError(f"the query on {shown} has no rows; see data.reviews.query")


def _plain(value: Any) -> Any:
    """Types of databases as types of JSON."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return bytes(value).decode("utf-8", "replace") if isinstance(value, (bytes, memoryview)) else str(value)
