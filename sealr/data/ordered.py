"""The table ``reviews``, written from ordered rows in row groups, with positions and statistics on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sealr.data.tables import atomic_path

GROUP = 50_000  # rows of a row group
TEXT = pa.large_string()
SCHEMA = pa.schema(
    {
        "user": TEXT, "item": TEXT, "timestamp": pa.int64(), "rating": pa.float32(), "text": TEXT,
        "position": pa.int32(),
    }
)  # fmt: skip


@dataclass
class Totals:
    reviews: int = 0
    users: int = 0
    ties: int = 0  # reviews with the user and timestamp of an earlier one
    characters: int = 0  # of texts


def write_reviews(batches: Iterable[pa.RecordBatch], path: Path) -> Totals:
    """Writes the columns user, item, timestamp, rating and text, ordered by user and time, and adds position."""
    totals = Totals()
    user, seconds, position = None, 0, 0  # of the row before
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for group in _groups(batches):
            users, times = group[0].combine_chunks(), group[2].to_numpy()
            same = np.empty(len(group), bool)
            same[0] = users[0].as_py() == user
            same[1:] = pc.equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False)
            tied = same & (np.concatenate([[seconds], times[:-1]]) == times)
            index = np.arange(len(group))
            first = np.maximum.accumulate(np.where(same, -1, index))  # row of the user's first review, if it is here
            places = np.where(first < 0, index + position + 1, index - first)
            writer.write_table(pa.table([*group.columns, pa.array(places, pa.int32())], schema=SCHEMA))
            totals.reviews += len(group)
            totals.users += int((~same).sum())
            totals.ties += int(tied.sum())
            totals.characters += pc.sum(pc.utf8_length(group[4])).as_py()
            user, seconds, position = users[-1].as_py(), times[-1], int(places[-1])
    return totals


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of GROUP rows, whatever the batches: equal rows make an equal file."""
    names = SCHEMA.names[:-1]
    rest = pa.schema([SCHEMA.field(n) for n in names]).empty_table()
    for batch in batches:
        more = pa.Table.from_batches([batch]).rename_columns(names).cast(rest.schema)
        rest = pa.concat_tables([rest, more])
        while len(rest) >= GROUP:
            yield rest.slice(0, GROUP)
            rest = rest.slice(GROUP)
    if len(rest):
        yield rest
