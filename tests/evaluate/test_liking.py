"""Hits on liked and on disliked targets by hand: 40 liked, 30 disliked, 10 of whom nothing is known."""

import math

import numpy as np
import pytest

from sealr.evaluate.gladness import Gladness
from sealr.evaluate.liking import caption, liking
from sealr.evaluate.statistics import group_bootstrap

LIKED = np.repeat([1.0, 0.0, np.nan], [40, 30, 10]).astype(np.float32)
STARS = np.repeat([5.0, 2.0, np.nan], [40, 30, 10]).astype(np.float32)
TARGETS = Gladness(STARS, LIKED, "stars")
# Of the liked ones 20 are first, 10 third and 10 missed; of the disliked ones 6 third, 24 beyond ten; the rest is first
RANKS = np.repeat([1, 3, 0, 3, 11, 1], [20, 10, 10, 6, 24, 10])


def test_figures_by_hand():
    figures = liking(RANKS, TARGETS)
    means = {name: mean for name, (mean, _, _) in figures.items()}
    assert means == pytest.approx(
        {
            "HR@10 liked": 0.75,
            "HR@10 disliked": 0.2,
            "HR@10 liked minus disliked": 0.55,
            "NDCG@10 liked": 25 / 40,
            "NDCG@10 disliked": 3 / 30,
            "NDCG@10 liked minus disliked": 0.525,
            "graded NDCG@10": (25 + 3 / 15) / 70,  # five stars count 1, two stars 1/15; no stars, no target
        }
    )
    assert all(low < means[name] < high for name, (_, low, high) in figures.items())
    hit = np.repeat([1.0, 0.0], [30, 10]), np.repeat([1.0, 0.0], [6, 24])
    assert figures["HR@10 liked minus disliked"] == group_bootstrap(*hit)


def test_a_difference_between_systems_is_paired():
    other = np.where(LIKED == 0, 1, RANKS)  # hits every disliked target, else the same
    figures = liking(RANKS, TARGETS, other=other)
    assert figures["HR@10 liked"] == figures["NDCG@10 liked"] == (0, 0, 0)
    assert figures["HR@10 disliked"][0] == pytest.approx(-0.8) and figures["HR@10 disliked"][2] < -0.6
    assert figures["HR@10 liked minus disliked"][0] == pytest.approx(0.8)
    assert figures["graded NDCG@10"][0] == pytest.approx((3 - 30) / 15 / 70)


def test_seeds_count_with_their_mean():
    none = np.zeros(80, dtype=int)
    figures = liking(np.stack([RANKS, none]), TARGETS)
    assert figures["HR@10 liked"][0] == pytest.approx(0.375) and figures["HR@10 liked"][1] == 0  # both draws miss
    assert figures["graded NDCG@10"][0] == pytest.approx((25 + 3 / 15) / 140)


def test_fewer_than_thirty_targets_make_no_figure():
    few = Gladness(np.where(np.arange(80) < 29, STARS, np.nan), np.where(np.arange(80) == 40, np.nan, LIKED), "stars")
    figures = liking(RANKS, few)
    known = [name for name, (mean, _, _) in figures.items() if not math.isnan(mean)]
    assert known == ["HR@10 liked", "NDCG@10 liked"]  # 29 disliked, and 29 with stars


def test_by_labels_there_are_no_grades_and_the_caption_says_so():
    labelled = Gladness(np.full(80, np.nan, dtype=np.float32), LIKED, "labels")
    assert math.isnan(liking(RANKS, labelled)["graded NDCG@10"][0])
    assert caption(labelled).startswith("By labels of the reviews, as there are no stars")
    assert "Targets: 40 liked, 30 disliked. In" in caption(labelled)
    assert caption(TARGETS).startswith("By stars: 4 and 5 are liked") and "70 with stars" in caption(TARGETS)
