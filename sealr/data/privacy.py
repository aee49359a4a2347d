"""What is kept of people: salted ids, the list of forgotten users of a data set, and rejected rows without records.

A salted id is a keyed hash. Whoever has the salt can test whether an id is behind it; without the salt nobody can. So a
salted id is still personal data, but a leaked model names nobody.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from sealr.data.manifest import state_dir, text_digest
from sealr.data.sources.lines import Row, Span
from sealr.data.tables import read_json, write_json
from sealr.settings import DataConfig

VARIABLE = "SEALR_SALT"
FILE = "salt"  # in the state folder, readable by its owner only
LIST = "forgotten.json"  # in the data set's folder: salted ids and the dates on which they were forgotten
REASON = "forgotten user"
CHECKED = "which salt is this?"  # hashed beside salted ids, so that another salt is noticed


class SaltError(OSError):
    """There is no salt, or it is not the one that ids were hashed with; the message says what to do."""


@dataclass(frozen=True)
class Salted:
    """Ids to salted ids of 32 hexadecimal characters."""

    key: bytes

    def __call__(self, user: str) -> str:
        return hashlib.blake2b(user.encode("utf-8", "surrogatepass"), digest_size=16, key=self.key).hexdigest()

    @property
    def check(self) -> str:
        return self(CHECKED)

    def agree(self, check: str, what: str) -> None:
        """Raises SaltError unless ``check`` was made with this salt. what: holds the ids, for the message."""
        if check != self.check:
            raise SaltError(
                f"{what} was made with another salt: set {VARIABLE} to that one, or restore {state_dir() / FILE}"
            )


def salted(what: str = "") -> Salted:
    """Hashes with the salt of SEALR_SALT, else with that of the state folder, which is made at the first use.

    what: holds salted ids already, so a new salt is of no use. Raises SaltError then.
    """
    secret, path = os.environ.get(VARIABLE, ""), state_dir() / FILE
    if not secret and what and not path.is_file():
        raise SaltError(f"{what} has salted ids: set {VARIABLE} to the salt of the machine that made it ({path} there)")
    if not secret:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{FILE}.lock")):
            if not path.is_file():
                with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
                    file.write(secrets.token_hex(32))
        secret = path.read_text(encoding="ascii").strip()
    return Salted(hashlib.sha256(secret.encode()).digest())


def forgotten(data: str) -> dict[str, str]:
    """Salted ids of a data set's forgotten users, and the dates. Raises SaltError if the salt has changed since."""
    path = state_dir() / data / LIST
    if not path.is_file():
        return {}
    values = read_json(path)
    salted(str(path)).agree(values["check"], str(path))
    return dict(values["users"])


def ingest_settings(config: DataConfig) -> dict[str, Any]:
    """What the ingested tables depend on: the settings, and who was forgotten."""
    gone = sorted(forgotten(config.name))
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k != "engine"}  # the tables do not depend on it
    return settings | ({"forgotten": text_digest(gone)[:16]} if gone else {})


def remember(data: str, user: str) -> Path:
    """Adds a user to the list, which each ingest of the data set reads. Returns the list's path."""
    users, hashes = forgotten(data), salted()
    users.setdefault(hashes(user), f"{datetime.now(UTC):%Y-%m-%d}")
    path = state_dir() / data / LIST
    write_json({"check": hashes.check, "users": users}, path)
    return path


class Private:
    """A reader of `sealr.data.sources` without the records of forgotten users, and of nobody if none may be kept.

    A forgotten user's row stays a row, so that line numbers and counts are true: it is unreadable, with REASON.
    """

    def __init__(self, source: Any, config: DataConfig) -> None:
        self.source, self.bare = source, config.keep_rejected == "reason"
        self.users = forgotten(config.name)
        self.hashes = salted() if self.users else None

    def __getstate__(self) -> dict[str, Any]:
        """For processes that read parts: the list and the salt go along, the module by its name."""
        return self.__dict__ | {"source": self.source.__name__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"source": importlib.import_module(state["source"])})

    def read_reviews(self, config: DataConfig, path: Path | Span) -> Iterator[Row]:
        rows: Iterator[Row] = self.source.read_reviews(config, path)
        return map(self._row, rows) if self.users or self.bare else rows

    def read_items(self, config: DataConfig, path: Path) -> Iterator[Row]:
        rows: Iterator[Row] = self.source.read_items(config, path)
        return map(self._row, rows) if self.bare else rows

    def _row(self, row: Row) -> Row:
        if self.hashes and row.values is not None and self.hashes(str(row.values.get("user"))) in self.users:
            return row._replace(values=None, raw="", reason=REASON)
        return row._replace(raw="") if self.bare else row
