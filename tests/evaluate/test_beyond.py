"""Novelty, popularity, coverage and diversity by hand, and groups of users by their histories."""

import math

import numpy as np
import pytest

from sealr.data.sequences import Sequences
from sealr.evaluate.beyond import beyond, by_history, diversity, mean_over, popularity


@pytest.fixture
def three():
    """Training items: user a has 1 twice, b has 1 and 2; c has two items in all, so both are for training."""
    flat = np.array([1, 1, 3, 4, 1, 2, 3, 3, 1, 3])
    return Sequences(["a", "b", "c"], list("wxyz"), flat, np.array([0, 4, 8, 10]))


def test_popularity_counts_users_and_only_their_training_items(three):
    assert popularity(three).tolist() == [0, 3, 1, 1, 0]


def test_a_list_has_the_mean_of_its_items():
    values = np.array([100.0, 1, 2, 6, 0])
    found = mean_over(np.array([[1, 3, 0], [2, 0, 0], [0, 0, 0]]), values)
    np.testing.assert_array_equal(found, [3.5, 2, np.nan])


def test_diversity_is_one_minus_the_mean_cosine():
    content = np.array([[9.0, 9], [1, 0], [2, 0], [0, 3], [-1, 0], [0, 0]])
    lists = np.array([[1, 2, 0], [1, 3, 0], [1, 4, 0], [1, 2, 3], [1, 5, 0], [3, 5, 1]])
    # 5 has no content; of 1, 2 and 3 one pair is equal and two are orthogonal
    np.testing.assert_allclose(diversity(lists, content), [0, 1, 2, 2 / 3, np.nan, 1], atol=1e-12)


def test_lists_and_targets_side_by_side(three):
    lists = {"popular": np.tile([1, 2], (40, 1)), "new": np.tile([4, 0], (40, 1))}
    made = beyond(lists, np.full(40, 3), three, 100)
    assert list(made) == ["popular", "new", "test targets"] and "diversity@10" not in made["new"]
    rare = math.log2(3)  # one of three users; an item without any counts as taken once
    means = {
        system: [figures[f"{n}@10"][0] for n in ("novelty", "popularity", "coverage")]
        for system, figures in made.items()
    }
    assert means["popular"] == pytest.approx([rare / 2, 2, 0.5])
    assert means["new"] == pytest.approx([rare, 0, 0.25]) and means["test targets"] == pytest.approx([rare, 1, 0.25])


def test_only_the_first_ten_count_and_the_interval_is_over_users(three):
    rng = np.random.default_rng(0)
    lists = np.concatenate([np.full((60, 10), 1), np.full((60, 5), 4)], axis=1)
    lists[30:, 0] = 4
    mean, low, high = beyond({"a": lists}, np.ones(60, dtype=int), three, 500)["a"]["popularity@10"]
    assert mean == pytest.approx((3 + 2.7) / 2)
    naive = rng.choice([3.0, 2.7], (5000, 60)).mean(axis=1)
    assert (low, high) == pytest.approx(np.percentile(naive, [2.5, 97.5]), abs=0.01)


def test_fewer_than_thirty_users_make_no_figure(three):
    few = beyond({"a": np.ones((29, 3), dtype=int)}, np.ones(29, dtype=int), three)["a"]
    assert math.isnan(few["novelty@10"][0]) and few["coverage@10"][0] == 0.25


def test_users_by_the_length_of_their_history():
    lengths, ranks = np.repeat([2, 5, 9], [40, 30, 30]), np.repeat([1, 3, 0], [40, 30, 30])
    made = by_history({"fused": ranks}, lengths, 100)["fused"]  # the median is 5
    assert made["HR@10 short"] == (1, 1, 1) and made["HR@10 long"] == (0, 0, 0)
    assert made["NDCG@10 short"][0] == pytest.approx((40 + 15) / 70)
    alike = by_history({"fused": ranks}, np.full(100, 4), 100)["fused"]
    assert alike["HR@10 short"][0] == 0.7 and math.isnan(alike["HR@10 long"][0])
