"""Who is evaluated and what counts: disjoint users, pools with the target, misses, ceilings and chance lines."""

import numpy as np
import pytest

from sealr.evaluate.metrics import chance
from sealr.evaluate.protocols import (
    draw_users,
    full,
    injected,
    injected_pool,
    inverted,
    rank_in,
    retrieved,
    split_users,
)

POOLS = np.array([[4, 7, 2], [9, 1, 3], [5, 6, 0]])
TARGETS = np.array([2, 8, 5])


def test_fine_tuning_and_evaluation_users_are_disjoint():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        users = [f"u{i}" for i in rng.permutation(1000)[: rng.integers(40, 400)]]
        splits = {ratio: split_users(users, ratio, 0.05, seed) for ratio in (0.1, 0.2, 0.5)}
        for ratio, split in splits.items():
            parts = [split.train, split.valid, split.evaluate]
            assert sum(map(len, parts)) == len(set().union(*parts))  # nobody is in two
            assert set().union(*parts) <= set(users)
            assert len(split.train) + len(split.valid) == int(ratio * len(users)) and split.valid
            assert len(split.evaluate) in (len(users) // 2, len(users) // 2 + 1)
            assert split.evaluate == splits[0.5].evaluate  # every ratio is evaluated on the same users
        assert {*splits[0.1].train, *splits[0.1].valid} < {*splits[0.2].train, *splits[0.2].valid}


def test_split_depends_on_seed_and_not_on_order():
    users = [str(i) for i in range(100)]
    assert split_users(users, 0.2, 0.1, 1) == split_users(users[::-1], 0.2, 0.1, 1) != split_users(users, 0.2, 0.1, 2)


def test_gate_users_are_left_out_of_the_fine_tuning_users_and_nobody_else_moves():
    users = [str(i) for i in range(200)]
    plain = split_users(users, 0.5, 0.1, 0)
    gate = {user for user in users if int(user) % 4 == 0}
    split = split_users(users, 0.5, 0.1, 0, gate)
    assert split.evaluate == plain.evaluate and gate & set(split.evaluate)
    tuned = [user for user in (*plain.valid, *plain.train) if user not in gate]
    assert [*split.valid, *split.train] == tuned and len(split.valid) == round(0.1 * len(tuned))


@pytest.mark.parametrize(
    ("users", "ratio", "message"),
    [(["a", "a"], 0.2, "twice"), (["a", "b"], 0.6, "at most 0.5"), (["a", "b", "c"], 0.2, "too few")],
)
def test_impossible_splits(users, ratio, message):
    with pytest.raises(ValueError, match=message):
        split_users(users, ratio, 0.05, 0)


def test_draw_users():
    users = [str(i) for i in range(30)]
    assert draw_users(users, 0) == draw_users(users[::-1], 0) != draw_users(users, 1)
    assert sorted(draw_users(users, 0)) == sorted(users) != draw_users(users, 0)


def test_rank_in():
    assert rank_in(POOLS, TARGETS).tolist() == [3, 0, 1]
    assert rank_in(POOLS, np.array([0, 0, 0])).tolist() == [0, 0, 0]  # padding is no target


def test_injected_pool():
    assert injected_pool(np.array([4, 7, 2]), 7, 3).tolist() == [4, 7, 2]  # retrieved: unchanged
    assert injected_pool(np.array([4, 7, 2]), 8, 3).tolist() == [4, 7, 8]  # else it replaces the last one
    assert injected_pool(np.array([4, 7, 2]), 2, 2).tolist() == [4, 2]  # retrieved, but not among the first C
    assert injected_pool(np.array([4, 7]), 8, 5).tolist() == [4, 7, 8]  # a pool shorter than C
    assert injected_pool(np.array([4, 7]), 7, 5).tolist() == [4, 7]


def test_inverted():
    assert inverted(POOLS).tolist() == [[2, 7, 4], [3, 1, 9], [6, 5, 0]]


def test_full_counts_a_missed_target_as_zero():
    result = full(POOLS, TARGETS, np.array([3, 500, 1]), {"llm": inverted(POOLS)})
    assert result.ranks["retriever"].tolist() == [3, 500, 1] and result.ranks["llm"].tolist() == [1, 0, 2]
    rows = result.rows()
    assert [r["system"] for r in rows] == ["retriever", "llm"]  # no chance line over the whole catalogue
    assert rows[1]["HR@10"] == pytest.approx(2 / 3) == result.ceiling and rows[1]["users"] == 3


def test_retrieved_keeps_only_users_whose_target_is_there():
    result = retrieved(POOLS, TARGETS, {"llm": inverted(POOLS)})
    assert result.users.tolist() == [True, False, True] and result.ceiling == pytest.approx(2 / 3)
    assert {s: r.tolist() for s, r in result.ranks.items()} == {"retriever": [3, 1], "llm": [1, 2]}
    assert result.rows((1,))[-1] == {
        "protocol": "retrieved",
        "ceiling": result.ceiling,
        "users": 2,
        "system": "chance",
    } | {
        "HR@1": pytest.approx((1 / 3 + 1 / 2) / 2),
        "NDCG@1": pytest.approx((1 / 3 + 1 / 2) / 2),
    }


def test_injected_prints_chance_and_both_retriever_orders():
    rng = np.random.default_rng(0)
    pools = np.stack([rng.permutation(500)[:50] + 1 for _ in range(4000)])
    targets = rng.integers(1, 501, size=4000)
    pools = np.stack([injected_pool(pool, target, 50) for pool, target in zip(pools, targets, strict=True)])
    shuffled = rng.permuted(pools, axis=1)
    rows = {r["system"]: r for r in injected(pools, targets, {"random": shuffled}, ceiling=0.1).rows()}
    assert list(rows) == ["retriever", "retriever inverted", "random", "chance"]
    assert (rows["chance"]["HR@10"], rows["chance"]["NDCG@10"]) == pytest.approx(chance(50, 10))
    assert rows["random"]["NDCG@10"] == pytest.approx(rows["chance"]["NDCG@10"], abs=0.02)
    assert rows["retriever inverted"]["HR@5"] > 0.9  # most targets were put in last: the protocol rewards the inversion


def test_injected_wants_the_target_in_every_pool():
    with pytest.raises(ValueError, match="injected_pool"):
        injected(POOLS, TARGETS, {})
