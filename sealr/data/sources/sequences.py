"""Item sequences without reviews, the format of benchmark data sets: one line per user, ``user item item ...``.

Items are in order, oldest first. The files have no timestamps and no texts: timestamps count the positions in days from
2000-01-01, texts are empty. The items file is read as with ``source: columns``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sealr.data.parts import parts
from sealr.data.sources.columns import read_items
from sealr.data.sources.lines import NOT_UTF8, Row, decode, read_lines
from sealr.settings import DataConfig

__all__ = ["HINT", "read_items", "read_reviews"]
HINT = "The S3-Rec files are in the data folder of https://github.com/RUCAIBox/CIKM2020-S3Rec"
START, DAY = 946_684_800, 86_400  # 2000-01-01 UTC, seconds


def read_reviews(config: DataConfig, path: Path) -> Iterator[Row]:
    """One Row per interaction. Its line is the number of the interaction, because a line of the file holds many."""
    number = 0
    seen: set[str] = set()
    lines = ((part.name, *line) for part in parts(path) for line in read_lines(part))
    for file, line_number, line in lines:
        text, valid = decode(line)
        user, *items = text.split() or [""]
        again = user in seen
        seen.add(user)
        reason = NOT_UTF8 if not valid else f"line {line_number}: the user has an earlier line" if again else ""
        if user and not reason and not items:
            reason = f"line {line_number}: a user without items"
        if reason:
            number += 1
            yield Row(number, None, text, reason, file)
            continue
        for position, item in enumerate(items):
            number += 1
            values = {"user": user, "item": item, "timestamp": START + DAY * position, "rating": None, "text": ""}
            yield Row(number, values, f"{user} {item}", file=file)
