"""Item sequences without reviews: a line a user, ``user item item ...``, oldest first, as benchmark data sets are shared.

Such files carry neither times nor texts: an interaction gets its place in the sequence, in days from 2000-01-01, as its
time, and an empty text. The items file is read like one of ``source: columns``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sealr.data.sources.columns import read_items
from sealr.data.sources.lines import NOT_UTF8, Row, decode, read_lines
from sealr.settings import DataConfig

__all__ = ["HINT", "read_items", "read_reviews"]
HINT = "The S3-Rec files are in the data folder of https://github.com/RUCAIBox/CIKM2020-S3Rec"
START, DAY = 946_684_800, 86_400  # 2000-01-01 UTC, seconds


def read_reviews(config: DataConfig, path: Path) -> Iterator[Row]:
    """A Row an interaction; its line is the number of the interaction in the file, for a line of it holds many."""
    number = 0
    seen: set[str] = set()
    for line_number, line in read_lines(path):
        text, valid = decode(line)
        user, *items = text.split() or [""]
        again = user in seen
        seen.add(user)
        reason = NOT_UTF8 if not valid else f"line {line_number}: the user has a line before" if again else ""
        if user and not reason and not items:
            reason = f"line {line_number}: a user without items"
        if reason:
            number += 1
            yield Row(number, None, text, reason)
            continue
        for place, item in enumerate(items):
            number += 1
            values = {"user": user, "item": item, "timestamp": START + DAY * place, "rating": None, "text": ""}
            yield Row(number, values, f"{user} {item}")
