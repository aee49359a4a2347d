"""From a source's files to the tables reviews, items and rejected: cleaning, k-core, order.

Every row ends up in ``reviews``, or in ``rejected`` with a reason and its raw text; blank lines are not rows. A missing
text becomes ``""``, a missing rating null. Item metadata are optional: without the file titles are null, and its bad
lines are rejected under its name.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr.data.cleaning import YEAR_1990, clean, words
from sealr.data.download import MissingFile, data_dir, fetch
from sealr.data.manifest import StageResult
from sealr.data.privacy import Private
from sealr.data.rejects import Rejects, rejected_table
from sealr.data.sources import reader
from sealr.data.sources.lines import Row
from sealr.data.tables import write_table
from sealr.settings import DataConfig

log = logging.getLogger(__name__)
CHUNK = 50_000  # rows held as Python objects before they become a DataFrame
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
    with rejected_table(folder / "rejected.parquet") as rejects:
        frame, read = _read_clean(source.read_reviews(config, path), path.name, config, rejects)
        if not read:
            raise IngestError(f"{path} holds no reviews")
        late = duplicates_and_core(frame, config.k_core)
        # Read again, because the raw records of all rows do not fit into memory
        for number, row in enumerate(source.read_reviews(config, path)) if late else ():
            if number in late:
                rejects.add(row.file or path.name, row.line, late[number], row.raw)
        counts = rejects.counts.copy()  # without those of items
        frame = frame[~frame["row"].isin(late.keys())]
        reviews = frame.sort_values(["user", "timestamp"], kind="stable", ignore_index=True)
        reviews["position"] = reviews.groupby("user", sort=False).cumcount().astype("int32")
        if len(reviews):
            items, read_items = _items(source, config, files, reviews["item"], rejects)
    if reviews.empty:  # raised here, so that rejected.parquet exists and shows the reasons
        advice = f"; lower data.k_core (now {config.k_core})" if counts["k-core"] else ""
        advice = (
            LOOK if max(counts, key=lambda r: counts[r]) in ("missing user", "missing item", "not JSON") else advice
        )
        raise IngestError(f"{path}: no review is left: read {read:,}, rejected: {_counted(counts)}{advice}")
    write_table(reviews, folder / "reviews.parquet", "reviews")
    write_table(items, folder / "items.parquet", "items")
    if counts:
        log.info("rejected %s of %s reviews: %s", f"{counts.total():,}", f"{read:,}", _counted(counts))
        _warn_of_many(counts, read)
    users, n = reviews["user"].nunique(), len(reviews)
    rows = {"read": read, "reviews": n, "rejected": counts.total(), "users": users, "items": len(items)}
    bad_items = rejects.counts.total() - counts.total()
    return StageResult(
        rows | {"read_items": read_items, "rejected_items_lines": bad_items},
        {
            "ties": float(reviews.duplicated(["user", "timestamp"]).mean()),
            "mean_length": n / users,
            "density": n / (users * len(items)),
            "mean_text": float(reviews["text"].str.len().mean()),
        },
    )


def _start(date: str) -> int:
    if not date:
        return YEAR_1990
    try:
        return int(datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise ValueError(f"data.start_date {date!r} is not a date of the form YYYY-MM-DD") from None


def _read_clean(rows: Iterator[Row], source: str, config: DataConfig, rejects: Rejects) -> tuple[pd.DataFrame, int]:
    """Clean rows in file order with their numbers from 0, and the number of rows read. Bad rows go to ``rejects``."""
    since, until = _start(config.start_date), int(time.time()) + CLOCK_SKEW
    columns = {"row": "int64", "user": "str", "item": "str", "timestamp": "int64", "rating": "float32", "text": "str"}
    chunks = [pd.DataFrame(columns=list(columns)).astype(columns)]
    read = 0
    while part := list(itertools.islice(rows, CHUNK)):
        good = []
        for number, row in enumerate(part, read):
            values, reason = None, row.reason
            if row.values is not None:
                values, reason = clean(row.values, since, until, config.need_text)
            if values is not None:
                good.append((number, *values))
            else:
                rejects.add(row.file or source, row.line, reason, row.raw)
        read += len(part)
        chunks.append(pd.DataFrame(good, columns=list(columns)).astype(columns))
    return pd.concat(chunks, ignore_index=True), read


def duplicates_and_core(frame: pd.DataFrame, k: int) -> dict[int, str]:
    """Row number -> reason for exact duplicates, except the first, and for rows outside of the iterative k-core."""
    duplicate = frame.duplicated(["user", "item", "timestamp", "text"]).to_numpy()
    users, items = (pd.factorize(frame[name])[0] for name in ("user", "item"))
    keep = ~duplicate
    while k > 1:
        of_user, of_item = (np.bincount(codes[keep], minlength=len(codes))[codes] for codes in (users, items))
        enough = keep & (of_user >= k) & (of_item >= k)
        if enough.sum() == keep.sum():
            break
        keep = enough
    rows = frame["row"].to_numpy()
    late = dict.fromkeys(rows[duplicate].tolist(), "exact duplicate")
    return late | dict.fromkeys(rows[~keep & ~duplicate].tolist(), "k-core")


def _items(
    source: Any, config: DataConfig, files: dict[str, Path], used: pd.Series, rejects: Rejects
) -> tuple[pd.DataFrame, int]:
    """One row per reviewed item, sorted, and the number of metadata rows read. The first row of an item counts."""
    known: dict[str, dict[str, Any]] = dict.fromkeys(sorted(used.unique()), {})
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
