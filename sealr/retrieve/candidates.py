"""Candidates of each user over the whole catalogue (paper section 2.2), in blocks of bounded memory.

One order holds everywhere: higher score first, equal scores by lower item index. So a target with rank r in
``target_ranks`` is candidate r, and two runs of one model give the same lists.

With ``retrieve.index: approximate`` candidates come from an inverted file, which may miss some; ``write_candidates``
measures how many. ``target_ranks``, and with it the retriever's metrics, stay exact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sealr.data.manifest import StageResult
from sealr.data.sequences import Sequences, Split
from sealr.data.tables import write_blocks
from sealr.progress import progress_bar
from sealr.retrieve.index import keep, top
from sealr.retrieve.retriever import History, Retriever
from sealr.settings import RetrieveConfig

log = logging.getLogger(__name__)
BLOCK_ELEMENTS = 2**22  # scores in memory at a time: 16 MB
BLOCK_ROWS = 256  # requests scored at a time
BLOCK_USERS = 4096  # users per query of an approximate index
SAMPLE = 1000  # users on whom an approximate index is compared with an exact search
LOW_RECALL = 0.95


def best_items(
    retriever: Retriever,
    sequences: Sequences,
    split: str,
    k: int,
    exclude_seen: bool,
    feelings: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Items int64 and scores float32, both (users of the split, k), best first; item 0 fills short lists.

    feelings: (interactions, 2) as ``sealr.emotion.feelings`` makes them.
    """
    _, ids, scores = zip(*best_blocks(retriever, sequences, split, k, exclude_seen, feelings), strict=True)
    return np.concatenate(ids), np.concatenate(scores)


