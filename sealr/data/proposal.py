"""The configuration that a look at a file suggests, as commented YAML, and the first rows as it reads them."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sealr.data.cleaning import YEAR_1990, clean
from sealr.data.engine import open_engine
from sealr.data.ingest import CLOCK_SKEW
from sealr.data.inspect import ROWS, Findings
from sealr.data.reading import GOOD
from sealr.data.relations import Reviews
from sealr.data.sources import reader
from sealr.settings import DataConfig

EXAMPLES = 3
CUT = 30  # characters of a text that are shown
CORES = (5, 3, 2, 1)  # tried in this order until reviews are left
TEXTS = """
# Items are known by their reviews. The job goes on without them if they do not help on validation (docs/reading.md)
retrieve: {content: reviews}
rerank: {scoring: {content: reviews}}
"""
FIRST_JOB = """
# To try it on a small scale first:
#   sealr run --data FILE --set "retrieve.epochs=20 rerank.layers=8 rerank.epochs=3 rerank.n_reranked=20"
"""


@dataclass(frozen=True)
class Preview:
    read: int
    rejected: Counter[str]  # reasons
    examples: list[str]
    core: int  # the largest of CORES that leaves reviews
    whole: bool  # whether the file has no more rows

    def summary(self) -> str:
        """How many rows were read, and what is rejected for which reason."""
        bad = ", ".join(f"{reason} ({n:,})" for reason, n in self.rejected.most_common()) or "none"
        return f"{'all' if self.whole else 'the first'} {self.read:,} rows read, rejected: {bad}"


def preview(config: DataConfig, path: Path) -> Preview:
    """Reads the first rows of a file as ``config`` says. Raises DateError and ColumnError."""
    rows = list(itertools.islice(reader(config.source).read_reviews(config, path), ROWS + 1))
    whole = len(rows) <= ROWS
    rejected: Counter[str] = Counter()
    good = []
    for number, row in enumerate(rows[:ROWS]):
        values, reason = None, row.reason
        if row.values is not None:
            values, reason = clean(row.values, YEAR_1990, int(time.time()) + CLOCK_SKEW)
        if values is None:
            rejected[reason] += 1
        else:
            good.append((number, *values))
    core = _core(good) if whole else CORES[0]
    return Preview(len(rows[:ROWS]), rejected, [_example(row[1:]) for row in good[:EXAMPLES]], core, whole)


def _core(good: list[tuple[Any, ...]]) -> int:
    """The largest of CORES that leaves reviews. good: numbered clean values."""
    if not good:
        return CORES[-1]
    with tempfile.TemporaryDirectory() as name, open_engine(Path(name)) as engine:
        file = Path(name) / "good.parquet"
        columns = map(list, zip(*good, strict=True))
        pq.write_table(pa.table(dict(zip(GOOD.names, columns, strict=False))), file)
        engine.view("good", [file])
        return next((k for k in CORES if Reviews(engine, k).count), CORES[-1])


def _example(values: tuple[Any, ...]) -> str:
    """A row in one line. The user is shortened, because a name is personal."""
    user, item, seconds, stars, text = values
    day = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    shown = " ".join(text.split())
    text = shown[:CUT] + "..." * (len(shown) > CUT)
    return (
        f"{user[:4]}{'...' * (len(user) > 4)}  {item[:24]}  {day}  {'-' if stars != stars else f'{stars:g}'}  {text!r}"
    )


def data_name(path: Path) -> str:
    """A name of a data set from that of a file: ``My Shop.csv.gz`` is my-shop."""
    stem = path.name.partition(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "my-data"


def write_yaml(findings: Findings, location: str, query: str = "", core: int = 5) -> str:
    """The commented configuration. location: the path or address of the reviews as the user named it."""
    found = findings.settings
    title = findings.release or f"{findings.kind} with the columns {', '.join(findings.found)}"
    lines = [f"# Written by sealr inspect: {title}.".replace("\n", " ")[:118], "data:"]
    lines += [
        f"  name: {_value(data_name(findings.path))}  # of the data set: a folder in the state folder, a tag in MLflow"
    ]
    lines += ["  category: products  # what the items are; it goes into the LLM's instruction"]
    lines += _line("source", found["source"].value, str(found["source"])) if findings.release else ["  source: columns"]
    lines += ["  reviews:", f"    path: {_value(location)}"] + ([f"    query: {_value(query)}"] if query else [])
    lines += [
        "  # items: {path: products.csv}  # titles, brands and categories, if you have them; with the same item column"
    ]
    if not findings.release:
        lines.append("  columns:")
        for name, guess in findings.columns.items():
            lines += [f"  {line}" for line in _line(name, guess.value, str(guess))]
        lines += [f'    {name}: ""' for name in ("title", "brand", "categories")]
        for name, guess in found.items():
            lines += _line(name, guess.value, str(guess))
    why = "5 is usual" if core == 5 else "fewer reviews than for the usual 5"
    lines += [f"  k_core: {core}  # drops users and items with fewer reviews; {why}"]
    texts = findings.release or findings.columns["text"].value
    registry = "\n# Versions of one registered model learn from one data set\n"
    registry += f"registry: {{name: {_value(data_name(findings.path))}}}\n"
    return "\n".join(lines) + "\n" + (TEXTS if texts else "") + registry + FIRST_JOB


def _line(name: str, value: Any, why: str) -> list[str]:
    """A setting with its reason, in a line above where one line is too short."""
    text = f"  {name}: {_value(value)}"
    why = " ".join(why.split())
    return [f"{text}  # {why}"] if len(text) + len(why) < 116 else [f"  # {why}", text]


def _value(value: Any) -> str:
    """A value as YAML, which reads JSON."""
    return json.dumps(value, ensure_ascii=False)
