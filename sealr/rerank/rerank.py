"""Re-ranking the evaluation users' pools, fusing with the retriever, and writing the lists.

Splits of the rankings table: ``valid`` and ``test`` hold the retriever's own pools; ``injected`` holds the test pools
with the target put in (the paper's protocol). On validation only pools that hold their target are ranked, because no
weight can help the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sealr.data.manifest import CHECKPOINT, StageResult
from sealr.data.sequences import Sequences
from sealr.data.tables import atomic_path, write_json, write_table
from sealr.rerank.generative.prompts import RerankInput
from sealr.rerank.rankers import Ranker, Scored, fuse, order, tune_weight
from sealr.rerank.requests import Pools, inject, ranking_request

log = logging.getLogger(__name__)


def rerank(
    ranker: Ranker,
    users: Sequence[int],
    valid_users: Sequence[int],
    sequences: Sequences,
    sentiments: np.ndarray,
    pools: Pools,
    batch: int,
    folder: Path,
    expected: np.ndarray | None = None,
) -> StageResult:
    """Writes ``rankings.parquet`` (rankers: retriever, the LLM, fused) and ``fusion.json``.

    users, valid_users: rows of ``sequences.users``; the first are ranked for test, the second tune the fusion weight.
    batch: users of one checkpoint. sentiments, expected: see ``ranking_request``. The metric ``seconds_a_list`` is that of the LLM, over
    the test lists that this call had it make: what a ranker keeps of a user, it knows when the target has been put in.
    """
    timed = Timed(ranker)

    def request(user: int, split: str) -> RerankInput:
        return ranking_request(user, split, sequences, sentiments, pools, expected)

    def target(user: int, split: str) -> int:
        return int(sequences.flat[sequences.offsets[user + 1] - (2 if split == "valid" else 1)])

    tuning = [u for u in valid_users if target(u, "valid") in request(u, "valid").pool]
    valid = [request(u, "valid") for u in tuning]
    valid_llm = score_parts(ranker, valid, folder, "valid", batch)
    weight, tried = tune_weight(valid, [s.values for s in valid_llm], [target(u, "valid") for u in tuning], len(valid_users))
    log.info(
        "fusion weight %.2f: validation NDCG@10 %.4f, retriever alone %.4f, over %d users",
        weight,
        tried[weight],
        tried[0.0],
        len(valid_users),
    )
    test = [request(u, "test") for u in users]
    test_llm = score_parts(timed, test, folder, "test", batch)
    missed = [(u, r) for u, r in zip(users, test, strict=True) if target(u, "test") not in r.pool]
    injected_only = [inject(r, target(u, "test")) for u, r in missed]
    injected_llm = dict(zip([u for u, _ in missed], score_parts(ranker, injected_only, folder, "injected", batch), strict=True))
    replaced = dict(zip([u for u, _ in missed], injected_only, strict=True))
    injected = [replaced.get(u, r) for u, r in zip(users, test, strict=True)]  # the target was retrieved: the same list
    frames = [
        _rows(sequences, tuning, valid, valid_llm, ranker.name, weight, "valid"),
        _rows(sequences, users, test, test_llm, ranker.name, weight, "test"),
        _rows(
            sequences,
            users,
            injected,
            [injected_llm.get(u, s) for u, s in zip(users, test_llm, strict=True)],
            ranker.name,
            weight,
            "injected",
        ),
    ]
    write_table(pd.concat(frames, ignore_index=True), folder / "rankings.parquet", "rankings")
    write_json(
        {
            "weight": weight,
            "validation_ndcg_at_10": {str(w): v for w, v in tried.items()},
            "validity": float(np.mean([s.validity for s in [*valid_llm, *test_llm, *injected_llm.values()]])),
            "validation_users": [sequences.users[u] for u in valid_users],
            "test_users": [sequences.users[u] for u in users],
        },
        folder / "fusion.json",
    )
    rows = {
        "test_users": len(users),
        "valid_users": len(valid_users),
        "lists_generated": len(valid) + len(test) + len(injected_only),
    }
    metrics = {"fusion_weight": weight, "valid_ndcg@10": tried[weight], "valid_ndcg@10_retriever": tried[0.0]}
    return StageResult(rows, metrics | ({"seconds_a_list": timed.seconds / timed.lists} if timed.lists else {}))


class Timed:
    """A ranker, how many lists it made and what they took."""

    def __init__(self, ranker: Ranker) -> None:
        self.ranker, self.lists, self.seconds = ranker, 0, 0.0

    def score(self, requests: Sequence[RerankInput]) -> list[Scored]:
        started = time.monotonic()
        scores = self.ranker.score(requests)
        self.lists, self.seconds = self.lists + len(requests), self.seconds + time.monotonic() - started
        return scores


def score_parts(ranker: Ranker | Timed, requests: Sequence[RerankInput], folder: Path, name: str, size: int) -> list[Scored]:
    """`ranker.score`, part by part; finished parts are kept, so a run that was killed goes on after the last one."""
    scores: list[Scored] = []
    bar = tqdm(total=len(requests), desc=f"re-rank {name}", unit="user", disable=None)
    for start in range(0, len(requests), size):
        part = requests[start : start + size]
        path = folder / CHECKPOINT / f"{name}-{start:07d}.npz"
        if path.exists():
            with np.load(path) as saved:
                done = [Scored(saved[f"values{i}"], float(saved["validity"][i])) for i in range(len(part))]
        else:
            done = ranker.score(part)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, validity=[s.validity for s in done], **{f"values{i}": s.values for i, s in enumerate(done)})
        scores += done
        bar.update(len(part))
    bar.close()
    return scores


def _rows(
    sequences: Sequences,
    users: Sequence[int],
    requests: Sequence[RerankInput],
    llm: Sequence[Scored],
    name: str,
    weight: float,
    split: str,
) -> pd.DataFrame:
    """Three rankings of every request: the retriever's, the LLM's and the fused one."""
    columns: dict[str, list[np.ndarray]] = {c: [] for c in ("user", "item", "rank", "score", "ranker")}
    for user, request, scored in zip(users, requests, llm, strict=True):
        pool, retriever = np.asarray(request.pool), np.asarray(request.pool_scores)
        for ranker, values in enumerate((retriever, scored.values, fuse(retriever, scored.values, weight))):
            best = order(values)
            row = (np.full(len(best), user), pool[best] - 1, np.arange(1, len(best) + 1), values[best], np.full(len(best), ranker))
            for column, part in zip(columns.values(), row, strict=True):
                column.append(part)
    flat = {name: np.concatenate(parts) if parts else np.array([], dtype=np.int64) for name, parts in columns.items()}
    names = {"user": sequences.users, "item": sequences.items, "ranker": ["retriever", name, "fused"]}
    for column, values in names.items():
        flat[column] = pd.array(values, dtype="str").take(flat[column])
    return pd.DataFrame(flat).assign(split=split)
