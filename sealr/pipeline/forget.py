"""Forgetting a user: everything that the state folder and MLflow keep of one person in one data set (docs/privacy.md).

Stage folders with the user are deleted, not rewritten: without the user, other users and items may fall out of the
k-core, so nothing that was made from the reviews stays true. The next job makes them anew without the user, whom each
ingest drops by the list of `sealr.data.privacy`. What was deleted last is what tells which texts were the user's, so an
interrupted call can be repeated.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sealr.data import cache, privacy
from sealr.data.manifest import state_dir
from sealr.data.prune import Folder, remove
from sealr.data.tables import read_json
from sealr.data.traces import Traces, phrases
from sealr.emotion.cleaning import clean
from sealr.emotion.labeller import CHARACTERS_PER_TOKEN, MAX_WINDOWS, WINDOW_TOKENS
from sealr.registry import forget as registry

log = logging.getLogger(__name__)
CACHES = ("label-cache", "vector-cache")
PREFERENCES = "preferences"  # written for histories, without ids: nobody can tell whose they are, so all go
SPECIAL_TOKENS = range(5)  # of a labeller; they decide after how many characters it cuts a text


class UnknownUser(ValueError):
    """Nothing is known of the user; the message says where was searched."""


@dataclass(frozen=True)
class Forgotten:
    """Findings by place, before and after. replaced: new versions by the places of old ones. others: see `others`."""

    before: dict[str, int]
    after: dict[str, int]
    replaced: dict[str, str]
    list: Path  # of forgotten users
    stages: int  # folders that were deleted
    searched: int  # files of the state folder
    others: tuple[str, ...]  # data sets with a user of the same id


def forget(user: str, data: str) -> Forgotten:
    """Removes a user of a data set. Raises UnknownUser, SaltError, CacheError, and what MLflow raises."""
    state = state_dir()
    traces, also = gather(user, data), others(user, data)
    before = survey(traces, data)
    if not any(before.values()) and privacy.salted()(user) not in privacy.forgotten(data):
        hint = f"; {', '.join(also)} has a user of this id" if also else ""
        raise UnknownUser(
            f"no trace of this user of {data} in {state} or in MLflow, so nothing was changed: "
            f"ids are compared to the letter{hint}"
        )
    listed = privacy.remember(data, user)
    for path in _caches(state):
        cache.forget(path, traces.keys)
    shutil.rmtree(state / PREFERENCES, ignore_errors=True)
    replaced = registry.forget(traces, data)
    gone = remove(affected(state / data, set(traces.count_in(state / data))))
    return Forgotten(before, survey(traces, data), replaced, listed, len(gone), len(_searched(state, data)), also)


def gather(user: str, data: str) -> Traces:
    """What to search of a user: ids, texts that nobody else wrote, and phrases of them, from all stored reviews."""
    own: set[str] = set()
    for path in (state_dir() / data).glob("ingest/*/reviews.parquet"):
        for batch in _reviews(path):
            own |= set(batch.filter(pc.field("user") == user)["text"].to_pylist())
    own -= {""}
    told = dict(phrases(sorted(own)))
    for path in state_dir().glob("*/ingest/*/reviews.parquet") if own else ():
        same = path.parts[-4] == data
        for batch in _reviews(path):
            texts = (batch.filter(pc.field("user") != user) if same else batch)["text"]
            own -= set(texts.filter(pc.is_in(texts, pa.array(sorted(own), texts.type))).to_pylist())
            for text, phrase in list(told.items()):
                if pc.any(pc.match_substring(texts, phrase)).as_py():
                    del told[text]
    limits = [(WINDOW_TOKENS - special) * MAX_WINDOWS * CHARACTERS_PER_TOKEN for special in SPECIAL_TOKENS]
    cached = {form for text in own for form in (text, text.strip(), *(clean(text, limit) for limit in limits))}
    kept = tuple(phrase for text, phrase in told.items() if text in own)
    return Traces((user, privacy.salted()(user)), frozenset(own), kept, frozenset(cached) - {""})


def _reviews(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["user", "text"]):
            yield pa.Table.from_batches([batch])


def others(user: str, data: str) -> tuple[str, ...]:
    """Other data sets with a user of this id, who may be another person."""
    found = set()
    for path in state_dir().glob("*/ingest/*/reviews.parquet"):
        if path.parts[-4] != data and any(pc.any(pc.equal(b["user"], user)).as_py() for b in _reviews(path)):
            found.add(path.parts[-4])
    return tuple(sorted(found))


def survey(traces: Traces, data: str) -> dict[str, int]:
    """Findings by place: kinds of stages, other parts of the state folder, and those of `registry.survey`."""
    found: Counter[str] = Counter()
    for path in _searched(state_dir(), data):
        parts = path.relative_to(state_dir()).parts
        found["/".join(parts[:2] if parts[0] == data else parts[:1])] += traces.count(path)
    return dict(sorted(found.items())) | registry.survey(traces, data)


def _searched(state: Path, data: str) -> list[Path]:
    """All files of the state folder but the list of forgotten users, and other data sets, whose ids are their own."""
    strangers = {path.parents[2] for path in state.glob("*/*/*/manifest.json")} - {state / data}
    strangers.add(state / data / privacy.LIST)
    return [p for p in sorted(state.rglob("*")) if p.is_file() and not strangers & {p, *p.parents}]


def affected(folder: Path, traced: set[Path]) -> list[Folder]:
    """Stage folders of a data set that hold one of the files, are unfinished, or were made from such folders.

    Those of ingest come last: `gather` reads them.
    """
    stages = {path for path in folder.glob("*/*") if path.with_suffix(".lock").exists() and path.is_dir()}
    made = {path: read_json(path / "manifest.json") for path in stages if (path / "manifest.json").is_file()}
    new = {path for path in stages if path not in made or traced & {*path.rglob("*")}}
    gone: set[Path] = set()
    while new:
        gone |= new
        digests = {d for path in new & made.keys() for d in (made[path]["digest"], *made[path]["files"].values())}
        new = {path for path, values in made.items() if digests & set(values["inputs"].values())} - gone
    sizes = {path: sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) for path in gone}
    return [Folder(path, sizes[path]) for path in sorted(gone, key=lambda p: (p.parent.name == "ingest", p))]


def _caches(state: Path) -> list[Path]:
    return [path for name in CACHES for path in sorted((state / name).glob("*.sqlite"))]
