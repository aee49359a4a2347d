"""Vectors of texts that a model has read already, such as emotion probabilities: one SQLite file per model.

The identity of the model is the file's name, so other weights or settings never mix. Each part of a run is one
transaction: an interrupted run leaves whole parts and continues after them. Processes may share a file.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from sealr.progress import QUICK, progress_bar

log = logging.getLogger(__name__)
WAIT_SECONDS = 60.0  # for another process that writes
CHUNK = 500  # keys per query
# A value of another length counts as absent (see get), so it may be replaced
PUT = (
    "INSERT INTO p VALUES (?, ?) "
    "ON CONFLICT (text) DO UPDATE SET p = excluded.p WHERE length(p.p) != length(excluded.p)"
)


class CacheError(OSError):
    """The cache cannot be read or written; the message says what to do."""


class VectorCache:
    """Texts, stored as hashes, to vectors of ``width`` numbers.

    setting: the setting that turns the cache off, for messages. dtype: of the stored numbers.
    """

    def __init__(
        self, folder: Path, identity: str, width: int, setting: str, dtype: Literal["<f4", "<f2"] = "<f4"
    ) -> None:
        self.path, self.width, self.setting, self.dtype = folder / f"{identity}.sqlite", width, setting, dtype
        folder.mkdir(parents=True, exist_ok=True)
        with self._translate_errors():
            self._file = sqlite3.connect(self.path, timeout=WAIT_SECONDS)
            try:
                with self._file:
                    columns = "text BLOB PRIMARY KEY, p BLOB NOT NULL"
                    self._file.execute(f"CREATE TABLE IF NOT EXISTS p ({columns}) WITHOUT ROWID")
            except sqlite3.Error:
                self._file.close()
                raise

    def get(self, texts: Sequence[str]) -> np.ndarray:
        """(N, width) float32; rows of NaN for unknown texts."""
        n, size = len(texts), self.width * np.dtype(self.dtype).itemsize
        result = np.full((n, self.width), np.nan, np.float32)
        if n >= QUICK:
            log.info("looking up %s texts", f"{n:,}")
        with progress_bar(label="look up known texts", unit="texts", total=n, hidden=n < QUICK) as bar:
            for start in range(0, n, CHUNK):
                part = [key_of(text) for text in texts[start : start + CHUNK]]
                with self._translate_errors():
                    query = f"SELECT text, p FROM p WHERE text IN ({','.join('?' * len(part))})"
                    found = dict(self._file.execute(query, part).fetchall())
                for row, key in enumerate(part, start):
                    if len(value := found.get(key, b"")) == size:
                        result[row] = np.frombuffer(value, self.dtype)
                bar.update(len(part))
        return result

    def put(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Adds texts in one transaction. Values that another process added in the meantime stay."""
        rows = [(key_of(t), row.astype(self.dtype).tobytes()) for t, row in zip(texts, vectors, strict=True)]
        with self._translate_errors(), self._file:
            self._file.executemany(PUT, rows)

    def megabytes(self) -> float:
        return self.path.stat().st_size / 1e6

    def close(self) -> None:
        self._file.close()

    def _translate_errors(self) -> AbstractContextManager[None]:
        return _translated(self.path, self.setting)


def forget(path: Path, keys: Collection[bytes]) -> None:
    """Deletes texts from a cache file by their `key_of`; their bytes do not stay in the file."""
    with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as file, _translated(path, "cache"):
        file.execute("PRAGMA secure_delete = ON")
        with file:
            file.executemany("DELETE FROM p WHERE text = ?", [(key,) for key in keys])


@contextmanager
def _translated(path: Path, setting: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:  # locked, read-only, disk full
        raise CacheError(f"the cache {path} cannot be used: {error}; set {setting}=false to run without it") from None
    except sqlite3.DatabaseError as error:
        raise CacheError(f"the cache {path} is damaged ({error}): delete it, it is computed again") from None


def key_of(text: str) -> bytes:
    """What stands for a text in the file."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
