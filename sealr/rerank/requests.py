"""From tables to requests: whose history, which feelings, which candidates, and which answers.

Leave-one-out positions of a user's sequence s: test target s[-1], validation target s[-2]. Fine-tuning prompts end
before both and answer with (s[-1], s[-2]), as the paper does (Section 2.3). That makes test items labels, which is why
fine-tuning users and evaluation users are disjoint (`protocols.split_users`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences
from sealr.evaluate.protocols import injected_pool
from sealr.rerank.generative.prompts import RerankInput

HELD_OUT = {"valid": 2, "test": 1}  # items at the end of a sequence that a split's history does not show


def sentiment_values(
    labels: pd.DataFrame, sequences: Sequences, placebo_seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sentiment class (int64, 0 where a review has no label) and expected sentiment (float64, NaN there) per interaction, aligned
    with ``sequences.flat``.

    placebo_seed: permute the pairs between reviews, which keeps their distribution and nothing else.
    """
    classes = sequences.values(labels.assign(sentiment=labels["sentiment"].fillna(0)), "sentiment").astype(np.int64)
    expected = sequences.values(labels, "expected").astype(np.float64)
    order = slice(None) if placebo_seed is None else np.random.default_rng(placebo_seed).permutation(len(classes))
    return classes[order], expected[order]


def feelings_of(sentiments: Sequence[float], expected: Sequence[float]) -> np.ndarray:
    """(N, 2) float32 class and expected sentiment, both NaN where there is no label, from what `sentiment_values` gives."""
    values = np.stack([np.asarray(sentiments, dtype=np.float32), np.asarray(expected, dtype=np.float32)], axis=1)
    values[np.isnan(values[:, 1])] = np.nan
    return values


class Pools:
    """A candidates table by user and split."""

    def __init__(self, candidates: pd.DataFrame, sequences: Sequences, size: int):
        index = sequences.item_ids()
        head = candidates[candidates["rank"] <= size].sort_values(["split", "user", "rank"], kind="stable")
        head = head.assign(item=head["item"].map(index))
        self._pools = {
            key: (g["item"].to_numpy(), g["score"].to_numpy()) for key, g in head.groupby(["split", "user"], sort=False)
        }
        self.size = size

    def of(self, split: str, user: str) -> tuple[np.ndarray, np.ndarray]:
        """Item indices and retriever scores, best first, both (C,). Raises ValueError for a user without candidates."""
        if (split, user) not in self._pools:
            raise ValueError(
                f"user {user!r} has no {split} candidates: the history holds the whole catalogue; set retrieve.exclude_seen: false"
            )
        return self._pools[split, user]


def ranking_request(
    user: int, split: str, sequences: Sequences, sentiments: np.ndarray, pools: Pools, expected: np.ndarray | None = None
) -> RerankInput:
    """The request for one user (a row of ``sequences.users``) whose next item is to be recommended.

    sentiments, expected: class and expected sentiment of every interaction, aligned with ``sequences.flat``.
    """
    stop = sequences.offsets[user + 1] - HELD_OUT[split]
    history = slice(sequences.offsets[user], stop)
    pool, scores = pools.of(split, sequences.users[user])
    felt = () if expected is None else expected[history].tolist()
    return RerankInput(
        sequences.flat[history].tolist(), sentiments[history].tolist(), pool.tolist(), scores.tolist(), expected=felt
    )


def inject(request: RerankInput, target: int) -> RerankInput:
    """The paper's protocol: the target replaces the last candidate unless it was retrieved (score: the last one's)."""
    pool = injected_pool(np.asarray(request.pool), target, len(request.pool))
    return replace(request, pool=pool.tolist())


def finetuning_requests(users: Iterable[int], sequences: Sequences, sentiments: np.ndarray, pools: Pools) -> list[RerankInput]:
    """Training prompts: the validation pool with both answers in it, the answers being the last and second-to-last item."""
    requests = []
    for user in users:
        request = ranking_request(user, "valid", sequences, sentiments, pools)
        last_two = sequences.flat[sequences.offsets[user + 1] - 2 : sequences.offsets[user + 1]][::-1].tolist()
        answer = list(dict.fromkeys(last_two))  # an item taken twice in a row is one answer: no list holds it twice
        requests.append(RerankInput(request.history, request.sentiments, _with(request.pool, answer), answer=answer))
    return requests


def _with(pool: Sequence[int], answer: Sequence[int]) -> list[int]:
    """The pool, same size, with all answers in it: the worst candidates make room, and no place gives an answer away."""
    missing = [a for a in answer if a not in pool]
    kept = [c for c in pool if c in answer] + [c for c in pool if c not in answer]
    keep = set(kept[: len(pool) - len(missing)])
    mixed = [c for c in pool if c in keep]
    places = np.random.default_rng([*answer, *pool])
    for item in missing:
        mixed.insert(int(places.integers(len(mixed) + 1)), item)
    return mixed
