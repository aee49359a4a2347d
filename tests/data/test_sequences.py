import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sealr.data.sequences import SequenceError, build, gate_draw

ALICE = 0.7728286763618344

REVIEWS = pd.DataFrame(
    [
        ("b", "y", 1),
        ("a", "z", 0),
        ("a", "x", 1),
        ("b", "x", 0),
        ("a", "y", 2),
        ("a", "w", 3),
        ("c", "w", 0),
        ("b", "z", 2),
    ],
    columns=["user", "item", "position"],
)  # a: z x y w; b: x y z; c: w. Items w x y z are 1 2 3 4


def test_build_orders_by_position_and_numbers_items_from_one():
    sequences = build(REVIEWS)
    assert sequences.users == ["a", "b", "c"] and sequences.items == ["w", "x", "y", "z"]
    assert sequences.flat.tolist() == [4, 2, 3, 1, 2, 3, 4, 1] and sequences.flat.dtype == np.int64
    assert sequences.offsets.tolist() == [0, 4, 7, 8] and sequences.lengths.tolist() == [4, 3, 1]
    assert len(sequences) == 3 and sequences.n_items == 4 and sequences.item_ids() == {"w": 1, "x": 2, "y": 3, "z": 4}
    assert sequences.sequence(1).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "users", "histories", "targets"),
    [
        ("train", [0, 1, 2], [[4, 2], [2], [1]], []),
        ("valid", [0, 1], [[4, 2], [2]], [3, 3]),
        ("test", [0, 1], [[4, 2, 3], [2, 3]], [1, 4]),
    ],
)
def test_leave_one_out(name, users, histories, targets):
    split = build(REVIEWS).split(name)
    assert split.users.tolist() == users and len(split) == len(users)
    assert [h.tolist() for h in split.histories()] == histories
    assert split.targets.tolist() == targets


def by_time(times):
    """Sequences whose items are numbered by user and time. times: user -> times of the items."""
    rows = [(u, f"{t:04}", p, t) for u, own in times.items() for p, t in enumerate(own)]
    frame = pd.DataFrame(rows, columns=["user", "item", "position", "timestamp"])
    sequences = build(frame)
    return sequences.with_times(sequences.values(frame, "timestamp"))


# 14 interactions: the 12th ends validation (.9 * 13 = 11.7), the 10th of those 12 ends training (.9 * 11 = 9.9)
TIMES = {"a": [1, 2, 11], "b": [3, 4, 13, 14], "c": [5, 6, 7, 8, 9, 10], "e": [12]}


@pytest.mark.parametrize(
    ("name", "users", "histories", "targets"),
    [
        ("train", "abce", [[1, 2], [3, 4], [5, 6, 7, 8, 9, 10], []], []),
        ("valid", "a", [[1, 2]], [11]),  # e has nothing before the target; b and c took nothing then
        ("test", "b", [[3, 4, 13]], [14]),  # what came after the moment, but before the target, is known by then
    ],
)
def test_by_time(name, users, histories, targets):
    """Items are called by their times, so item ids are times."""
    sequences = by_time(TIMES)
    split = sequences.split(name)
    assert sequences.cuts.moments == (10, 12) and [sequences.users[u] for u in split.users] == list(users)
    assert [h.tolist() for h in split.histories()] == histories and split.targets.tolist() == targets


def test_one_moment_holds_for_all_users():
    """Nobody's training item is newer than anybody's validation or test target; with leave-one-out many are."""
    rng = np.random.default_rng(0)
    times = {f"u{n}": sorted(rng.choice(9000, rng.integers(1, 9), replace=False).tolist()) for n in range(200)}
    sequences = by_time(times)
    moment = [int(item) for item in sequences.items]  # of each item id, from 1

    def newest(part):
        return max(moment[item - 1] for history in part.split("train").histories() for item in history)

    def oldest(part, name):
        return min(moment[item - 1] for item in part.split(name).targets)

    assert newest(sequences) < oldest(sequences, "valid") and sequences.cuts.moments[1] < oldest(sequences, "test")
    plain = replace(sequences, cuts=None)
    assert newest(plain) > oldest(plain, "valid")
    gated = sequences.with_gate(0.5)
    both = {*gated.split("valid").users.tolist(), *gated.split("gate").users.tolist()}
    assert both == set(sequences.split("valid").users.tolist()) and len(gated.split("gate"))


def test_times_that_are_all_alike_cannot_split():
    with pytest.raises(SequenceError, match="no user for validation.*set evaluate.split=last"):
        by_time({"a": [5, 5, 5], "b": [5, 5]})


def test_users_learned_from_whole_are_in_train_alone():
    sequences = build(REVIEWS).with_whole(["a"])
    assert [h.tolist() for h in sequences.split("train").histories()] == [[4, 2, 3, 1], [2], [1]]
    assert sequences.split("valid").users.tolist() == sequences.split("test").users.tolist() == [1]
    with pytest.raises(KeyError, match="z"):
        build(REVIEWS).with_whole(["z"])


