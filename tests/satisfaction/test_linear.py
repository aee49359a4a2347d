import numpy as np
import pytest

from sealr.satisfaction.linear import PENALTIES, ridge


def test_finds_a_line():
    x = np.random.default_rng(0).normal(size=(500, 3)) * [1, 10, 0.1] + [5, 0, -3]
    found = ridge(x, x @ [1, -2, 0.5] + 4)
    assert found.weights == pytest.approx([1, -2, 0.5], abs=1e-3) and found.intercept == pytest.approx(4, abs=1e-2)


def test_the_penalty_has_the_least_cross_validation_error():
    """Against GCV by its definition, with the hat matrix written out."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 20))
    y = x[:, 0] + rng.normal(0, 2, 60)
    z = (x - x.mean(0)) / x.std(0)
    errors = []
    for penalty in PENALTIES:
        hat = z @ np.linalg.solve(z.T @ z + 60 * penalty * np.eye(20), z.T) + 1 / 60
        errors.append(np.square(y - hat @ y).mean() / (1 - np.trace(hat) / 60) ** 2)
    found = ridge(x, y)
    assert found.penalty == PENALTIES[np.argmin(errors)]
    penalty = found.penalty
    weights = np.linalg.solve(z.T @ z + 60 * penalty * np.eye(20), z.T @ (y - y.mean())) / x.std(0)
    assert found.weights == pytest.approx(weights) and found(x).mean() == pytest.approx(y.mean())


def test_noise_gets_small_weights_and_a_constant_column_none():
    rng = np.random.default_rng(2)
    x = np.column_stack([rng.normal(size=(200, 50)), np.full(200, 3.0)])
    found = ridge(x, rng.normal(size=200), np.r_[np.zeros(50, int), 1])
    assert np.abs(found.weights[:50]).max() < 0.05 and found.weights[50] == 0


def test_refuses_no_rows():
    with pytest.raises(ValueError, match="needs rows"):
        ridge(np.zeros((0, 2)), np.zeros(0))
