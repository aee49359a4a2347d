"""The evaluation protocols: who is evaluated, on which list, and what counts as a miss. Pure functions over arrays.

Shapes, for N users: ``targets`` (N,) item ids; ``pools`` (N, C) the retriever's candidates, best first, padded with 0
on the right; ``lists`` (N, up to C) the same items in a system's order; ``ranks`` (N,) from 1, 0 for a miss.

* full: the headline. If the retriever does not find the target, every two-stage system misses it.
* retrieved: only users whose target is in the pool. Their share, the pool's recall, is the ceiling of any re-ranker.
* injected: what the figures of the paper's Tables 2 and 3 imply; its text does not say. Every pool contains the target,
  so a random order has HR@10 = 10 / C. Results include the chance line and the retriever's own order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sealr.evaluate.metrics import chance, summary

RETRIEVER, INVERTED, CHANCE = "retriever", "retriever inverted", "chance"


@dataclass(frozen=True)
class UserSplit:
    """The three disjoint sets of users of an inductive split (paper section 3.1.1)."""

    train: list[str]  # for fine-tuning the LLM
    valid: list[str]  # for its early stopping
    evaluate: list[str]


@dataclass(frozen=True)
class Protocol:
    """The ranks under one protocol. All systems have the same users in the same order, so pairs can be compared."""

    name: str
    users: np.ndarray  # (N,) bool: who is included
    ranks: dict[str, np.ndarray]  # system -> (included users,)
    ceiling: float  # share of the N users whose target is in the pool; no re-ranker's HR in ``full`` exceeds it
    sizes: np.ndarray | None = (
        None  # (included users,) number of candidates, one of them the target; None: no chance line
    )

    def rows(self, ks: Sequence[int] = (5, 10)) -> list[dict[str, Any]]:
        """One row per system and one for chance: protocol, ceiling, users, system and the metrics."""
        known = {"protocol": self.name, "ceiling": self.ceiling, "users": int(self.users.sum())}
        rows = [known | {"system": system} | summary(ranks, ks) for system, ranks in self.ranks.items()]
        if self.sizes is not None:
            lines = {k: chance(self.sizes, k) for k in ks}
            hits = {f"HR@{k}": float(line[0].mean()) for k, line in lines.items()}
            gains = {f"NDCG@{k}": float(line[1].mean()) for k, line in lines.items()}
            rows.append(known | {"system": CHANCE} | hits | gains)
        return rows


def split_users(
    users: Sequence[str], ratio: float, valid_share: float, seed: int, gate: Collection[str] = frozenset()
) -> UserSplit:
    """One half of the users for evaluation, and ``ratio`` of all users, from the other half, for fine-tuning.

    valid_share: share of the fine-tuning users that is kept for validation. gate: users who may not be fine-tuned on,
    and are left out of both parts. The split depends on the set of users and the seed, not on their order. The
    evaluation half does not depend on the ratio, and a smaller ratio selects a subset of a larger one's users. Raises
    ValueError when users repeat, ratio is above one half, or a part would be empty.
    """
    names = sorted(users)
    if len(set(names)) != len(names):
        raise ValueError("split_users: a user occurs twice")
    if not 0 < ratio <= 0.5:
        raise ValueError(
            f"ratio must be above 0 and at most 0.5, because the other half is for evaluation; got {ratio}"
        )
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    half = len(names) - len(names) // 2  # an odd user goes to evaluation
    tuned = [user for user in shuffled[half : half + int(ratio * len(names) + 1e-9)] if user not in gate]
    held_out = max(1, round(valid_share * len(tuned)))
    if len(tuned) <= held_out:
        raise ValueError(
            f"{len(names)} users are too few: ratio {ratio} selects {len(tuned)}, {held_out} of them for validation"
        )
    return UserSplit(train=tuned[held_out:], valid=tuned[:held_out], evaluate=shuffled[:half])


def draw_users(users: Sequence[str], seed: int) -> list[str]:
    """The users in a random order that depends on the set of users and the seed. A sample is the start of it."""
    names = sorted(users)
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def rank_in(lists: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) int64 rank of each target (N,) in its list (N, K), from 1; 0 where it is missing."""
    found = (lists == targets[:, None]) & (targets[:, None] > 0)  # (N, K)
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0)


def full(
    pools: np.ndarray, targets: np.ndarray, retriever_ranks: np.ndarray, lists: Mapping[str, np.ndarray]
) -> Protocol:
    """All users. retriever_ranks (N,): the targets' ranks in the whole catalogue, for the retriever's own row.

    A re-ranker's rank is the target's place in its list, and a miss when the target was not retrieved.
    """
    ranks = {RETRIEVER: np.asarray(retriever_ranks)} | {
        system: rank_in(ranked, targets) for system, ranked in lists.items()
    }
    return Protocol("full", np.ones(len(targets), dtype=bool), ranks, _recall(pools, targets))


def retrieved(pools: np.ndarray, targets: np.ndarray, lists: Mapping[str, np.ndarray]) -> Protocol:
    """Users whose target is in the pool. The ceiling is the pool's recall."""
    kept = rank_in(pools, targets) > 0
    systems = {RETRIEVER: pools} | dict(lists)
    ranks = {system: rank_in(ranked[kept], targets[kept]) for system, ranked in systems.items()}
    return Protocol("retrieved", kept, ranks, _recall(pools, targets), (pools[kept] > 0).sum(axis=1))


def injected(
    pools: np.ndarray, targets: np.ndarray, lists: Mapping[str, np.ndarray], ceiling: float = float("nan")
) -> Protocol:
    """The paper's protocol, as we read it. Adds the retriever's order and its inversion to the systems.

    pools (N, C): from ``injected_pool``. ceiling: recall of the pools before the injection, for the table only.
    Raises ValueError when a pool does not contain its target.
    """
    if not (rank_in(pools, targets) > 0).all():
        raise ValueError("injected: a pool does not contain its target; build the pools with injected_pool")
    systems = {RETRIEVER: pools, INVERTED: inverted(pools)} | dict(lists)
    ranks = {system: rank_in(ranked, targets) for system, ranked in systems.items()}
    return Protocol("injected", np.ones(len(targets), dtype=bool), ranks, ceiling, (pools > 0).sum(axis=1))


def injected_pool(pool: np.ndarray, target: int, candidates: int) -> np.ndarray:
    """The first C of the retriever's pool (W,), in the retriever's order, with the target among them; at most (C,).

    A missing target replaces the last candidate, or is appended to a pool of fewer than C.
    """
    first = pool[:candidates]
    return first if target in first else np.append(first[: candidates - 1], target)


def inverted(pools: np.ndarray) -> np.ndarray:
    """(N, C) with the real entries of each row in reverse order, padding still on the right."""
    columns = np.arange(pools.shape[1])
    sizes = (pools > 0).sum(axis=1, keepdims=True)  # (N, 1)
    return np.where(columns < sizes, np.take_along_axis(pools, np.maximum(sizes - 1 - columns, 0), axis=1), 0)


def _recall(pools: np.ndarray, targets: np.ndarray) -> float:
    return float((rank_in(pools, targets) > 0).mean())
