import numpy as np
import pytest

from sealr.evaluate.crossfit import FOLDS, best, held_out, held_out_gain
from sealr.evaluate.statistics import paired_bootstrap


def test_best_prefers_the_first_of_equal_rows():
    assert best(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])) == 2


def test_by_hand():
    """Five users, so each is a fold. Without the last one, row 1 looks good; with it, row 0 is better."""
    values = np.array([[0.0] * 5, [1.0, 1.0, 1.0, 1.0, -10.0]])
    rows = held_out(5, lambda learn: best(values[:, learn]))
    assert rows.tolist() == [0, 0, 0, 0, 1]
    assert held_out_gain(values, 0)[0] == pytest.approx(-10 / 5)  # the last user is judged by what the others chose


def test_nobody_chooses_for_oneself():
    asked = []

    def choose(learn):
        asked.append(set(learn.tolist()))
        return len(asked) - 1

    rows = held_out(23, choose, seed=4)
    assert len(asked) == FOLDS and all(user not in asked[row] for user, row in enumerate(rows))
    assert all(18 <= len(others) <= 19 for others in asked)
    assert (
        held_out(23, lambda learn: int(learn.sum()), seed=5).tolist()
        != held_out(23, lambda learn: int(learn.sum()), seed=4).tolist()
    )


def test_luck_passes_on_the_choosing_users_and_not_on_others():
    values = np.random.default_rng(0).normal(size=(60, 80))
    values[0] = 0
    chosen = best(values)
    assert paired_bootstrap(values[chosen], values[0])[1] > 0 >= held_out_gain(values, 0)[1]


def test_a_real_gain_passes():
    values = np.random.default_rng(0).normal(size=(3, 200)) + np.array([[0.0], [0.0], [1.0]])
    mean, low, high = held_out_gain(values, 0)
    assert 0 < low < mean < high and mean == pytest.approx(np.mean(values[2] - values[0]))


def test_too_few_users_prove_nothing():
    assert np.isnan(held_out_gain(np.array([[0.0] * 4, [1.0] * 4]), 0)).all()
