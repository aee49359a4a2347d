import time

import numpy as np
import pytest

from sealr.evaluate import statistics
from sealr.evaluate.statistics import bootstrap_mean, flip_p, group_bootstrap, judged, paired_bootstrap, shown


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        _, low, high = bootstrap_mean(rng.random(200) < 0.3, 400, seed)
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.985


def test_equals_resampling_users():
    """The shortcut through value counts has the distribution of drawing users with replacement."""
    rng = np.random.default_rng(1)
    values = rng.choice([0.0, 0.0, 0.3, 1.0], size=150)
    naive = values[rng.integers(0, 150, size=(20_000, 150))].mean(axis=1)
    _, low, high = bootstrap_mean(values, 20_000, 0)
    assert (low, high) == pytest.approx(np.percentile(naive, [2.5, 97.5]), abs=0.004)


def test_pairing_makes_a_small_difference_sure():
    rng = np.random.default_rng(0)
    b = rng.random(500)
    a = b + 0.01 + 0.001 * rng.normal(size=500)
    difference, low, high = paired_bootstrap(a, b, 1000, 0)
    assert low < difference < high and low > 0 and difference == pytest.approx(0.01, abs=1e-3)
    assert paired_bootstrap(a, b, 1000, 0) == (difference, low, high)
    assert paired_bootstrap(b, a, 1000, 0)[0] == pytest.approx(-difference)
    assert paired_bootstrap(b, b, 1000, 0) == (0, 0, 0)


def test_blocks_are_only_a_matter_of_memory(monkeypatch):
    monkeypatch.setattr(statistics, "BLOCK_ELEMENTS", 500)
    mean, low, high = bootstrap_mean(np.arange(100.0), 1000, 0)
    assert low < mean == 49.5 < high


def test_one_seed_is_resampled_over_users_alone():
    rng = np.random.default_rng(0)
    a, b = rng.random(80), rng.random(80)
    assert paired_bootstrap(a[None], b[None], 500, 3) == paired_bootstrap(a, b, 500, 3)
    assert bootstrap_mean(a[None], 500, 3) == bootstrap_mean(a, 500, 3)


def test_seeds_that_disagree_widen_the_interval():
    """Nobody is hit with one seed and everybody with the other, so the mean over users is certain and of no use."""
    seeds = np.stack([np.zeros(50), np.ones(50)])
    assert bootstrap_mean(seeds.mean(axis=0)) == (0.5, 0.5, 0.5)
    assert bootstrap_mean(seeds) == (0.5, 0.0, 1.0)  # drawn seeds: 0 and 0, 0 and 1, 1 and 1
    assert paired_bootstrap(seeds, np.ones(50)) == (-0.5, -1.0, 0.0)  # a system of one seed beside one of two
    assert paired_bootstrap(seeds, seeds) == (0, 0, 0)  # the seeds of both are drawn together


def test_seeds_that_agree_change_nothing():
    rng = np.random.default_rng(0)
    values = rng.choice([0.0, 0.3, 1.0], size=200)
    one, three = bootstrap_mean(values, 4000), bootstrap_mean(np.stack([values] * 3), 4000)
    assert three == pytest.approx(one, abs=1e-12)


def test_equals_drawing_seeds_and_then_users():
    rng = np.random.default_rng(1)
    values = rng.random((3, 40)) < np.array([[0.2], [0.4], [0.7]])
    naive = []
    for _ in range(20_000):
        seeds, users = rng.integers(0, 3, 3), rng.integers(0, 40, 40)
        naive.append(values[seeds][:, users].mean())
    mean, low, high = bootstrap_mean(values, 20_000, 0)
    assert mean == values.mean() and (low, high) == pytest.approx(np.percentile(naive, [2.5, 97.5]), abs=0.01)


def test_two_groups_of_users_are_drawn_within_themselves():
    assert group_bootstrap(np.ones(40), np.zeros(30)) == (1, 1, 1)  # nobody changes the group
    rng = np.random.default_rng(2)
    a, b = rng.random(60) < 0.6, rng.random(35) < 0.3
    users = (rng.integers(0, n, (20_000, n)) for n in (60, 35))
    naive = np.subtract(*(group[drawn].mean(axis=1) for group, drawn in zip((a, b), users, strict=True)))
    mean, low, high = group_bootstrap(a, b, 20_000, 0)
    assert mean == a.mean() - b.mean() and (low, high) == pytest.approx(np.percentile(naive, [2.5, 97.5]), abs=0.01)


