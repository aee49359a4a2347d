"""Ranking metrics in plain numpy, one value per user; the mean over users is the reported figure.

Ranks count from 1. A miss, a target that is not in the list, has rank 0, infinity or NaN and scores 0. Functions return
values per user because the paired bootstrap resamples users.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

BLOCK_ELEMENTS = 2**24  # comparisons that validity holds in memory at a time


def hit_rate(ranks: ArrayLike, k: int) -> np.ndarray:
    """(N,) 1.0 where the target is among the first k, else 0.0. With one target this equals recall@k."""
    return _hit(np.asarray(ranks), k).astype(np.float64)


def ndcg(ranks: ArrayLike, k: int) -> np.ndarray:
    """(N,) 1 / log2(rank + 1) where rank <= k, else 0: NDCG@k with one relevant item (its ideal DCG is 1)."""
    ranks = np.asarray(ranks)
    hit = _hit(ranks, k)
    return np.where(hit, 1.0 / np.log2(np.where(hit, ranks, 1) + 1.0), 0.0)


def graded_ndcg(ranks: ArrayLike, stars: ArrayLike, k: int) -> np.ndarray:
    """NDCG@k times the target's gain (2^(stars - 1) - 1) / 15: 5 stars count 1, 4 stars 7/15, 3 stars 1/5, 1 star 0.

    stars (N,): 1 to 5; NaN gives NaN. This is the exponential gain of Burges et al. (ICML 2005) for grades 0 to 4 over
    its maximum. The list's own ideal would cancel the gain of a single target, so the best value is the mean gain.
    """
    gains = (2.0 ** (np.asarray(stars, dtype=np.float64) - 1) - 1) / 15
    return gains * ndcg(ranks, k)


def coverage(lists: np.ndarray, n_items: int) -> float:
    """Share of the catalogue that at least one list recommends. lists (N, k): item ids, 0 for padding."""
    return np.count_nonzero(np.unique(lists)) / n_items


def validity(lists: np.ndarray, pools: np.ndarray) -> np.ndarray:
    """(N,) share of each list's items that are in the user's pool and not repeated. A correct ranker reaches 1.

    lists (N, k), pools (N, C): item ids, 0 for padding, which does not count. An empty list scores 0.
    """
    share = np.zeros(len(lists))
    block = max(1, BLOCK_ELEMENTS // max(1, lists.shape[1] * pools.shape[1]))
    for start in range(0, len(lists), block):
        rows = np.sort(lists[start : start + block], axis=1)  # (b, k)
        first = np.diff(rows, axis=1, prepend=-1) != 0  # (b, k) False where an item is repeated
        known = (rows[:, :, None] == pools[start : start + block, None, :]).any(axis=2)  # (b, k)
        given = (rows != 0).sum(axis=1)
        share[start : start + block] = (known & first & (rows != 0)).sum(axis=1) / np.maximum(given, 1)
    return share


def chance(candidates: ArrayLike, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Expected HR@k and NDCG@k of a random order of C candidates, one of them the target: k / C and DCG_k / C.

    candidates: C, a number or an array; both results have its shape. DCG_k is the sum of 1 / log2(i + 1) for i = 1..k,
    k at most C: 2.9485 for k = 5, 4.5436 for k = 10. Raises ValueError when a pool is empty.
    """
    sizes = np.asarray(candidates)
    if (sizes < 1).any():
        raise ValueError("chance needs pools of at least one candidate, the target")
    gains = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(np.arange(1, k + 1) + 1.0))))  # (k + 1,) DCG_0..DCG_k
    reached = np.minimum(sizes, k).astype(np.int64)
    return reached / sizes, gains[reached] / sizes


def summary(ranks: ArrayLike, ks: Sequence[int] = (5, 10)) -> dict[str, float]:
    """Means over users, keys "HR@5", "HR@10", "NDCG@5", "NDCG@10" in this order. Raises ValueError without users."""
    ranks = np.asarray(ranks)
    if not ranks.size:
        raise ValueError("no users to average over")
    metrics = {"HR": hit_rate, "NDCG": ndcg}
    return {f"{name}@{k}": float(metric(ranks, k).mean()) for name, metric in metrics.items() for k in ks}


def _hit(ranks: np.ndarray, k: float) -> np.ndarray:
    return (ranks >= 1) & (ranks <= k) & np.isfinite(ranks)