def best_blocks(
    retriever: Retriever,
    sequences: Sequences,
    split: str,
    k: int,
    exclude_seen: bool,
    feelings: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (positions in the split, items, scores) as ``best_items``, about BLOCK_USERS users at a time."""
    part, label = sequences.split(split), f"candidates ({split})"
    found: Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]
    if retriever.config.index == "approximate":
        blocks = user_blocks(retriever, sequences, part, feelings, BLOCK_USERS, label)
        found = ((users, retriever.search(histories, k, exclude_seen, felt)) for users, histories, felt in blocks)
    else:
        exact = score_blocks(retriever, sequences, part, exclude_seen, feelings, label)
        found = ((users, top(scores, k)) for users, scores in exact)
    start = end = 0  # the users that ids and best hold
    for users, (items, scores) in found:
        if start == end:  # small arrays kept between large ones that are freed would scatter the memory
            room = BLOCK_USERS + len(users), items.shape[1]
            ids, best = np.zeros(room, dtype=np.int64), np.zeros(room, dtype=np.float32)
        end += len(users)
        ids[users - start], best[users - start] = items, scores
        if end - start >= BLOCK_USERS or end == len(part):
            yield np.arange(start, end), ids[: end - start], best[: end - start]
            start = end


def candidates_table(
    sequences: Sequences, split: str, users: np.ndarray, ids: np.ndarray, scores: np.ndarray
) -> pd.DataFrame:
    """Table (user, item, rank from 1, score, split) of a block of ``best_blocks``."""
    row, column = np.nonzero(ids)
    return pd.DataFrame(
        {
            "user": pd.array(sequences.users, dtype="str").take(sequences.split(split).users[users[row]]),
            "item": pd.array(sequences.items, dtype="str").take(ids[row, column] - 1),
            "rank": (column + 1).astype(np.int32),
            "score": scores[row, column],
            "split": pd.array([split], dtype="str").take(np.zeros(len(row), dtype=np.int64)),
        }
    )


def write_candidates(
    retriever: Retriever,
    sequences: Sequences,
    config: RetrieveConfig,
    folder: Path,
    feelings: np.ndarray | None = None,
    learned: Collection[int] = (),
) -> StageResult:
    """Writes ``candidates.parquet`` for valid, gate and test. Metrics: the pools' recall, the limit of any re-ranker.

    learned: rows of ``sequences.users`` whose targets the retriever was trained on; the metrics leave them out. With an
    approximate index, ``test_index_recall@<pool>`` is the share of the exact candidates that it found.
    """
    pool, metrics = config.n_retrieved, {}

    def frames() -> Iterator[pd.DataFrame]:
        for split in ("valid", "gate", "test"):
            part, hits = sequences.split(split), 0
            if not len(part):  # no gate users
                continue
            tested = ~np.isin(part.users, list(learned))
            for users, ids, scores in best_blocks(retriever, sequences, split, pool, config.exclude_seen, feelings):
                hits += int(((ids == part.targets[users, None]).any(1) & tested[users]).sum())
                yield candidates_table(sequences, split, users, ids, scores)
            if split != "gate":  # a figure that people see, they choose by
                metrics[f"{split}_hr@{pool}"] = float(hits / tested.sum())

    rows = write_blocks(frames(), folder / "candidates.parquet", "candidates")
    if config.index == "approximate":
        metrics[f"test_index_recall@{pool}"] = index_recall(retriever, sequences, "test", feelings)
    return StageResult({"candidates": rows}, metrics)


def index_recall(retriever: Retriever, sequences: Sequences, split: str, feelings: np.ndarray | None = None) -> float:
    """Share of the exact candidates that the approximate index finds, mean over at most SAMPLE users of the split."""
    part, config = sequences.split(split), retriever.config
    users = np.unique(np.linspace(0, len(part) - 1, SAMPLE, dtype=np.int64))
    histories = [part.history(user) for user in users]
    felt = None if feelings is None else [part.history(user, feelings) for user in users]
    exact = replace(retriever, config=replace(config, index="exact"))
    pools = (pools_for(r, histories, config.n_retrieved, config.exclude_seen, felt) for r in (exact, retriever))
    shares = [np.isin(wanted, found).mean() for (wanted, _), (found, _) in zip(*pools, strict=True) if len(wanted)]
    recall = float(np.mean(shares))
    if recall < LOW_RECALL:
        text = "the approximate index finds only %.3f of the exact %d candidates; set retrieve.index=exact"
        log.warning(text, recall, config.n_retrieved)
    return recall


def target_ranks(
    retriever: Retriever, sequences: Sequences, split: str, exclude_seen: bool, feelings: np.ndarray | None = None
) -> np.ndarray:
    """(users of the split,) int64 rank, from 1, of each user's target among all items; 0 if it is masked as seen.

    Users are in the order of ``sequences.split(split).users``.
    """
    part = sequences.split(split)
    ranks = np.zeros(len(part), dtype=np.int64)
    for users, scores in score_blocks(retriever, sequences, part, exclude_seen, feelings, f"ranks ({split})"):
        ranks[users] = ranks_among(scores, torch.from_numpy(part.targets[users]).to(scores.device)).cpu().numpy()
    return ranks


def ranks_and_lists(
    retriever: Retriever, sequences: Sequences, split: str, k: int, feelings: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Everything that a table shows of a split, from one pass over the scores.

    Gives `target_ranks` as the configuration masks seen items, `target_ranks` with them kept, both (users,), and the
    items of `best_items`, (users, k).
    """
    part, seen = sequences.split(split), retriever.config.exclude_seen
    ranks, kept = np.zeros(len(part), dtype=np.int64), np.zeros(len(part), dtype=np.int64)
    lists = np.zeros((len(part), min(k, len(retriever.items))), dtype=np.int64)
    for users, scores in score_blocks(retriever, sequences, part, False, feelings, f"ranks ({split})"):
        targets = torch.from_numpy(part.targets[users]).to(scores.device)
        ranks[users] = kept[users] = ranks_among(scores, targets).cpu().numpy()
        if seen:
            _mask_seen(scores, [part.history(user) for user in users])
            ranks[users] = ranks_among(scores, targets).cpu().numpy()
        lists[users] = top(scores, k)[0]
    return ranks, kept, lists


def ranks_among(scores: Tensor, targets: Tensor) -> Tensor:
    """scores (B, items + 1), targets (B,) -> (B,) int64 rank of each target in its row, from 1; 0 if it is -inf.

    Raises FloatingPointError when a row has NaN: a comparison with NaN is false, so all such items would count as
    behind the target.
    """
    if unordered := int(scores.isnan().any(1).sum()):
        raise FloatingPointError(
            f"{unordered} of {len(scores)} users have items whose score is not a number, so their targets have no "
            "rank: the retriever's or the LLM's weights are broken; lower its learning rate and train it again"
        )
    targets = targets[:, None]
    value = scores.gather(1, targets)  # (B, 1)
    items = torch.arange(scores.shape[1], device=scores.device)  # (items + 1,)
    ahead = (scores > value).sum(1) + ((scores == value) & (items < targets)).sum(1)  # (B,)
    return torch.where(value[:, 0] > -torch.inf, ahead + 1, 0)


def pools_for(
    retriever: Retriever,
    histories: Sequence[History],
    pool: int,
    exclude_seen: bool = True,
    feelings: Sequence[np.ndarray] | None = None,
    allowed: Callable[[int], np.ndarray | None] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Candidates of served requests: items and scores for each history, best first, both (at most pool,).

    feelings: (H, 2) per history, as in ``Retriever.score``. An empty history gets the most popular items. Memory is
    that of one block, however many requests there are.
    allowed: from the place of a history to the (items + 1,) bool of items that it may get, None for all.
    """
    approximate = retriever.config.index == "approximate"
    most = max(1, min(BLOCK_ROWS, BLOCK_ELEMENTS // (len(retriever.items) + 1)))
    block = BLOCK_ROWS if approximate and allowed is None else most
    for start in range(0, len(histories), block):
        part = [retriever.indices(history) for history in histories[start : start + block]]
        felt = None if feelings is None else feelings[start : start + block]
        masks = None if allowed is None else [allowed(start + row) for row in range(len(part))]
        if approximate:
            found = retriever.search(part, pool, exclude_seen, felt, masks)
        else:
            scores = _scores(retriever, part, exclude_seen, felt)
            for row, mask in zip(scores, masks or (), strict=False):
                keep(row, mask)
            found = top(scores, pool)
        for ids, values in zip(*found, strict=True):
            yield ids[ids > 0], values[ids > 0]  # index 0 fills short lists


def scores_of(
    retriever: Retriever, histories: Sequence[History], items: np.ndarray, feelings: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """(histories, len(items)) scores of the same items (indices) for each history. Memory is that of one block."""
    parts = [np.zeros((0, len(items)), dtype=np.float32)]
    for start in range(0, len(histories), BLOCK_ROWS):
        felt = None if feelings is None else feelings[start : start + BLOCK_ROWS]
        parts.append(retriever.score(histories[start : start + BLOCK_ROWS], felt)[:, items])
    return np.concatenate(parts)


def score_blocks(
    retriever: Retriever,
    sequences: Sequences,
    part: Split,
    exclude_seen: bool,
    feelings: np.ndarray | None,
    label: str,
    exclude_unknown: bool = True,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yields (positions in the split, scores (B, items + 1)), with -inf for seen items if they are excluded.

    exclude_unknown: in a split by time, -inf also for items that nobody had in training: a model that met them as
    negatives only would recommend the future's items by what they have in common.
    """
    block = max(1, BLOCK_ELEMENTS // (len(retriever.items) + 1))
    for users, histories, felt in user_blocks(retriever, sequences, part, feelings, block, label):
        scores = _scores(retriever, histories, exclude_seen, felt)
        if exclude_unknown and sequences.cuts is not None:
            scores[:, torch.from_numpy(~sequences.known)] = -torch.inf
        yield users, scores


def _scores(
    retriever: Retriever, histories: list[np.ndarray], exclude_seen: bool, feelings: Sequence[np.ndarray] | None
) -> Tensor:
    scores = torch.from_numpy(retriever.score(histories, feelings))
    if exclude_seen:
        _mask_seen(scores, histories)
    return scores


def _mask_seen(scores: Tensor, histories: list[np.ndarray]) -> None:
    rows = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    scores[torch.from_numpy(rows), torch.from_numpy(np.concatenate(histories))] = -torch.inf


def user_blocks(
    retriever: Retriever, sequences: Sequences, part: Split, feelings: np.ndarray | None, block: int, label: str
) -> Iterator[tuple[np.ndarray, list[np.ndarray], list[np.ndarray] | None]]:
    """Yields (positions in the split, histories, feelings) of ``block`` users at a time, with a progress bar.

    In a split by time, histories lack items that nobody had in training, as those of service lack unknown ones.
    """
    if retriever.items != sequences.items:
        raise ValueError("the retriever was trained on another catalogue than that of these sequences")
    for start in progress_bar(range(0, len(part), block), label=label, unit="blocks"):
        users = np.arange(start, min(start + block, len(part)))
        histories = [part.history(user) for user in users]
        felt = None if feelings is None else [part.history(user, feelings) for user in users]
        if sequences.cuts is not None:
            kept = [sequences.known[history] for history in histories]
            histories = [history[keep] for history, keep in zip(histories, kept, strict=True)]
            felt = felt and [values[keep] for values, keep in zip(felt, kept, strict=True)]
        yield users, histories, felt
