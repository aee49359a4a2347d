"""Readers of review data, one module per kind of source.

A source module has

* ``read_reviews(config, path) -> Iterator[Row]``: values with the keys user, item, timestamp, rating, text
* ``read_items(config, path) -> Iterator[Row]``: values with the keys item, title, brand, categories
* ``SPLITS``: true if ``read_reviews`` also takes a `Span` of a file, whose rows do not depend on other lines
* ``HINT``: where to get the files, for the message about missing ones

``path`` is the file, or the folder of parts, that ``sealr.data.download.fetch`` found; the demo generates its rows.
Readers do not check values: ``sealr.data.cleaning`` decides which reviews are valid.
"""

from __future__ import annotations

from types import ModuleType

from sealr.data.sources import amazon, amazon2023, columns, demo, goodreads, sequences, yelp

READERS: dict[str, ModuleType] = {
    "demo": demo, "amazon": amazon, "amazon-2023": amazon2023, "goodreads": goodreads, "yelp": yelp, "columns": columns,
    "sequences": sequences,
}  # fmt: skip


def reader(source: str) -> ModuleType:
    """The module that reads ``DataConfig.source``. Raises ValueError, which names the known sources."""
    if source not in READERS:
        raise ValueError(f"data.source {source!r} is unknown; known: {', '.join(READERS)}")
    return READERS[source]
