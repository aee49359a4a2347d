"""Probabilities of texts that were labelled before, in one SQLite file for each labeller.

The file's name is the labeller's identity, so other weights or settings never meet. Every part of a labelling run is
one transaction: a killed run leaves whole parts, and goes on after them. Two processes may use the file at once.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sealr.data.tables import EMOTIONS

WAIT_SECONDS = 60.0  # the most that another process may hold the file
CHUNK = 500  # keys a query
BYTES = 4 * len(EMOTIONS)


class CacheError(OSError):
    """The cache cannot be read or written; the message says what to do."""


class LabelCache:
    """Text to 28 probabilities. Texts are kept as hashes only."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.path = folder / f"{identity}.sqlite"
        folder.mkdir(parents=True, exist_ok=True)
        with self._translate_errors():
            self._file = sqlite3.connect(self.path, timeout=WAIT_SECONDS)
            try:
                with self._file:
                    self._file.execute("CREATE TABLE IF NOT EXISTS p (text BLOB PRIMARY KEY, p BLOB NOT NULL) WITHOUT ROWID")
            except sqlite3.Error:
                self._file.close()
                raise

    def get(self, texts: Sequence[str]) -> np.ndarray:
        """(N, 28) float32; rows of NaN for texts that are not there."""
        result = np.full((len(texts), len(EMOTIONS)), np.nan, np.float32)
        keys = [_key(t) for t in texts]
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            with self._translate_errors():
                query = f"SELECT text, p FROM p WHERE text IN ({','.join('?' * len(part))})"
                found = dict(self._file.execute(query, part).fetchall())
            for row, key in enumerate(part, start):
                if len(value := found.get(key, b"")) == BYTES:
                    result[row] = np.frombuffer(value, "<f4")
        return result

    def put(self, texts: Sequence[str], probabilities: np.ndarray) -> None:
        """Adds texts in one transaction. What another process has added meanwhile stays."""
        rows = [(_key(t), row.astype("<f4").tobytes()) for t, row in zip(texts, probabilities, strict=True)]
        with self._translate_errors(), self._file:
            # A value of another length counts as absent (see get), so it may be replaced
            statement = "INSERT INTO p VALUES (?, ?) ON CONFLICT (text) DO UPDATE SET p = excluded.p WHERE length(p.p) != length(excluded.p)"
            self._file.executemany(statement, rows)

    def megabytes(self) -> float:
        return self.path.stat().st_size / 1e6

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, read-only, disk full
            raise CacheError(
                f"the label cache {self.path} cannot be used: {error}; set label.cache=false to do without"
            ) from None
        except sqlite3.DatabaseError as error:
            raise CacheError(
                f"the label cache {self.path} is damaged ({error}): remove it, it is only there to save time"
            ) from None


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
