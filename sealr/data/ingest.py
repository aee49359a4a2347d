"""From a source's files to the tables reviews, items and rejected: cleaning, k-core, order.

Every row ends up in ``reviews``, or in ``rejected`` with a reason and its raw text; blank lines are not rows. A missing
text becomes ``""``, a missing rating null. Item metadata are optional: without the file titles are null, and its bad
lines are rejected under its name.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from sealr.data.cleaning import YEAR_1990, words
from sealr.data.download import MissingFile, data_dir, fetch
from sealr.data.engine import Engine, open_engine
from sealr.data.manifest import CHECKPOINT, StageResult
from sealr.data.ordered import write_reviews
from sealr.data.privacy import Private
from sealr.data.reading import Reading, read_parts
from sealr.data.rejects import SCHEMA, Rejects, blocks_of, join_late, rejected_table
from sealr.data.relations import Reviews
from sealr.data.sources import reader
from sealr.data.tables import write_table
from sealr.settings import DataConfig

log = logging.getLogger(__name__)
CLOCK_SKEW = 86_400  # seconds by which a review may be in the future
MANY = 0.2  # warn if one reason rejects more than this share of the rows
WANTED = ("exact duplicate", "k-core", "before start_date")  # reasons that need no warning
LOOK = "; `sealr inspect FILE` tells which data.source and data.columns a file needs"
ITEM_FIELDS = ("title", "brand", "categories")


class IngestError(ValueError):
    """No review is left; the message says why the rows were rejected."""


def input_files(config: DataConfig, folder: Path | None = None) -> dict[str, Path]:
    """The local files of a data set, downloaded if needed: ``{}`` for demo, else "reviews" and, if available, "items".

    folder: the data folder, by default SEALR_DATA or ./data. Raises MissingFile without reviews, and ChecksumError.
    """
    if config.source == "demo":
        return {}
    hint = reader(config.source).HINT
    files = {"reviews": fetch(config.reviews, folder or data_dir(), hint)}
    if config.items.path:
        try:
            # Items are optional, so not worth a long wait
            files["items"] = fetch(config.items, folder or data_dir(), hint, tries=2)
        except MissingFile as error:
            log.warning("there is no item metadata, so titles are empty: %s", error)
    return files


def ingest(config: DataConfig, folder: Path, files: dict[str, Path] | None = None) -> StageResult:
    """Writes reviews.parquet, items.parquet and rejected.parquet into ``folder``.

    files: what ``input_files`` returns, which is called by default.
    Rows: read = reviews + rejected, users, items; read_items and rejected_items_lines count metadata.
    Metrics: ties (share of reviews with the user and timestamp of an earlier one), mean_length (reviews per user),
    density, mean_text (characters).
    Raises IngestError if no review is left, DataFileError, MissingFile, ChecksumError.
    """
    files = input_files(config) if files is None else files
    source = Private(reader(config.source), config)
    path = files.get("reviews", Path("demo"))
    with (
        _scratch(folder) as scratch,
        rejected_table(folder / "rejected.parquet") as rejects,
        _engine(config, scratch) as engine,
    ):
        since, until = _start(config.start_date), int(time.time()) + CLOCK_SKEW
        read = read_parts(Reading(config, source, path, since, until, scratch), engine.run)
        if not read:
            raise IngestError(f"{path} holds no reviews")
        good, bad = (sorted(scratch.glob(f"{kind}-*.parquet")) for kind in ("good", "bad"))
        for block in blocks_of(bad, SCHEMA.names):
            rejects.add_block(block)
        engine.view("good", good)
        remaining = Reviews(engine, config.k_core)
        if remaining.count < read - rejects.counts.total():
            for block in join_late(remaining.late(), blocks_of(good, ["n", "source", "line", "record"])):
                rejects.add_block(block)
        counts = rejects.counts.copy()  # without those of items
        if remaining.count:
            items, read_items = _items(source, config, files, remaining.items(), rejects)
            totals = write_reviews(remaining.ordered(), folder / "reviews.parquet")
    if not remaining.count:  # raised here, so that rejected.parquet exists and shows the reasons
        advice = f"; lower data.k_core (now {config.k_core})" if counts["k-core"] else ""
        advice = (
            LOOK if max(counts, key=lambda r: counts[r]) in ("missing user", "missing item", "not JSON") else advice
        )
        raise IngestError(f"{path}: no review is left: read {read:,}, rejected: {_counted(counts)}{advice}")
    write_table(items, folder / "items.parquet", "items")
    if counts:
        log.info("rejected %s of %s reviews: %s", f"{counts.total():,}", f"{read:,}", _counted(counts))
        _warn_of_many(counts, read)
    users, n = totals.users, totals.reviews
    rows = {"read": read, "reviews": n, "rejected": counts.total(), "users": users, "items": len(items)}
    bad_items = rejects.counts.total() - counts.total()
    return StageResult(
        rows | {"read_items": read_items, "rejected_items_lines": bad_items},
        {
            "ties": totals.ties / n,
            "mean_length": n / users,
            "density": n / (users * len(items)),
            "mean_text": totals.characters / n,
        },
    )


def _engine(config: DataConfig, scratch: Path) -> AbstractContextManager[Engine]:
    if config.engine == "spark":
        from sealr.data.spark import open_spark

        return open_spark(scratch)
    return open_engine(scratch)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for intermediate files, empty at the start, also after a kill, and removed at the end."""
    scratch = folder / CHECKPOINT / "ingest"
    shutil.rmtree(scratch, ignore_errors=True)
    for unfinished in folder.glob(".*.tmp"):
        unfinished.unlink()
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)


def _start(date: str) -> int:
    if not date:
        return YEAR_1990
    try:
        return int(datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise ValueError(f"data.start_date {date!r} is not a date of the form YYYY-MM-DD") from None


def _items(
    source: Any, config: DataConfig, files: dict[str, Path], used: list[str], rejects: Rejects
) -> tuple[pd.DataFrame, int]:
    """One row per reviewed item, sorted, and the number of metadata rows read. The first row of an item counts."""
    known: dict[str, dict[str, Any]] = dict.fromkeys(used, {})
    read = 0
    path = files.get("items", Path("demo"))
    for row in source.read_items(config, path) if "items" in files or config.source == "demo" else ():
        read += 1
        item = row.values["item"] if row.values is not None else None
        item = str(item) if isinstance(item, int) else item
        if not isinstance(item, str) or not item.strip():
            rejects.add(row.file or path.name, row.line, row.reason or "missing item", row.raw)
        elif item in known and not known[item]:
            known[item] = row.values or {}
    rows = [(item, *(words(values.get(field)) for field in ITEM_FIELDS)) for item, values in known.items()]
    if read and (missing := sum(not values for values in known.values())):
        log.warning("%s of %s items are not in %s: their titles are empty", missing, len(known), path.name)
    return pd.DataFrame(rows, columns=["item", *ITEM_FIELDS]), read


def _warn_of_many(counts: Counter[str], read: int) -> None:
    """Warns of reasons that reject many rows: the cause is often a setting, and the other rows are biased."""
    for reason, n in counts.items():
        if n > MANY * read and reason not in WANTED:
            advice = '; without ratings: data.columns.rating=""' if reason.startswith("rating") else ""
            advice = LOOK if reason in ("missing user", "missing item") else advice
            log.warning("one reason rejects %.0f %% of the reviews: %s%s", 100 * n / read, reason, advice)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {n:,}" for reason, n in counts.most_common())
