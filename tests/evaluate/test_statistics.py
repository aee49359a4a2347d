import numpy as np
import pytest

from sealr.evaluate import statistics
from sealr.evaluate.statistics import bootstrap_mean, paired_bootstrap


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


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], []), ([np.nan], [1.0])])
def test_refuses(a, b):
    with pytest.raises(ValueError):
        paired_bootstrap(a, b)
