"""Item sequences of users, and how they are split: leave-one-out, or by time for all users alike.

Item ids are 1..n in the order of ``Sequences.items``, so ``items[id - 1]`` is the item; 0 is padding. All sequences are
stored in one flat array. A value per interaction, such as a sentiment, is an array aligned with it.

Leave-one-out: "test" predicts the last item from all earlier ones, "valid" the second to last from all before it.
"train" has all but the last two. Users with under three items, and ``whole`` users, appear only in train, with all
their items. Gate users are in "gate" instead of "valid", with the same histories and targets: nothing is chosen on
them. By time: see `Sequences.with_times`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

SPLITS = ("train", "valid", "gate", "test")
EARLIER = 0.9  # share of the interactions that lie before a moment of the split by time
HELD_OUT = {"valid": 2, "gate": 2, "test": 1}  # items at the end of a sequence that the split's history leaves out


class SequenceError(ValueError):
    """Sequences cannot be built or aligned; the message names file, user or column."""


@dataclass(frozen=True)
class Split:
    """Users, histories and, except in train, targets of one split. A history is a slice of the flat array."""

    users: np.ndarray  # int64, indices into Sequences.users
    starts: np.ndarray  # int64, where each history starts in flat or an aligned array
    ends: np.ndarray  # int64, where it ends, which is the position of the target
    targets: np.ndarray  # int64 item ids; empty for train
    flat: np.ndarray  # Sequences.flat

    def __len__(self) -> int:
        return len(self.users)

    def history(self, index: int, values: np.ndarray | None = None) -> np.ndarray:
        """View of the ``index``-th user's items, oldest first, or of that slice of an aligned array."""
        return (self.flat if values is None else values)[self.starts[index] : self.ends[index]]

    def histories(self, values: np.ndarray | None = None) -> Iterator[np.ndarray]:
        return (self.history(index, values) for index in range(len(self)))


@dataclass(frozen=True)
class Cuts:
    """Where a split by time cuts each user's sequence: places in ``flat``, all (users,) int64; -1 for no target."""

    train: np.ndarray  # end of the training items
    valid: np.ndarray  # targets
    test: np.ndarray
    moments: tuple[int, int]  # end of training and of validation, timestamps that still belong to them


