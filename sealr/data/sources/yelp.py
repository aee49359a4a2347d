"""The Yelp Open Dataset: reviews and businesses as JSON lines. Dates are ``YYYY-MM-DD HH:MM:SS`` in UTC.

Businesses have no brand. There is no download URL, because Yelp asks for a form first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sealr.data.sources.amazon import clean
from sealr.data.sources.lines import Row, Span, read_objects, seconds
from sealr.settings import DataConfig

SPLITS = True
HINT = (
    "Fill in the form at https://www.yelp.com/dataset and unpack the data set. yelp_academic_dataset_review.json holds "
    "the reviews, yelp_academic_dataset_business.json the items; both may be gzipped."
)


def read_reviews(config: DataConfig, path: Path | Span) -> Iterator[Row]:
    return read_objects(path, _review)


def read_items(config: DataConfig, path: Path) -> Iterator[Row]:
    return read_objects(path, _item)


def _review(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "user": record.get("user_id"),
        "item": record.get("business_id"),
        "timestamp": seconds(record.get("date")),
        "rating": record.get("stars"),
        "text": record.get("text"),
    }


def _item(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "item": record.get("business_id"),
        "title": clean(record.get("name")),
        "brand": None,
        "categories": clean(record.get("categories")),
    }
