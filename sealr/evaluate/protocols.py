"""Who is evaluated, on which list, and what counts as a miss. Pure functions over arrays.

Shapes, for N users: ``targets`` (N,) item indices; ``pools`` (N, C) the retriever's candidates, best first, 0 to the
right for padding; a system's ``lists`` (N, up to C), the same items in its own order; ``ranks`` (N,) from 1, 0 for a miss.

* full: the headline. A two-stage system that did not retrieve the target has missed it.
* retrieved: only users whose target is in the pool; their share, the pool's recall, is the ceiling of any re-ranker.
* injected: what Tables 2 and 3 of the paper imply (its text does not say). The target is put into every pool, so that a random order
  already has HR@10 = 10 / C. The chance line and the retriever's own order stand beside every system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sealr.evaluate.metrics import chance, summary

RETRIEVER, INVERTED, CHANCE = "retriever", "retriever inverted", "chance"


@dataclass(frozen=True)
class UserSplit:
    """Disjoint users of an inductive split (paper section 3.1.1)."""

    train: list[str]  # the LLM is fine-tuned on these
    valid: list[str]  # and stopped early by these
    evaluate: list[str]  # evaluated on these


@dataclass(frozen=True)
class Protocol:
    """One protocol's ranks, users in the same order for every system, so that systems can be compared in pairs."""

    name: str
    users: np.ndarray  # (N,) bool: who counts
    ranks: dict[str, np.ndarray]  # system -> (users that count,)
    ceiling: float  # share of the N users whose target is in the pool; no re-ranker's HR in ``full`` is above it
    sizes: np.ndarray | None = None  # (users that count,) candidates of which one is the target; None: there is no chance line

    def rows(self, ks: Sequence[int] = (5, 10)) -> list[dict[str, object]]:
        """One row a system, and one of chance, as ``report.metrics_table`` takes them."""
        known = {"protocol": self.name, "ceiling": self.ceiling, "users": int(self.users.sum())}
        rows = [known | {"system": system} | summary(ranks, ks) for system, ranks in self.ranks.items()]
        if self.sizes is not None:
            lines = {k: chance(self.sizes, k) for k in ks}
            hits = {f"HR@{k}": float(line[0].mean()) for k, line in lines.items()}
            gains = {f"NDCG@{k}": float(line[1].mean()) for k, line in lines.items()}
            rows.append(known | {"system": CHANCE} | hits | gains)
        return rows


def split_users(users: Sequence[str], ratio: float, valid_share: float, seed: int) -> UserSplit:
    """Half of the users for evaluation, and ``ratio`` of all users, from the other half, for fine-tuning the LLM.

    valid_share: share of the fine-tuning users kept for validation. The split depends on the set of users and the seed,
    not on their order. Every ratio has the same evaluation half, and a smaller ratio's fine-tuning users are among a
    larger one's. Raises ValueError when users repeat, ratio is above one half, or a part would be empty.
    """
    names = sorted(users)
    if len(set(names)) != len(names):
        raise ValueError("split_users: a user is listed twice")
    if not 0 < ratio <= 0.5:
        raise ValueError(f"ratio must be above 0 and at most 0.5, for the other half is evaluated on; got {ratio}")
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    half = len(names) - len(names) // 2  # the odd user is evaluated on
    tuned = shuffled[half : half + int(ratio * len(names) + 1e-9)]
    held_out = max(1, round(valid_share * len(tuned)))
    if len(tuned) <= held_out:
        raise ValueError(f"{len(names)} users are too few: ratio {ratio} gives {len(tuned)}, {held_out} of them for validation")
    return UserSplit(train=tuned[held_out:], valid=tuned[:held_out], evaluate=shuffled[:half])


def draw_users(users: Sequence[str], seed: int) -> list[str]:
    """The users in a random order, which depends on who they are and on the seed: a sample is the start of it."""
    names = sorted(users)
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def rank_in(lists: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) int64 place of targets (N,) in lists (N, K), from 1; 0 where it is not there."""
    found = (lists == targets[:, None]) & (targets[:, None] > 0)  # (N, K)
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0)


def full(pools: np.ndarray, targets: np.ndarray, retriever_ranks: np.ndarray, lists: Mapping[str, np.ndarray]) -> Protocol:
    """All users. retriever_ranks (N,): the target's rank in the whole catalogue, which is the retriever's own row.

    A re-ranker's rank is the target's place in its list; a miss when the target was not retrieved.
    """
    ranks = {RETRIEVER: np.asarray(retriever_ranks)} | {system: rank_in(ranked, targets) for system, ranked in lists.items()}
    return Protocol("full", np.ones(len(targets), dtype=bool), ranks, _recall(pools, targets))


def retrieved(pools: np.ndarray, targets: np.ndarray, lists: Mapping[str, np.ndarray]) -> Protocol:
    """Users whose target is in the pool, and the pool's recall as the ceiling."""
    kept = rank_in(pools, targets) > 0
    ranks = {system: rank_in(ranked[kept], targets[kept]) for system, ranked in ({RETRIEVER: pools} | dict(lists)).items()}
    return Protocol("retrieved", kept, ranks, _recall(pools, targets), (pools[kept] > 0).sum(axis=1))


def injected(pools: np.ndarray, targets: np.ndarray, lists: Mapping[str, np.ndarray], ceiling: float = float("nan")) -> Protocol:
    """The paper's protocol, as we read it. pools (N, C): from ``injected_pool``; the retriever's order, inverted and not, is added.

    ceiling: the recall of the pools before injection, to be printed beside; the injected ones have 1 by construction.
    """
    if not (rank_in(pools, targets) > 0).all():
        raise ValueError("injected: a pool does not hold its target; build the pools with injected_pool")
    systems = {RETRIEVER: pools, INVERTED: inverted(pools)} | dict(lists)
    ranks = {system: rank_in(ranked, targets) for system, ranked in systems.items()}
    return Protocol("injected", np.ones(len(targets), dtype=bool), ranks, ceiling, (pools > 0).sum(axis=1))


def injected_pool(pool: np.ndarray, target: int, candidates: int) -> np.ndarray:
    """The first C of the retriever's pool (W,) with the target in it, in the retriever's order; at most (C,).

    Where the target is not among the first C it replaces the last of them; where the pool is shorter than C it is added at the end.
    """
    first = pool[:candidates]
    return first if target in first else np.append(first[: candidates - 1], target)


def inverted(pools: np.ndarray) -> np.ndarray:
    """(N, C) with each row's real entries in reverse order, padding still to the right."""
    columns = np.arange(pools.shape[1])
    sizes = (pools > 0).sum(axis=1, keepdims=True)  # (N, 1)
    return np.where(columns < sizes, np.take_along_axis(pools, np.maximum(sizes - 1 - columns, 0), axis=1), 0)


def _recall(pools: np.ndarray, targets: np.ndarray) -> float:
    return float((rank_in(pools, targets) > 0).mean())