@dataclass(frozen=True)
class Sequences:
    users: list[str]
    items: list[str]  # the item with id i is items[i - 1]
    flat: np.ndarray  # int64 item ids of all users, oldest first
    offsets: np.ndarray  # int64 (users + 1,): user u has flat[offsets[u]:offsets[u + 1]]
    whole: frozenset[int] = frozenset()  # users without held-out items
    gate: frozenset[int] = frozenset()  # users whose validation item judges a promotion and chooses nothing
    cuts: Cuts | None = None  # None: leave-one-out

    @property
    def n_items(self) -> int:
        """Number of items, and the highest item id. An embedding table needs one more row, for padding."""
        return len(self.items)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.users)

    def sequence(self, user: int) -> np.ndarray:
        """View of all item ids of the user with this index, oldest first."""
        return self.flat[self.offsets[user] : self.offsets[user + 1]]

    def item_ids(self) -> dict[str, int]:
        """Maps each item to its id, from 1."""
        return {item: number for number, item in enumerate(self.items, start=1)}

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {user: row for row, user in enumerate(self.users)}

    def rows(self, users: Iterable[str]) -> np.ndarray:
        """(N,) int64 indices of users in ``self.users``. Raises KeyError on an unknown user."""
        return np.array([self._row_of[user] for user in users], dtype=np.int64)

    def span(self, split: str, row: int) -> slice:
        """Slice of one user's "valid", "gate" or "test" history in ``flat`` or an aligned array."""
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]) - HELD_OUT[split])

    def targets(self, split: str, rows: Iterable[int] | np.ndarray) -> np.ndarray:
        """(N,) int64 item ids that follow the users' "valid", "gate" or "test" histories."""
        return self.flat[self.offsets[np.asarray(rows, dtype=np.int64) + 1] - HELD_OUT[split]]

    @cached_property
    def known(self) -> np.ndarray:
        """(n_items + 1,) bool: items that anybody has in the training split; True for the padding."""
        found = np.zeros(self.n_items + 1, dtype=bool)
        found[np.concatenate([[0], *self.split("train").histories()])] = True
        return found

    def with_whole(self, users: Iterable[str]) -> Sequences:
        """The same sequences with no held-out items for these users. Raises KeyError on an unknown user."""
        return replace(self, whole=frozenset(self.rows(users).tolist()))

    def with_gate(self, share: float) -> Sequences:
        """The same sequences with this share of the users as gate users, see `gate_draw`."""
        return replace(self, gate=frozenset(row for row, user in enumerate(self.users) if gate_draw(user) < share))

    def with_times(self, times: np.ndarray) -> Sequences:
        """The same sequences, split by time: what happened up to a moment is learned, what came later is foretold.

        times (interactions,): when, aligned with ``flat``, ascending within a user. The test moment has EARLIER of all
        interactions before it, the validation moment EARLIER of those. "train" has the interactions up to the
        validation moment. "valid" predicts a user's last item up to the test moment, "test" the last of all, from all
        earlier ones, if it came after the split's moment. Users without such a target, or without an earlier item, are
        not in the split. (Global temporal split, target "last", validation by time: Gusak et al., RecSys 2025.)
        Raises SequenceError when a split has no users.
        """
        until = np.quantile(times, EARLIER, method="lower")
        start = np.quantile(times[times <= until], EARLIER, method="lower")
        starts, ends = self.offsets[:-1], self.offsets[1:]
        train, known = (starts + np.add.reduceat((times <= at).astype(np.int64), starts) for at in (start, until))
        valid = np.where((known > train) & (known - starts > 1), known - 1, -1)
        test = np.where((ends > known) & (ends - starts > 1), ends - 1, -1)
        for name, places in (("validation", valid), ("test", test)):
            if not (places >= 0).any():
                raise SequenceError(
                    f"a split by time leaves no user for {name}, because too many timestamps are alike: "
                    "set evaluate.split=last"
                )
        return replace(self, cuts=Cuts(train, valid, test, (int(start), int(until))))

    def split(self, name: str) -> Split:
        """Histories and targets of "train", "valid", "gate" or "test"."""
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is not one of {', '.join(SPLITS)}")
        starts, ends, long = self.offsets[:-1], self.offsets[1:], self.lengths >= 3
        if self.cuts is None:
            places = ends - HELD_OUT.get(name, 2)
        else:
            places = getattr(self.cuts, "valid" if name == "gate" else name)
            long = places >= 0
        long[list(self.whole)] = False
        if name == "train":
            places = np.where(long, places, ends)
            return Split(np.arange(len(self.users)), starts, places, np.empty(0, np.int64), self.flat)
        if name != "test":
            judges = np.zeros(len(self.users), dtype=bool)
            judges[list(self.gate)] = True
            long &= judges if name == "gate" else ~judges
        places = places[long]
        return Split(np.flatnonzero(long), starts[long], places, self.flat[places], self.flat)

    def values(self, frame: pd.DataFrame, column: str) -> np.ndarray:
        """A column of a table keyed by (user, position), aligned with ``flat``; numeric nulls become NaN.

        Rows of other users are ignored. Raises SequenceError if an interaction has no row or several.
        """
        for name in ("user", "position", column):
            if name not in frame:
                found = ", ".join(frame.columns[:8])
                raise SequenceError(f"cannot align values: the table has no column {name!r}, only: {found}")
        codes = pd.Index(self.users).get_indexer(frame["user"])
        known = codes >= 0
        codes, positions = codes[known], frame["position"].to_numpy()[known].astype(np.int64)
        outside = (positions < 0) | (positions >= self.lengths[codes])
        if outside.any():
            at = int(np.argmax(outside))
            user, length = self.users[codes[at]], self.lengths[codes[at]]
            raise SequenceError(f"{column}: user {user!r} has no position {positions[at]}, only 0 to {length - 1}")
        index = self.offsets[codes] + positions
        seen = np.bincount(index, minlength=len(self.flat))
        if (seen != 1).any():
            at = int(np.argmax(seen != 1))
            user = int(np.searchsorted(self.offsets, at, side="right")) - 1
            place = f"user {self.users[user]!r} position {at - self.offsets[user]}"
            raise SequenceError(f"{column}: {seen[at]} rows for {place}, expected one")
        source = frame[column][known]
        if not pd.api.types.is_numeric_dtype(source.dtype):
            array = source.to_numpy(dtype=object)
        elif source.isna().any():
            array = source.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            array = source.to_numpy(dtype=getattr(source.dtype, "numpy_dtype", source.dtype))
        out = np.empty(len(self.flat), dtype=array.dtype)
        out[index] = array
        return out


def gate_draw(user: str) -> float:
    """A number in [0, 1) that the user's id alone decides; users below ``evaluate.gate_share`` are gate users.

    So a user keeps the role when other users come and go, and a larger share adds users without removing any.
    """
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8, person=b"sealr gate").digest()) / 2**64


def build(reviews: pd.DataFrame) -> Sequences:
    """Sequences of a reviews table; users and items are sorted. Raises SequenceError if positions have gaps."""
    if reviews.empty:
        raise SequenceError("the reviews table is empty")
    codes, users = pd.factorize(reviews["user"], sort=True)
    item_codes, items = pd.factorize(reviews["item"], sort=True)
    positions = reviews["position"].to_numpy().astype(np.int64)
    order = np.lexsort((positions, codes))
    offsets = np.concatenate(([0], np.cumsum(np.bincount(codes, minlength=len(users))))).astype(np.int64)
    wrong = positions[order] != np.arange(len(order)) - offsets[codes[order]]
    if wrong.any():
        raise SequenceError(f"positions of user {users[codes[order][np.argmax(wrong)]]!r} are not 0, 1, 2 ...")
    return Sequences(list(users), list(items), (item_codes[order] + 1).astype(np.int64), offsets)
