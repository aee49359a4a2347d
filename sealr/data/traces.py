"""Searching files for what a person left: the id, the salted id, and texts that nobody else wrote.

Tables are read cell by cell, SQLite files row by row, all other files byte by byte. An id such as 12 also stands for
other things, so ids without DISTINCT_LENGTH characters are searched only where ids of users stand: columns, lists and
keys named as in USERS. Texts are searched as whole cells and, elsewhere, by the first words of theirs that are
nobody else's.
"""

from __future__ import annotations

import html
import json
import mmap
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sealr.data.cache import key_of

USERS = re.compile(r"(\w+_)?users?|learned")  # names of columns, lists and objects with ids of users
DISTINCT_LENGTH = 5
WORDS = re.compile(r"\w[\w,.]*(?: [\w,.]+)+")  # no signs that JSON or HTML write differently
LEAST, MOST = 24, 40  # characters of a text that are searched
SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class Traces:
    """What is searched. texts: of the user and nobody else. cached: all forms in which caches know them."""

    ids: tuple[str, ...]  # the id, and the salted id
    texts: frozenset[str] = frozenset()
    phrases: tuple[str, ...] = ()
    cached: frozenset[str] = frozenset()
    keys: frozenset[bytes] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", frozenset(key_of(text) for text in self.cached))

    @cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """The distinct ids, not within a word, and the phrases, as they are or as JSON or HTML write them."""
        forms = [form for text in (*self.distinct, *self.phrases) for form in _forms(text)]
        return re.compile(rb"(?<![\w\\])(?:%s)(?!\w)" % b"|".join(forms) if forms else rb"(?!)")

    @cached_property
    def _literals(self) -> str:
        """For Arrow, which knows no look-behind."""
        return b"|".join(sorted(set().union(*(_forms(t) for t in (*self.distinct, *self.phrases))))).decode()

    @property
    def distinct(self) -> tuple[str, ...]:
        """The ids that are searched everywhere."""
        return tuple(i for i in self.ids if len(i) >= DISTINCT_LENGTH and not (i.isdecimal() and len(i) < 8))

    def count(self, path: Path) -> int:
        """Findings in one file. Raises OSError, and ValueError for a damaged table."""
        if path.suffix == ".parquet":
            return self._in_table(path)
        with open(path, "rb") as file:
            start = file.read(len(SQLITE))
        if start == SQLITE:
            return self._in_database(path)
        if not path.stat().st_size:
            return 0
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = sum(1 for _ in self.pattern.finditer(content))
        if not found and path.suffix == ".json" and len(self.distinct) < len(self.ids):
            found = self._in_json(json.loads(path.read_text(encoding="utf-8")))
        return found

    def count_in(self, folder: Path, leave_out: Iterable[Path] = ()) -> dict[Path, int]:
        """The files below a folder with findings. leave_out: subfolders."""
        out = set(leave_out)
        files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not out & set(p.parents))
        return {path: n for path in files if (n := self.count(path))}

    def _in_table(self, path: Path) -> int:
        found = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                found += sum(self._in_column(name, batch.column(name)) for name in batch.schema.names)
        return found

    def _in_column(self, name: str, values: Any) -> int:
        while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            values = pc.list_flatten(values)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            return 0
        if USERS.fullmatch(name) or name == "text":
            wanted = pa.array(sorted(self.texts) if name == "text" else self.ids, values.type)
            return int(pc.sum(pc.is_in(values, wanted)).as_py() or 0)
        if not self.distinct and not self.phrases:
            return 0
        likely = values.filter(pc.match_substring_regex(values, self._literals))
        return sum(len(self.pattern.findall(value.encode())) for value in likely.to_pylist())

    def _in_database(self, path: Path) -> int:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.text_factory = bytes
            query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%\\_fts%' ESCAPE '\\'"
            names = [name.decode() for (name,) in database.execute(query).fetchall()]
            rows = (row for name in names for row in database.execute(f'SELECT * FROM "{name}"'))
            return sum(self._in_value(value) for row in rows for value in row if isinstance(value, bytes))

    def _in_value(self, value: bytes) -> int:
        return 1 if value in self.keys else len(self.pattern.findall(value))

    def _in_json(self, value: Any, users: bool = False) -> int:
        if isinstance(value, dict):
            inner = sum(self._in_json(v, bool(USERS.fullmatch(k))) for k, v in value.items())
            return inner + (len(set(self.ids) & value.keys()) if users else 0)
        if isinstance(value, list):
            return sum(self._in_json(v, users) for v in value)
        return int(users and value in self.ids)


def phrases(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(text, its first LEAST to MOST characters of plain words); texts without so many are left out."""
    for text in texts:
        if run := next((m[0][:MOST] for m in WORDS.finditer(text) if len(m[0]) >= LEAST), ""):
            yield text, run if len(run) < MOST else run.rpartition(" ")[0] or run


def _forms(text: str) -> set[bytes]:
    plain = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], html.escape(text)}
    return {re.escape(form).encode("utf-8", "surrogatepass") for form in plain}
