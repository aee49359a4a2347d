"""Amazon reviews of the releases of 2014 and 2018: reviews as JSON lines; metadata as Python literals or JSON lines.

The text is ``reviewText``, or ``summary`` if that is empty.
"""

from __future__ import annotations

import ast
import html
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sealr.data.sources.lines import Row, Span, parse_json, read_objects
from sealr.settings import DataConfig

SPLITS = True
HINT = (
    "The files of 2014 are described at http://jmcauley.ucsd.edu/data/amazon/links.html, those of 2018 at "
    "https://nijianmo.github.io/amazon; for those of 2023 set data.source to amazon-2023."
)

# Lists of also-bought ids are unused, but take three quarters of the parsing time
RELATED = re.compile(r"'related': \{(?:'\w+': \[(?:'\w+'(?:, )?)*\](?:, )?)*\}")


def read_reviews(config: DataConfig, path: Path | Span) -> Iterator[Row]:
    return read_objects(path, _review)


def read_items(config: DataConfig, path: Path) -> Iterator[Row]:
    return read_objects(path, _item, parse_literal)


def parse_literal(text: str) -> Any:
    """Parses JSON or a Python literal such as ``{'asin': 'B00', 'price': 3.5}``. Raises ValueError."""
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings(action="ignore"):  # titles contain invalid escapes
            return ast.literal_eval(RELATED.sub("'related': None", text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"neither JSON nor a Python literal: {error}") from None


def _review(record: dict[str, Any]) -> dict[str, Any]:
    text = record.get("reviewText")
    return {
        "user": record.get("reviewerID"),
        "item": record.get("asin"),
        "timestamp": record.get("unixReviewTime"),
        "rating": record.get("overall"),
        "text": record.get("summary") if text in (None, "") else text,
    }


def _item(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "item": record.get("asin"),
        "title": clean(record.get("title")),
        "brand": clean(record.get("brand")),
        "categories": category_path(record.get("categories", record.get("category"))),
    }


def clean(value: Any) -> str | None:
    """Text with HTML entities resolved and white space collapsed; None for other values and empty text."""
    if not isinstance(value, str):
        return None
    return " ".join(html.unescape(value).split()) or None


def category_path(categories: Any) -> str | None:
    """``[["Beauty", "Hair Care"], ["Beauty"]]`` -> ``"Beauty > Hair Care"``: the first of the longest paths."""
    if not isinstance(categories, list):
        return clean(categories)
    paths: list[list[Any]] = [c for c in categories if isinstance(c, list)] or [categories]
    longest = max(paths, key=len)
    return " > ".join(name for name in map(clean, longest) if name) or None
