"""Duplicates, k-core and order of cleaned reviews (`sealr.data.reading.GOOD`), in SQL that every engine takes.

Rows are compared as they are, never by hashes, so the result is exact.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from sealr.data.engine import Engine

# Rows with an equal one before them. Texts are compared only where user, item and time are equal
REPEATED = """
    SELECT n FROM (
        SELECT g.n, row_number() OVER (PARTITION BY g.user_id, g.item_id, g.seconds, g.words ORDER BY g.n) AS place
        FROM good g JOIN (
            SELECT user_id, item_id, seconds FROM good GROUP BY user_id, item_id, seconds HAVING count(*) > 1
        ) s ON g.user_id = s.user_id AND g.item_id = s.item_id AND g.seconds = s.seconds
    ) numbered WHERE place > 1"""
UNIQUE = "SELECT g.n, g.user_id, g.item_id FROM good g LEFT JOIN repeated r ON g.n = r.n WHERE r.n IS NULL"
ENOUGH = """
    SELECT c.n, c.user_id, c.item_id FROM {core} c
    JOIN (SELECT user_id FROM {core} GROUP BY user_id HAVING count(*) >= {k}) u ON c.user_id = u.user_id
    JOIN (SELECT item_id FROM {core} GROUP BY item_id HAVING count(*) >= {k}) i ON c.item_id = i.item_id"""
LATE = """
    SELECT g.n, CASE WHEN r.n IS NULL THEN 'k-core' ELSE 'exact duplicate' END AS reason
    FROM good g LEFT JOIN {core} c ON g.n = c.n LEFT JOIN repeated r ON g.n = r.n
    WHERE c.n IS NULL ORDER BY g.n"""
ORDERED = """
    SELECT g.user_id, g.item_id, g.seconds, g.stars, g.words FROM good g JOIN {core} c ON g.n = c.n
    ORDER BY g.user_id, g.seconds, g.n"""
ITEMS = "SELECT DISTINCT item_id FROM {core} ORDER BY item_id"


class Reviews:
    """The reviews that remain of the table ``good``: no exact duplicates but the first, and the iterative k-core."""

    def __init__(self, engine: Engine, k: int):
        self.engine = engine
        engine.make("repeated", REPEATED)
        engine.make("core_0", UNIQUE)
        self.core, self.count = "core_0", engine.number("SELECT count(*) FROM core_0")
        while k > 1 and self.count:
            # Two tables in turns, because an engine may read one while it writes the other
            other = "core_1" if self.core == "core_0" else "core_0"
            engine.make(other, ENOUGH.format(core=self.core, k=k))
            before, self.core, self.count = self.count, other, engine.number(f"SELECT count(*) FROM {other}")
            if self.count == before:
                break

    def late(self) -> Iterator[pa.RecordBatch]:
        """Numbers and reasons of the other rows, in their order."""
        return self.engine.batches(LATE.format(core=self.core))

    def ordered(self) -> Iterator[pa.RecordBatch]:
        """The reviews by user, time and number."""
        return self.engine.batches(ORDERED.format(core=self.core))

    def items(self) -> list[str]:
        """The items, sorted."""
        return [item for batch in self.engine.batches(ITEMS.format(core=self.core)) for item in batch[0].to_pylist()]
