"""What lists are like beyond accuracy: how new, how popular and how diverse, and for whom they hit.

Definitions: Castells, Hurley and Vargas, "Novelty and Diversity in Recommender Systems" (Recommender Systems Handbook,
2015), computed as RecTools does (MeanInvUserFreq, AvgRecPopularity, IntraListDiversity) from the training items.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sealr.data.sequences import Sequences
from sealr.evaluate.liking import FEWEST
from sealr.evaluate.metrics import coverage, hit_rate, ndcg
from sealr.evaluate.statistics import UNKNOWN, Interval, bootstrap_mean

TOP = 10
TAKEN = "test targets"  # row of reference: what the users took
STEPS = 50  # to a standard deviation


def beyond(
    lists: Mapping[str, np.ndarray],
    targets: np.ndarray,
    sequences: Sequences,
    resamples: int = 1000,
    seed: int = 0,
    content: np.ndarray | None = None,
) -> dict[str, dict[str, Interval]]:
    """System -> figure -> (mean, low, high) of the first ten items; the last row describes the targets.

    lists: system -> (N, K) item ids, best first, 0 for padding. targets (N,). content (items + 1, C): a vector per
    item id; adds the lists' diversity. Coverage belongs to all lists together, so it has no interval: low and high are
    NaN. Users with an empty list, for diversity a list of fewer than two items, do not count.
    """
    counts = popularity(sequences)
    novelty = -np.log2(np.maximum(counts, 1) / len(sequences))  # an item that nobody took counts as taken once
    rows = {}
    for system, items in {**lists, TAKEN: targets[:, None]}.items():
        first = items[:, :TOP]
        values = {f"novelty@{TOP}": mean_over(first, novelty), f"popularity@{TOP}": mean_over(first, counts)}
        if content is not None:
            values[f"diversity@{TOP}"] = diversity(first, content)
        covered = (coverage(first, sequences.n_items), np.nan, np.nan)
        rows[system] = {f"coverage@{TOP}": covered} | {n: _mean(v, resamples, seed) for n, v in values.items()}
    return rows


def by_history(
    ranks: Mapping[str, np.ndarray], lengths: np.ndarray, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """System -> figure -> (mean, low, high): HR@10 and NDCG@10 of users with short and with long histories.

    ranks: system -> (N,) the targets' ranks, 0 for a miss. lengths (N,): items of each history. Short: at most their
    median. A figure over fewer than FEWEST users is NaN.
    """
    short = lengths <= np.median(lengths)
    groups = {"short": short, "long": ~short}
    metrics = {f"HR@{TOP}": hit_rate, f"NDCG@{TOP}": ndcg}
    return {
        system: {
            f"{metric} {group}": bootstrap_mean(values_of(own[chosen], TOP), resamples, seed)
            if chosen.sum() >= FEWEST
            else UNKNOWN
            for metric, values_of in metrics.items()
            for group, chosen in groups.items()
        }
        for system, own in ranks.items()
    }


def popularity(sequences: Sequences) -> np.ndarray:
    """(items + 1,) how many users have the item among their training items; 0 for the padding."""
    train = sequences.split("train")
    owners = np.repeat(train.users, sequences.lengths)  # (interactions,)
    known = np.arange(len(sequences.flat)) < train.ends[owners]
    pairs = np.unique(owners[known] * (sequences.n_items + 1) + sequences.flat[known])  # a repeated item counts once
    return np.bincount(pairs % (sequences.n_items + 1), minlength=sequences.n_items + 1)


def mean_over(lists: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) mean value of each list's items; NaN for an empty list. lists (N, K), values (items + 1,)."""
    real = lists > 0
    sizes = real.sum(axis=1)
    return np.where(sizes, (values[lists] * real).sum(axis=1) / np.maximum(sizes, 1), np.nan)


def diversity(lists: np.ndarray, content: np.ndarray) -> np.ndarray:
    """(N,) 1 minus the mean cosine over pairs of a list's items; NaN below two items with content.

    lists (N, K), content (items + 1, C). Items whose vector is 0 have no content.
    """
    norms = np.linalg.norm(content, axis=1, keepdims=True)
    units = np.divide(content, norms, out=np.zeros(content.shape), where=norms > 0)
    real = (lists > 0) & (norms[lists, 0] > 0)  # (N, K)
    sums = np.zeros((len(lists), content.shape[1]))
    for items, known in zip(lists.T, real.T, strict=True):  # by rank, so that memory is that of one vector per user
        sums[known] += units[items[known]]
    sizes = real.sum(axis=1)
    pairs = sizes * (sizes - 1)  # ordered; a sum's square holds them and every item with itself
    return np.where(pairs, 1 - ((sums**2).sum(axis=1) - sizes) / np.maximum(pairs, 1), np.nan)


def _mean(values: np.ndarray, resamples: int, seed: int) -> Interval:
    known = values[~np.isnan(values)]
    if len(known) < FEWEST:
        return UNKNOWN
    # The bootstrap is fast for few distinct values. Rounding to a fraction of their spread moves no shown digit.
    mean, step = known.mean(), known.std() / STEPS or 1.0
    _, low, high = bootstrap_mean(mean + np.round((known - mean) / step) * step, resamples, seed)
    return float(mean), low, high