def test_both_groups_share_the_drawn_seeds():
    first = np.stack([np.zeros(40), np.ones(40)])
    assert group_bootstrap(first, first[:, :30]) == (0, 0, 0)  # a lucky seed is lucky for both groups
    assert group_bootstrap(first, 1 - first[:, :30]) == (0, -1, 1)
    with pytest.raises(ValueError, match="same seeds, got 2 and 1"):
        group_bootstrap(first, np.ones(30))


def test_random_signs_by_hand():
    """Of the 8 signs of .5, .2 and .3, two sums reach .6: .5 + .2 + .3 and .5 - .2 + .3. Zeros have no sign."""
    assert flip_p([0.5, -0.2, 0, 0, 0.3], 0.03, 100_000) == pytest.approx(2 / 8, abs=0.01)
    assert flip_p([1.0] * 5 + [0.0] * 40, 0.03, 100_000) == pytest.approx(1 / 32, abs=0.005)
    assert flip_p([0.0] * 50, 0.03) == 1  # nobody differs
    assert flip_p([-1.0] * 20, 0.03) == 1


def test_five_users_of_forty_are_no_evidence_although_a_bootstrap_is_sure():
    values = np.r_[np.ones(5), np.zeros(35)]
    assert paired_bootstrap(values, np.zeros(40))[1] > 0 and flip_p(values, 0.01, 20_000) > 0.02


def test_small_levels_are_resolved_and_hopeless_ones_cost_little():
    assert flip_p(np.ones(40), 1e-5) < 1e-5
    started = time.process_time()
    assert flip_p(np.r_[np.ones(300), -np.ones(300)], 1e-12) > 0.3
    assert time.process_time() - started < 1


def test_equal_systems_win_as_often_as_the_level_says():
    """Sparse differences of random sign, as NDCG@10 has them, in 2,000 comparisons on 60 users."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random((2000, 60)) < 0.15, rng.choice([0.3, 0.5, 1.0], (2000, 60)), 0)
    values *= rng.choice([-1, 1], values.shape)
    wins = np.mean([flip_p(row, 0.05, 400, seed) <= 0.05 for seed, row in enumerate(values)])
    assert 0.03 < wins < 0.06


def test_as_text():
    assert shown(0.1, -0.02, 0.25) == "+0.1000 (-0.0200 to +0.2500)"
    assert shown(0.1, 0.02, 0.25, sign="") == "0.1000 (0.0200 to 0.2500)"
    assert shown(0.1, np.nan, np.nan) == "+0.1000"  # a figure without an interval


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], [1.0, 2.0]), ([], []), ([np.nan], [1.0]), ([[1.0]] * 2, [[1.0]] * 3), ([[[1.0]]], [[[1.0]]])]
)
def test_refuses(a, b):
    with pytest.raises(ValueError):
        paired_bootstrap(a, b)


@pytest.mark.parametrize(
    ("gains", "losses", "margin", "verdict"),
    [
        (60, 10, 0.1, "clear gain"),
        (10, 60, 0.1, "clear loss"),
        (55, 45, 0.03, "equal within .030"),
        (55, 45, 0.02, "undecided"),  # 90 % of the means are above -.0065 and below .0265
        (0, 0, 0.001, "equal within .001"),
    ],
)
def test_verdicts(gains, losses, margin, verdict):
    """Of 1,000 users some gain 1 and some lose 1: the mean of 55 and 45 is .01, with a standard error of .01."""
    a = np.zeros(1000)
    a[:gains], a[gains : gains + losses] = 1, -1
    found, said = judged(a, np.zeros(1000), margin)
    assert said == verdict and found == paired_bootstrap(a, np.zeros(1000))


def test_equality_needs_the_90_percent_interval_inside_the_margin():
    a = np.zeros(1000)
    a[:55], a[55:100] = 1, -1
    _, low, high = paired_bootstrap(a, np.zeros(1000), percentiles=(5.0, 95.0))
    outer = paired_bootstrap(a, np.zeros(1000))
    assert outer[1] < low < 0 < high < outer[2] and high == pytest.approx(0.01 + 1.645 * 0.01, abs=0.002)
    assert judged(a, np.zeros(1000), high + 1e-6)[1].startswith("equal") and high + 1e-6 < outer[2]
    assert judged(a, np.zeros(1000), high)[1] == "undecided"
