"""Readers of review data, one module per kind of source.

A source module offers

* ``read_reviews(config, path) -> Iterator[Row]``: values with the keys user, item, timestamp, rating, text
* ``read_items(config, path) -> Iterator[Row]``: values with the keys item, title, brand, categories
* ``HINT``: where a user gets the files, for the message when they are missing

``path`` is the file that ``sealr.data.download.fetch`` found; the demo source generates its rows and ignores it.
Readers only read: what a valid review is, is decided in one place, ``sealr.data.cleaning``.
"""

from __future__ import annotations

from types import ModuleType

from sealr.data.sources import amazon, columns, demo, sequences, yelp

READERS: dict[str, ModuleType] = {"demo": demo, "amazon": amazon, "yelp": yelp, "columns": columns, "sequences": sequences}


def reader(source: str) -> ModuleType:
    """The module that reads ``DataConfig.source``. Raises ValueError naming the known sources."""
    if source not in READERS:
        raise ValueError(f"data.source {source!r} is not known; there are: {', '.join(READERS)}")
    return READERS[source]
