"""Amazon reviews of the 2023 release: reviews and metadata as JSON lines, variants of a product under ``parent_asin``.

Timestamps are milliseconds. The text is ``text``, or ``title`` if that is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sealr.data.sources.amazon import category_path, clean
from sealr.data.sources.lines import Row, Span, read_objects
from sealr.settings import DataConfig

SPLITS = True
HINT = "The 2023 files are at https://amazon-reviews-2023.github.io: raw reviews and metadata, as JSON lines."


def read_reviews(config: DataConfig, path: Path | Span) -> Iterator[Row]:
    return read_objects(path, _review)


def read_items(config: DataConfig, path: Path) -> Iterator[Row]:
    return read_objects(path, _item)


def _review(record: dict[str, Any]) -> dict[str, Any]:
    time, text = record.get("timestamp"), record.get("text")
    text = record.get("title") if text in (None, "") else text
    return {
        "user": record.get("user_id"),
        "item": record.get("parent_asin") or record.get("asin"),
        "timestamp": time // 1000 if isinstance(time, int) else time,
        "rating": record.get("rating"),
        "text": text.replace("<br />", "\n") if isinstance(text, str) else text,
    }


def _item(record: dict[str, Any]) -> dict[str, Any]:
    details = record.get("details")
    brand = details.get("Brand") if isinstance(details, dict) else None
    return {
        "item": record.get("parent_asin"),
        "title": clean(record.get("title")),
        "brand": clean(brand) or clean(record.get("store")),
        "categories": category_path(record.get("categories")) or clean(record.get("main_category")),
    }
