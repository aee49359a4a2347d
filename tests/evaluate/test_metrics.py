"""Metrics against values worked out by hand, and against scikit-learn."""

import numpy as np
import pytest

from sealr.evaluate.metrics import chance, coverage, graded_ndcg, hit_rate, ndcg, summary, validity

RANKS = np.array([1, 2, 5, 6, 10, 11, 0])


def test_hit_rate():
    assert hit_rate(RANKS, 5).tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert hit_rate(RANKS, 10).tolist() == [1, 1, 1, 1, 1, 0, 0]


def test_ndcg():
    expected = [1, 0.63093, 0.38685, 0.35621, 0.28906, 0, 0]  # 1 / log2 of 2, 3, 6, 7, 11
    np.testing.assert_allclose(ndcg(RANKS, 10), expected, atol=1e-5)


@pytest.mark.parametrize("miss", [0, np.inf, np.nan])
def test_every_form_of_a_miss_is_worth_nothing(miss):
    ranks = np.array([1.0, miss])
    assert hit_rate(ranks, 10).tolist() == ndcg(ranks, 10).tolist() == [1, 0]


def test_summary():
    values = summary(np.array([1, 0, 6, 20]))
    assert list(values) == ["HR@5", "HR@10", "NDCG@5", "NDCG@10"]
    assert values == pytest.approx(
        {"HR@5": 0.25, "HR@10": 0.5, "NDCG@5": 0.25, "NDCG@10": (1 + 0.356207) / 4}, abs=1e-6
    )
    with pytest.raises(ValueError, match="no users"):
        summary([])


def test_chance_is_the_arithmetic_of_the_papers_table_3():
    for size, hit, gain in ((20, 0.5, 0.2272), (50, 0.2, 0.0909), (100, 0.1, 0.0454)):
        assert chance(size, 10) == (hit, pytest.approx(gain, abs=5e-5))
    assert chance(50, 5) == (0.1, pytest.approx(0.0590, abs=5e-5))
    assert chance(3, 10)[0] == 1
    hits, gains = chance(np.array([20, 50]), 10)
    assert hits.tolist() == [0.5, 0.2] and gains == pytest.approx([4.54356 / 20, 4.54356 / 50], abs=1e-6)


def test_chance_is_what_shuffling_gives():
    ranks = np.random.default_rng(0).integers(1, 51, size=200_000)
    hits, gains = chance(50, 10)
    assert hits == pytest.approx(hit_rate(ranks, 10).mean(), abs=3e-3)
    assert gains == pytest.approx(ndcg(ranks, 10).mean(), abs=2e-3)


def test_graded_ndcg_weighs_a_target_by_its_stars():
    ranks, stars = np.array([1, 3, 1, 1, 0, 1, 1]), np.array([5, 4, 3, 2, 5, 1, np.nan])
    # gains 1, 7/15, 3/15, 1/15, 1, 0; a target at rank 3 counts half
    np.testing.assert_allclose(graded_ndcg(ranks, stars, 10), [1, 7 / 30, 0.2, 1 / 15, 0, 0, np.nan])
    assert graded_ndcg(np.stack([ranks, ranks]), stars, 2).shape == (2, 7)  # (seeds, N) ranks, too


def test_coverage_and_validity():
    lists = np.array([[1, 2, 3], [3, 4, 0], [5, 5, 9], [0, 0, 0]])
    pools = np.array([[3, 2, 1, 0], [4, 7, 0, 0], [5, 6, 7, 8], [1, 2, 3, 4]])
    assert coverage(lists, 10) == 0.6
    np.testing.assert_allclose(validity(lists, pools), [1, 1 / 2, 1 / 3, 0])


def test_validity_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    pools = np.stack([rng.permutation(30)[:12] + 1 for _ in range(20)])
    monkeypatch.setattr("sealr.evaluate.metrics.BLOCK_ELEMENTS", 150)
    assert (validity(pools[:, ::-1][:, :5], pools) == 1).all()


def test_ndcg_equals_scikit_learn():
    reference = pytest.importorskip("sklearn.metrics").ndcg_score
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 25))
    targets = rng.integers(0, 25, size=30)
    ranks = (scores > scores[np.arange(30), targets][:, None]).sum(axis=1) + 1
    for k in (5, 10):
        assert ndcg(ranks, k).mean() == pytest.approx(reference(np.eye(25)[targets], scores, k=k))
