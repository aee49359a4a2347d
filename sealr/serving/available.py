"""The items that a shop can deliver now: a file with one id a line, which is read again whenever it changes.

A file fits what shops have: the stock system writes it, it outlives a restart, and servers share it on a common disk.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

log = logging.getLogger("sealr.serve")
VARIABLE = "SEALR_AVAILABLE"  # names the file, for every server that loads the model


class AvailableError(ValueError):
    """The file cannot be read or names no item of the model; the message says what to do."""


def read_ids(path: Path) -> list[str]:
    """The lines of the file, without empty ones. Raises AvailableError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise AvailableError(f"{path}: {error.strerror}; it lists the available items, one id a line") from None
    except UnicodeDecodeError:
        raise AvailableError(f"{path} is not UTF-8; it lists the available items, one id a line") from None
    if not (found := [line for line in lines if line]):
        raise AvailableError(f"{path} is empty; it lists the available items, one id a line")
    return found


class Available:
    """The available items of a model. Thread-safe."""

    def __init__(self, path: Path, item_ids: Mapping[str, int]) -> None:
        """item_ids: raw id -> index from 1. Raises AvailableError."""
        self.path, self.item_ids = path, item_ids
        self._lock, self._seen = threading.Lock(), self._state()
        self._mask = self._read()

    def mask(self) -> np.ndarray:
        """(items + 1,) whether each item is available, as the file says now.

        A file that has become unusable changes nothing, and the log says why. While one request reads a new file, the
        others go by the old one.
        """
        if self._state() != self._seen and self._lock.acquire(blocking=False):
            try:
                self._seen = self._state()  # before reading: what is written meanwhile is read by the next request
                self._mask = self._read()
            except AvailableError as error:
                log.error("%s. The list from before is used", error)
            finally:
                self._lock.release()
        return self._mask

    def _state(self) -> tuple[int, ...]:
        try:
            found = os.stat(self.path)
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> np.ndarray:
        ids = read_ids(self.path)
        known = [self.item_ids[item] for item in ids if item in self.item_ids]
        if not known:
            raise AvailableError(f"{self.path}: none of its {len(ids):,} lines is the id of an item of the model")
        mask = np.zeros(len(self.item_ids) + 1, dtype=bool)
        mask[known] = True
        unknown = len(ids) - len(known)
        log.info("%s: %s items are available, %s lines name no item of the model", self.path, mask.sum(), unknown)
        return mask
