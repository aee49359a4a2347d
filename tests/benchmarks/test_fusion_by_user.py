"""The study benchmarks/studies/fusion-by-user.md on arrays small enough to work out by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import fusion_by_user as study
from benchmarks import fusion_pools
from benchmarks.transition import EASE, NEAR, counted
from sealr.data.sequences import build
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.fusion import Shortlist

USERS = 40


@pytest.fixture
def pool():
    """Two parts, three items; the target is item 3. For short histories the first part is right, for long the second.

    The other part is as sure of item 1, so common weights are right for one half of the users at most.
    """
    right, wrong = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    long = (torch.arange(USERS) % 2 == 1)[:, None]
    scores = torch.stack([torch.where(long, wrong, right), torch.where(long, right, wrong)])
    near = Shortlist(scores, torch.ones(USERS, 3, dtype=torch.bool), torch.full((USERS,), 2))
    length = torch.where(long, math.log(20), math.log(3))
    items = torch.arange(1, 4).expand(USERS, -1)
    return fusion_pools.Pool(
        near, ["sasrec", "bsarec"], np.arange(USERS), items, length, torch.log1p(torch.arange(4.0))
    )


def first(pool, rule):
    """Share of users whose target is ranked first."""
    judge = study.RULES[rule](pool)(pool)
    return (judge.argmax(1) == pool.near.targets).float().mean().item()


def test_weights_by_length_are_right_where_one_weight_cannot_be(pool):
    assert first(pool, "one weight") == 0.5
    assert first(pool, "by length") == first(pool, "by length, if clear") == 1


def test_a_stacker_needs_the_length_for_it(pool):
    assert first(pool, "stacker") <= 0.5
    assert first(pool, "stacker with length") == 1


def test_shuffled_lengths_give_nothing(pool):
    shuffled = pool.shuffled("length", 0)
    assert sorted(shuffled.length.flatten().tolist()) == sorted(pool.length.flatten().tolist())
    values = [
        study.cross_fitted(pool, study.RULES["by length"], USERS, 3, shuffle).mean() for shuffle in ("", "length")
    ]
    assert values[0] == 1 and values[1] < 0.9  # a common weight has .75 or .82: ranks 1 and 3 or 2


def test_the_popularity_of_items_counts_alone_and_by_group(pool):
    """All parts are silent, and the most popular item is the target."""
    near = replace(pool.near, scores=torch.zeros(2, USERS, 3))
    silent = replace(pool, near=near)
    assert first(silent, "one weight") == 0 and first(silent, "stacker with popularity") == 1
    assert first(silent, "stacker") == 0


def test_softmax_regression_finds_the_log_odds():
    """One free column and two items; the target has the column's 1 three times out of four: the weight is log 3."""
    x = torch.tensor([[[1.0], [0.0]]]).expand(4, -1, -1)
    near = Shortlist(x[None, ..., 0], torch.ones(4, 2, dtype=torch.bool), torch.tensor([0, 0, 0, 1]))
    assert study.softmax_regression(x, near, 1.0).item() == pytest.approx(math.log(3), abs=1e-3)


def test_users_are_judged_with_weights_of_the_other_half(pool):
    """A rule that only knows the users it learned from is never asked about them."""

    def rule(learn):
        def apply(judge):
            assert len(learn.users) == len(judge.users) == USERS // 2 and not set(learn.users) & set(judge.users)
            return judge.near.scores[0]

        return apply

    values = study.cross_fitted(pool, rule, USERS + 1, 2)  # the user beyond the pool scores 0
    assert values[:USERS].tolist() == [1.0, 0.5] * (USERS // 2) and values[USERS] == 0


def test_a_pool_holds_the_items_that_count(monkeypatch):
    """Its ranks are those of the whole catalogue, and a target outside the DEPTH best is missed."""
    taken = [("a", "bcde"), ("b", "bcde"), ("c", "cdeb"), ("d", "abcd"), ("e", "bcaf"), ("f", "edfa")]
    rows = [{"user": u, "item": i, "position": n} for u, items in taken for n, i in enumerate(items)]
    sequences = build(pd.DataFrame(rows))
    parts = [counted(config, sequences) for config in (NEAR, EASE)]
    pool = fusion_pools.pool_of(parts, sequences, sequences.split("test"))
    assert pool.users.tolist() == [*range(6)] and pool.items.gather(
        1, pool.near.targets[:, None]
    ).flatten().tolist() == (sequences.split("test").targets.tolist())
    for part, scores in zip(parts, pool.near.scores, strict=True):
        ranks = target_ranks(part, sequences, "test", True)
        assert np.allclose(pool.near.ndcg(scores), 1 / np.log2(ranks + 1))
    b = sequences.item_ids()["b"]
    assert pool.counts[b].item() == pytest.approx(math.log(1 + 4))  # a, b, d and e have it in training
    assert pool.length.flatten().tolist() == pytest.approx([math.log(3)] * 6)
    monkeypatch.setattr(fusion_pools, "DEPTH", 1)
    kept = {u for part in parts for u in np.flatnonzero(target_ranks(part, sequences, "test", True) == 1)}
    assert set(fusion_pools.pool_of(parts, sequences, sequences.split("test")).users) == kept != set(range(6))


def test_placebos_belong_to_rules_that_know_one_thing():
    assert study.PLACEBOS == {
        "by length": "length",
        "by popularity": "popularity",
        "stacker with length": "length",
        "stacker with popularity": "popularity",
    }
