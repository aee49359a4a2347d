"""Bootstrap intervals over users, for a mean or for the difference between two systems."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

BLOCK_ELEMENTS = 2**22  # resampled values held in memory at a time: 32 MB
INTERVAL = (2.5, 97.5)  # percentiles of a 95 % interval


def paired_bootstrap(a: ArrayLike, b: ArrayLike, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """(mean of a - b, low, high) with the 95 % percentile interval over users drawn with replacement.

    a, b (N,): values of a metric, the same users in the same order. An interval that contains 0 is no evidence of a
    difference. Raises ValueError when the lengths differ, there are no users, or a value is not finite.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a paired bootstrap needs the same users in both samples, got shapes {a.shape} and {b.shape}")
    return bootstrap_mean(a - b, resamples, seed)


def shown(mean: float, low: float, high: float) -> str:
    """A difference and its interval as text for tables and logs."""
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def bootstrap_mean(a: ArrayLike, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) with the 95 % percentile interval over users. Raises ValueError like ``paired_bootstrap``."""
    a = np.asarray(a, dtype=np.float64)
    if a.ndim != 1 or not a.size or not np.isfinite(a).all():
        bad = np.count_nonzero(~np.isfinite(a))
        raise ValueError(f"the bootstrap needs one finite value per user, got shape {a.shape} with {bad} not finite")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    # A metric takes few values (NDCG@10 has eleven). Drawing how often each value occurs has the same distribution as
    # drawing N users, and is much faster.
    values, counts = np.unique(a, return_counts=True)
    block = max(1, BLOCK_ELEMENTS // len(values))
    for start in range(0, resamples, block):
        drawn = rng.multinomial(a.size, counts / a.size, size=min(block, resamples - start))  # (b, values)
        means[start : start + block] = drawn @ values / a.size
    low, high = np.percentile(means, INTERVAL)
    return float(a.mean()), float(low), float(high)
