"""What a ranker is asked: a user's history, the feelings about it, the candidates and, for training, the answer.

Leave-one-out positions of a sequence s: the test target is s[-1], the validation target s[-2]. Fine-tuning prompts end
before both and answer with (s[-1], s[-2]), as in the paper (Section 2.3). Test items are therefore training labels, so
fine-tuning users and evaluation users must be disjoint (`protocols.split_users`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sealr.data.sequences import Sequences
from sealr.evaluate.protocols import injected_pool


@dataclass(frozen=True, eq=False)
class RerankInput:
    """One list to re-rank: H items of history, C candidates. Items are catalogue indices from 1."""

    history: Sequence[int]  # oldest first
    feelings: ArrayLike  # (H, 2) sentiment class and expected sentiment; NaN where a review has no label
    pool: Sequence[int]  # candidates in the retriever's order
    pool_scores: Sequence[float] = ()  # the retriever's scores of the pool
    answer: Sequence[int] = ()  # the items to recommend, best first; only in training

    def newest(self, count: int) -> tuple[Sequence[int], np.ndarray]:
        """The last ``count`` items of the history and their feelings, (count, 2) float32."""
        return self.history[-count:], np.asarray(self.feelings, dtype=np.float32).reshape(-1, 2)[-count:]

    def without_newest(self) -> RerankInput:
        """The same request without the newest item of the history."""
        return replace(self, history=self.history[:-1], feelings=np.asarray(self.feelings)[:-1])


class Pools:
    """The first ``size`` candidates of each user and split of a candidates table."""

    def __init__(self, candidates: pd.DataFrame, sequences: Sequences, size: int):
        head = candidates[candidates["rank"] <= size].sort_values(["split", "user", "rank"], kind="stable")
        head = head.assign(item=head["item"].map(sequences.item_ids()))
        groups = head.groupby(["split", "user"], sort=False)
        self._pools = {key: (group["item"].to_numpy(), group["score"].to_numpy()) for key, group in groups}

    def of(self, split: str, user: str) -> tuple[np.ndarray, np.ndarray]:
        """Item indices and retriever scores, best first, both (C,). Raises ValueError for a user without candidates."""
        if (split, user) not in self._pools:
            raise ValueError(
                f"user {user!r} has no {split} candidates because the history holds the whole catalogue: "
                "set retrieve.exclude_seen=false"
            )
        return self._pools[split, user]


def ranking_request(row: int, split: str, sequences: Sequences, feelings: np.ndarray, pools: Pools) -> RerankInput:
    """Asks for the "valid" or "test" item of one user, a row of ``sequences.users``.

    feelings: (interactions, 2), aligned with ``sequences.flat``.
    """
    span = sequences.span(split, row)
    pool, scores = pools.of(split, sequences.users[row])
    return RerankInput(sequences.flat[span].tolist(), feelings[span], pool.tolist(), scores.tolist())


def inject(request: RerankInput, target: int) -> RerankInput:
    """The paper's protocol: a target that was not retrieved replaces the last candidate and takes its score."""
    pool = injected_pool(np.asarray(request.pool), target, len(request.pool))
    return replace(request, pool=pool.tolist())


def finetuning_requests(
    rows: Iterable[int], sequences: Sequences, feelings: np.ndarray, pools: Pools
) -> list[RerankInput]:
    """Training prompts: the validation pool, with the user's last and second-to-last item as answers in it."""
    requests = []
    for row in rows:
        request = ranking_request(row, "valid", sequences, feelings, pools)
        last_two = [int(sequences.targets(split, [row])[0]) for split in ("test", "valid")]
        answer = list(dict.fromkeys(last_two))  # a list holds an item once, even if the user took it twice in a row
        requests.append(replace(request, pool=_insert_answers(request.pool, answer), pool_scores=(), answer=answer))
    return requests


def check_users(train: int, valid: int, stop: int | None = None) -> None:
    """Raises ValueError unless there are users to train on and, without a number of epochs, users to validate on."""
    if not train or (not valid and stop is None):
        raise ValueError(
            f"fine-tuning needs users for training and for validation, got {train} and {valid}: "
            "raise rerank.finetune_share"
        )


def _insert_answers(pool: Sequence[int], answer: Sequence[int]) -> list[int]:
    """A pool of the same size that holds every answer. Missing answers replace the worst candidates.

    They go to random positions, so that a position does not reveal an answer.
    """
    missing = [item for item in answer if item not in pool]
    by_worth = [item for item in pool if item in answer] + [item for item in pool if item not in answer]
    kept = set(by_worth[: len(pool) - len(missing)])
    mixed = [item for item in pool if item in kept]
    rng = np.random.default_rng([*answer, *pool])
    for item in missing:
        mixed.insert(int(rng.integers(len(mixed) + 1)), item)
    return mixed
