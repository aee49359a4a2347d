"""Bootstrap intervals over users, and over seeds where there are several: for a mean, a paired difference, two groups.

A value belongs to a user and a seed, (N,) or (seeds, N). With several seeds the bootstrap has two levels: it draws
seeds with replacement, then users, and a user's value is the mean over the drawn seeds. One seed leaves users alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

BLOCK_ELEMENTS = 2**22  # resampled values held in memory at a time: 32 MB
ROUNDING = 1e-9  # sums that differ by less are equal
INTERVAL = (2.5, 97.5)  # percentiles of a 95 % interval
TWO_ONE_SIDED = (5.0, 95.0)  # of a 90 % interval: inside +-margin, each of two one-sided tests of 5 % rejects
CLEAR_GAIN, CLEAR_LOSS, UNDECIDED = "clear gain", "clear loss", "undecided"
Interval = tuple[float, float, float]  # mean, low, high
UNKNOWN: Interval = (np.nan, np.nan, np.nan)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, resamples: int = 1000, seed: int = 0, percentiles: tuple[float, float] = INTERVAL
) -> Interval:
    """(mean of a - b, low, high) with the 95 % percentile interval over users drawn with replacement.

    a, b (N,) or (seeds, N): values of a metric, the same users in the same order; the seeds of both are drawn together.
    One seed may stand beside several. An interval that contains 0 is no evidence of a difference. Raises ValueError
    when users or seeds differ, there are no users, or a value is not finite.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    both_seeded = a.ndim == b.ndim == 2
    if a.shape[-1:] != b.shape[-1:] or (both_seeded and len(a) != len(b)):
        raise ValueError(f"a paired bootstrap needs the same users in both samples, got shapes {a.shape} and {b.shape}")
    return bootstrap_mean(a - b, resamples, seed, percentiles)


def judged(a: ArrayLike, b: ArrayLike, margin: float, resamples: int = 1000, seed: int = 0) -> tuple[Interval, str]:
    """``paired_bootstrap``, and what it says: clear gain, clear loss, equal within the margin, or undecided.

    Clear: the 95 % interval lacks 0. Equal: the 90 % interval lies within +-margin, which is the test of equivalence by
    two one-sided tests at 5 % (TOST: Schuirmann 1987). Undecided: neither, so more users or seeds are needed.
    """
    found = paired_bootstrap(a, b, resamples, seed)
    if found[1] > 0:
        return found, CLEAR_GAIN
    if found[2] < 0:
        return found, CLEAR_LOSS
    _, low, high = paired_bootstrap(a, b, resamples, seed, TWO_ONE_SIDED)
    equal = -margin < low and high < margin
    return found, f"equal within {margin:.3f}".replace(" 0.", " .") if equal else UNDECIDED


def bootstrap_mean(
    a: ArrayLike, resamples: int = 1000, seed: int = 0, percentiles: tuple[float, float] = INTERVAL
) -> Interval:
    """(mean, low, high) with the 95 % percentile interval over users. Raises ValueError like ``paired_bootstrap``.

    a (N,) or (seeds, N): one value per user, and per seed where there are several.
    """
    rng, values = np.random.default_rng(seed), _checked(a)
    return _interval(float(values.mean()), _means(values, resamples, rng), rng, percentiles)


def flip_p(a: ArrayLike, level: float, draws: int = 1000, seed: int = 0) -> float:
    """One-sided p-value for a mean above 0: the share of random signs whose mean is at least that of ``a``.

    a (N,): a paired difference per user. If both systems are equally good, each sign is as likely as the other, and the
    test is exact, also with few users who differ, where a bootstrap is too sure (paired randomisation: Smucker, Allan &
    Carterette, CIKM 2007). Small levels need many draws: at least ``draws`` and 20 / level are made, but no more once
    the level is out of reach. Raises ValueError like ``paired_bootstrap``.
    """
    rng, values = np.random.default_rng(seed), _checked(a)[0]
    sizes, counts = np.unique(np.abs(values), return_counts=True)
    wanted, drawn, reached = max(draws, math.ceil(20 / level)), 0, 0
    while drawn < wanted and reached <= level * wanted:
        block = min(max(draws, 2 * drawn), wanted - drawn, max(1, BLOCK_ELEMENTS // len(counts)))
        positive = rng.binomial(counts, 0.5, size=(block, len(counts)))  # how many users of each size get a plus
        reached += int(((2 * positive - counts) @ sizes >= values.sum() - ROUNDING).sum())
        drawn += block
    return (reached + 1) / (drawn + 1)


def group_bootstrap(a: ArrayLike, b: ArrayLike, resamples: int = 1000, seed: int = 0) -> Interval:
    """(mean of a minus mean of b, low, high) for two groups of different users, each drawn within itself.

    a (N,) or (seeds, N), b (M,) or (seeds, M): the drawn seeds are the same for both groups. Raises ValueError when
    the numbers of seeds differ, a group has no users, or a value is not finite.
    """
    rng, first, second = np.random.default_rng(seed), _checked(a), _checked(b)
    if len(first) != len(second):
        raise ValueError(f"both groups need the same seeds, got {len(first)} and {len(second)}")
    drawn = _means(first, resamples, rng) - _means(second, resamples, rng)
    return _interval(float(first.mean() - second.mean()), drawn, rng)


def shown(mean: float, low: float, high: float, sign: str = "+") -> str:
    """A mean and its interval, if it has one, as text for tables and logs. sign: "" without a plus."""
    return f"{mean:{sign}.4f}" + ("" if np.isnan(low) else f" ({low:{sign}.4f} to {high:{sign}.4f})")


def _checked(a: ArrayLike) -> np.ndarray:
    """(seeds, N) float64."""
    a = np.asarray(a, dtype=np.float64)
    if a.ndim not in (1, 2) or not a.size or not np.isfinite(a).all():
        bad = np.count_nonzero(~np.isfinite(a))
        raise ValueError(f"the bootstrap needs one finite value per user, got shape {a.shape} with {bad} not finite")
    return np.atleast_2d(a)


def _means(a: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, seeds) means over users drawn with replacement, the same users for every seed. a (seeds, N)."""
    users, means = a.shape[1], np.empty((resamples, len(a)))
    # A metric takes few values (NDCG@10 has eleven). Drawing how often each value occurs has the same distribution as
    # drawing N users, and is much faster. With several seeds a value is the tuple of a user's values.
    values, counts = np.unique(a[0] if len(a) == 1 else a, axis=-1, return_counts=True)
    values = np.atleast_2d(values)
    block = max(1, BLOCK_ELEMENTS // len(counts))
    for start in range(0, resamples, block):
        drawn = rng.multinomial(users, counts / users, size=min(block, resamples - start))  # (b, values)
        means[start : start + block] = drawn @ values.T / users
    return means


def _interval(
    mean: float, drawn: np.ndarray, rng: np.random.Generator, percentiles: tuple[float, float] = INTERVAL
) -> Interval:
    """drawn (resamples, seeds): means over resampled users. Draws seeds unless there is only one."""
    seeds = drawn.shape[1]
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(drawn)) / seeds  # (resamples, seeds)
    low, high = np.percentile((weights * drawn).sum(axis=1), percentiles)
    return mean, float(low), float(high)
