"""The Yelp Open Dataset: review and business files as JSON lines. Dates are ``YYYY-MM-DD HH:MM:SS``, read as UTC.

Businesses have no brand. Yelp hands the files out after a form, so there is no URL to download them from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sealr.data.sources.amazon import clean
from sealr.data.sources.lines import Row, read_objects, seconds
from sealr.settings import DataConfig

HINT = (
    "The Yelp Open Dataset needs a form: get it at https://www.yelp.com/dataset, unpack it, and use"
    " yelp_academic_dataset_review.json as the reviews and yelp_academic_dataset_business.json as the items (gzip is fine)."
)


def read_reviews(config: DataConfig, path: Path) -> Iterator[Row]:
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