def test_gate_users_are_in_gate_instead_of_valid():
    """Nothing else changes for them: they are trained on and tested as everybody."""
    plain, sequences = build(REVIEWS), replace(build(REVIEWS), gate=frozenset([0, 2]))
    gate = sequences.split("gate")
    assert gate.users.tolist() == [0] and [h.tolist() for h in gate.histories()] == [[4, 2]]  # c has too few items
    assert gate.targets.tolist() == sequences.targets("gate", [0]).tolist() == [3]
    assert sequences.span("gate", 0) == sequences.span("valid", 0)
    assert sequences.split("valid").users.tolist() == [1] and not len(plain.split("gate"))
    for name in ("train", "test"):
        a, b = plain.split(name), sequences.split(name)
        assert a.users.tolist() == b.users.tolist() and a.ends.tolist() == b.ends.tolist()


def test_a_gate_user_stays_one_whoever_comes_and_whatever_the_share():
    users = [f"u{n}" for n in range(2000)]
    few = {user for user in users if gate_draw(user) < 0.25}
    assert len(few) == pytest.approx(500, abs=60) and few < {user for user in users if gate_draw(user) < 0.3}
    assert gate_draw("alice") == pytest.approx(ALICE, abs=1e-9)  # another release must not move anybody
    sequences = build(REVIEWS)
    for subset in (["a", "b", "c"], ["b", "c"]):
        made = build(REVIEWS[REVIEWS["user"].isin(subset)]).with_gate(0.6)
        assert {made.users[row] for row in made.gate} == {user for user in subset if gate_draw(user) < 0.6}
    assert not sequences.with_gate(0).gate


def test_no_target_of_valid_or_test_is_in_a_train_history():
    sequences = build(REVIEWS)
    train = sequences.split("train")
    for name in ("valid", "test"):
        split = sequences.split(name)
        ends = dict(zip(train.users.tolist(), train.ends.tolist(), strict=True))
        assert all(end >= ends[user] for user, end in zip(split.users.tolist(), split.ends.tolist(), strict=True))


def test_unknown_split():
    with pytest.raises(ValueError, match="split 'dev' is not one of train, valid, gate, test"):
        build(REVIEWS).split("dev")


def test_values_are_aligned_with_items_whatever_the_row_order():
    sequences = build(REVIEWS)
    labels = REVIEWS.assign(
        name=REVIEWS["user"] + REVIEWS["position"].astype(str), sentiment=pd.array(range(8), dtype="Int8")
    )
    labels = labels.sample(frac=1, random_state=3)
    assert sequences.values(labels, "name").tolist() == ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "c0"]
    values = sequences.values(labels, "sentiment")
    assert values.dtype == np.int8 and values.tolist() == [1, 2, 4, 5, 3, 0, 7, 6]
    assert sequences.split("test").history(1, values).tolist() == [3, 0]
    labels.loc[labels["name"] == "a1", "sentiment"] = None
    assert np.isnan(sequences.values(labels, "sentiment")[1])
    others = labels.assign(user="else")
    assert sequences.values(pd.concat([labels, others]), "name")[0] == "a0"


def test_values_that_do_not_fit_are_errors():
    sequences, labels = build(REVIEWS), REVIEWS.assign(v=1)
    with pytest.raises(SequenceError, match="v: 0 rows for user 'a' position 1, expected one"):
        sequences.values(labels.drop(index=2), "v")
    with pytest.raises(SequenceError, match="v: 2 rows for user 'b' position 2, expected one"):
        sequences.values(pd.concat([labels, labels.tail(1)]), "v")
    with pytest.raises(SequenceError, match="user 'c' has no position 1, only 0 to 0"):
        sequences.values(pd.concat([labels, pd.DataFrame({"user": ["c"], "position": [1], "v": [1]})]), "v")
    with pytest.raises(SequenceError, match="no column 'w', only: user, item, position, v"):
        sequences.values(labels, "w")


def test_build_refuses_gaps_and_nothing():
    with pytest.raises(SequenceError, match="positions of user 'b'"):
        build(REVIEWS.drop(index=3))
    with pytest.raises(SequenceError, match="empty"):
        build(REVIEWS.iloc[:0])


def test_three_hundred_thousand_interactions_build_fast():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(30_000), 10)
    frame = pd.DataFrame(
        {"user": users, "item": rng.integers(0, 20_000, len(users)), "position": np.tile(np.arange(10), 30_000)}
    )
    frame = frame.astype({"user": "str", "item": "str"})
    started = time.perf_counter()
    sequences = build(frame)
    sequences.values(frame.assign(v=1.0), "v")
    for name in ("train", "valid", "test"):
        sequences.split(name)
    assert time.perf_counter() - started < 3  # well under one second on an idle machine
