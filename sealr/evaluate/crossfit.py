"""Cross-fitting: what some users choose is judged on others.

The best of several weights looks better on the users who chose it than it is. So users are dealt into FOLDS. Each fold
is judged with the weight that all other folds choose, and the interval of the gain is over all users. It judges the
rule that chooses, which is the same for the final weight from all users.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sealr.evaluate.statistics import UNKNOWN, Interval, paired_bootstrap

FOLDS = 5


def held_out(users: int, choose: Callable[[np.ndarray], int], seed: int = 0) -> np.ndarray:
    """(users,) the row that the other folds choose for each user. choose: places of users (M,) -> a row.

    users: at least FOLDS. The seed deals them.
    """
    fold = np.random.default_rng(seed).permutation(users) % FOLDS
    chosen = np.array([choose(np.flatnonzero(fold != number)) for number in range(FOLDS)])
    return chosen[fold]


def best(values: np.ndarray) -> int:
    """Row of (rows, N) values with the highest mean; the first of equal ones."""
    return int(values.mean(axis=1).argmax())


def held_out_gain(values: np.ndarray, base: int, resamples: int = 1000, seed: int = 0) -> Interval:
    """(mean, low, high) of what the best row adds to row ``base``, cross-fitted; UNKNOWN for fewer users than FOLDS.

    values (rows, N): a metric by weight and user.
    """
    users = values.shape[1]
    if users < FOLDS:
        return UNKNOWN
    rows = held_out(users, lambda learn: best(values[:, learn]), seed)
    return paired_bootstrap(values[rows, np.arange(users)], values[base], resamples, seed)
