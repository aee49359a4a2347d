"""Bootstrap intervals over users: how sure a mean, or a difference between two systems, is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

BLOCK_ELEMENTS = 2**22  # resampled values held at a time: 32 MB
INTERVAL = (2.5, 97.5)  # percentiles of a 95 % interval


def paired_bootstrap(a: ArrayLike, b: ArrayLike, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """(mean of a - b, low, high): the 95 % percentile interval when users are drawn again with replacement.

    a, b (N,): a metric's values per user, the same users in the same order. An interval that holds 0 is no difference.
    Raises ValueError on different lengths, no users, or values that are not finite.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a paired bootstrap needs the same users twice, got {a.shape} and {b.shape} values")
    return bootstrap_mean(a - b, resamples, seed)


def shown(mean: float, low: float, high: float) -> str:
    """A difference and its interval as tables and logs write them."""
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def bootstrap_mean(a: ArrayLike, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) with the 95 % percentile interval over users. Raises ValueError as ``paired_bootstrap``."""
    a = np.asarray(a, dtype=np.float64)
    if a.ndim != 1 or not a.size or not np.isfinite(a).all():
        bad = np.count_nonzero(~np.isfinite(a))
        raise ValueError(f"the bootstrap needs one finite value per user, got shape {a.shape}, {bad} of them not finite")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    # A metric takes few values (NDCG@10 has eleven), so a resample is a draw of how often each value comes up: the
    # same distribution as drawing N users, at a fraction of the work.
    values, counts = np.unique(a, return_counts=True)
    block = max(1, BLOCK_ELEMENTS // len(values))
    for start in range(0, resamples, block):
        drawn = rng.multinomial(a.size, counts / a.size, size=min(block, resamples - start))  # (b, values)
        means[start : start + block] = drawn @ values / a.size
    low, high = np.percentile(means, INTERVAL)
    return float(a.mean()), float(low), float(high)
