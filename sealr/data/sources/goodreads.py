"""Goodreads reviews of the UCSD Book Graph: reviews and books as JSON lines.

Dates look like ``Wed Jul 27 11:31:03 -0700 2016``. A rating of 0 means none. Books name their authors by numbers only,
so the brand is the publisher.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sealr.data.sources.amazon import clean
from sealr.data.sources.dates import parse
from sealr.data.sources.lines import Row, Span, read_objects, seconds
from sealr.settings import DataConfig

SPLITS = True
HINT = "The files are at https://mengtingwan.github.io/data/goodreads.html: detailed reviews, and books."
DATE = "%a %b %d %H:%M:%S %z %Y"
SHELVES = 3  # kept of a book
PRIVATE = ("read", "own", "favo", "default", "library", "kindle", "books", "buy", "shelf", "wish", "ebook", "audio")


def read_reviews(config: DataConfig, path: Path | Span) -> Iterator[Row]:
    return read_objects(path, _review)


def read_items(config: DataConfig, path: Path) -> Iterator[Row]:
    return read_objects(path, _item)


def _review(record: dict[str, Any]) -> dict[str, Any]:
    date = record.get("date_added")
    return {
        "user": record.get("user_id"),
        "item": record.get("book_id"),
        "timestamp": seconds(parse(date, (DATE,)) or date) if isinstance(date, str) else date,
        "rating": record.get("rating") or None,
        "text": record.get("review_text"),
    }


def _item(record: dict[str, Any]) -> dict[str, Any]:
    shelves = record.get("popular_shelves")
    names = [s.get("name") for s in shelves if isinstance(s, dict)] if isinstance(shelves, list) else []
    genres = [n for n in map(clean, names) if n and not any(word in n for word in PRIVATE)]
    return {
        "item": record.get("book_id"),
        "title": clean(record.get("title")),
        "brand": clean(record.get("publisher")),
        "categories": ", ".join(genres[:SHELVES]) or None,
    }
