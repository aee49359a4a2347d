"""Re-ranks the evaluation users' pools, fuses LLM and retriever, and writes the lists.

Splits of the rankings table: ``valid`` and ``test`` hold the retriever's own pools; ``injected`` holds the test pools
with the target inserted (the paper's protocol). On validation, only pools that contain their target are ranked, because
no weight can help the others.
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
from sealr.rerank.rankers import Ranker, Scored, fuse, order, tune_weight
from sealr.rerank.requests import Pools, RerankInput, inject, ranking_request

log = logging.getLogger(__name__)


def rerank(
    ranker: Ranker,
    rows: Sequence[int],
    valid_rows: Sequence[int],
    sequences: Sequences,
    feelings: np.ndarray,
    pools: Pools,
    batch: int,
    folder: Path,
) -> StageResult:
    """Writes ``rankings.parquet`` (rankers: retriever, the LLM, fused) and ``fusion.json``.

    rows, valid_rows: of ``sequences.users``; the first are ranked for test, the second tune the fusion weight.
    feelings: (interactions, 2), aligned with ``sequences.flat``. batch: users per checkpoint. The metric
    ``seconds_a_list`` is measured on test lists only: injected lists reuse cached work.
    """
    timed = Timed(ranker)
    wanted = dict(zip(valid_rows, sequences.targets("valid", valid_rows).tolist(), strict=True))
    asked = {row: ranking_request(row, "valid", sequences, feelings, pools) for row in valid_rows}
    tuning = [row for row in valid_rows if wanted[row] in asked[row].pool]
    valid, targets = [asked[row] for row in tuning], [wanted[row] for row in tuning]
    valid_llm = score_parts(ranker, valid, folder, "valid", batch)
    weight, tried = tune_weight(valid, [s.values for s in valid_llm], targets, len(valid_rows))
    text = "fusion weight %.2f: validation NDCG@10 %.4f, retriever alone %.4f, over %d users"
    log.info(text, weight, tried[weight], tried[0.0], len(valid_rows))

    test = [ranking_request(row, "test", sequences, feelings, pools) for row in rows]
    test_llm = score_parts(timed, test, folder, "test", batch)
    test_targets = sequences.targets("test", rows).tolist()
    missed = [i for i, target in enumerate(test_targets) if target not in test[i].pool]
    injected, injected_llm = list(test), list(test_llm)  # a pool that holds its target stays the same
    for i in missed:
        injected[i] = inject(test[i], test_targets[i])
    new_scores = score_parts(ranker, [injected[i] for i in missed], folder, "injected", batch)
    for i, scored in zip(missed, new_scores, strict=True):
        injected_llm[i] = scored

    splits = {
        "valid": (tuning, valid, valid_llm),
        "test": (rows, test, test_llm),
        "injected": (rows, injected, injected_llm),
    }
    frames = [_table(sequences, *part, ranker.name, weight).assign(split=split) for split, part in splits.items()]
    write_table(pd.concat(frames, ignore_index=True), folder / "rankings.parquet", "rankings")
    fusion = {
        "weight": weight,
        "validation_ndcg_at_10": {str(w): value for w, value in tried.items()},
        "validity": float(np.mean([s.validity for s in [*valid_llm, *test_llm, *new_scores]])),
        "validation_users": [sequences.users[row] for row in valid_rows],
        "test_users": [sequences.users[row] for row in rows],
    }
    write_json(fusion, folder / "fusion.json")
    metrics = {"fusion_weight": weight, "valid_ndcg@10": tried[weight], "valid_ndcg@10_retriever": tried[0.0]}
    if timed.lists:
        metrics["seconds_a_list"] = timed.seconds / timed.lists
    lists = len(valid) + len(test) + len(missed)
    return StageResult({"test_users": len(rows), "valid_users": len(valid_rows), "lists_generated": lists}, metrics)


class Timed:
    """A ranker that counts its lists and their time."""

    def __init__(self, ranker: Ranker) -> None:
        self.ranker, self.lists, self.seconds = ranker, 0, 0.0

    def score(self, requests: Sequence[RerankInput]) -> list[Scored]:
        started = time.monotonic()
        scores = self.ranker.score(requests)
        self.lists, self.seconds = self.lists + len(requests), self.seconds + time.monotonic() - started
        return scores


def score_parts(
    ranker: Ranker | Timed, requests: Sequence[RerankInput], folder: Path, name: str, size: int
) -> list[Scored]:
    """`ranker.score` in parts of ``size`` requests. Finished parts are kept, so an interrupted run continues."""
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
            values = {f"values{i}": scored.values for i, scored in enumerate(done)}
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, validity=[scored.validity for scored in done], **values)  # type: ignore[arg-type]
        scores += done
        bar.update(len(part))
    bar.close()
    return scores


def _table(
    sequences: Sequences,
    rows: Sequence[int],
    requests: Sequence[RerankInput],
    llm: Sequence[Scored],
    name: str,
    weight: float,
) -> pd.DataFrame:
    """Three rankings of every request: the retriever's, the LLM's and the fused one."""
    names = {"user": sequences.users, "item": sequences.items, "ranker": ["retriever", name, "fused"]}
    columns: dict[str, list[np.ndarray]] = {column: [] for column in ("user", "item", "rank", "score", "ranker")}
    for row, request, scored in zip(rows, requests, llm, strict=True):
        pool, retriever = np.asarray(request.pool), np.asarray(request.pool_scores)
        for ranker, values in enumerate((retriever, scored.values, fuse(retriever, scored.values, weight))):
            best = order(values)
            same = np.ones_like(best)
            parts = (row * same, pool[best] - 1, same.cumsum(), values[best], ranker * same)
            for column, part in zip(columns.values(), parts, strict=True):
                column.append(part)
    flat = {
        column: np.concatenate(parts) if parts else np.array([], dtype=np.int64) for column, parts in columns.items()
    }
    texts = {column: pd.array(values, dtype="str").take(flat[column]) for column, values in names.items()}
    return pd.DataFrame(flat | texts)
