"""Re-ranks the evaluation users' pools: fuses LLM and retriever, adds satisfaction, and writes the lists.

Splits of the rankings table: ``valid``, ``gate`` and ``test`` hold the retriever's own pools; ``injected`` holds the
test pools with the target inserted (the paper's protocol). For validation and gate users, only pools that contain their
target are ranked, because no weight can help the others. Gate users get the served list alone, after every choice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr.data.manifest import CHECKPOINT, StageResult
from sealr.data.sequences import Sequences
from sealr.data.tables import atomic_path, write_json, write_table
from sealr.evaluate.protocols import RETRIEVER
from sealr.evaluate.statistics import shown
from sealr.progress import progress_bar
from sealr.rerank.rankers import Ranker, Scored, fuse, order, tune_weight
from sealr.rerank.requests import Pools, RerankInput, inject, ranking_request
from sealr.rerank.satisfying import Lists, choose, known
from sealr.satisfaction.learn import Forecast

log = logging.getLogger(__name__)
FUSED, GLAD = "fused", "fused + satisfaction"  # names of rankings


def rerank(
    ranker: Ranker,
    rows: Sequence[int],
    valid_rows: Sequence[int],
    sequences: Sequences,
    feelings: np.ndarray,
    pools: Pools,
    batch: int,
    folder: Path,
    forecast: Forecast | None = None,
    liked: np.ndarray | None = None,
    gate_rows: Sequence[int] = (),
) -> StageResult:
    """Writes ``rankings.parquet`` (rankers: retriever, the LLM, fused, and with satisfaction) and ``fusion.json``.

    rows, valid_rows, gate_rows: of ``sequences.users``; the first are ranked for test, the second tune the weights,
    the third judge the result.
    feelings: (interactions, 2), aligned with ``sequences.flat``. batch: users per checkpoint. forecast: adds
    satisfaction to the scores; None: no such ranking. liked (interactions,): 1, 0 or NaN, needed with a forecast. The
    metric ``seconds_a_list`` is measured on test lists only: injected lists reuse cached work.
    """
    timed = Timed(ranker)
    tuning, valid, targets = _retrieved("valid", valid_rows, sequences, feelings, pools)
    valid_llm = score_parts(ranker, valid, folder, "valid", batch)
    weight, tried, gain = tune_weight(valid, [s.values for s in valid_llm], targets, len(valid_rows))
    text = "fusion weight %.2f: validation NDCG@10 %.4f, retriever alone %.4f, cross-fitted gain %s, over %d users"
    log.info(text, weight, tried[weight], tried[0.0], shown(*gain), len(valid_rows))

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

    judging, gate, _ = _retrieved("gate", gate_rows, sequences, feelings, pools)
    # At weight 0 the LLM is not asked, as in service
    gate_llm = score_parts(ranker, gate, folder, "gate", batch) if weight else [_silent(r) for r in gate]

    made = {
        "valid": (tuning, valid, valid_llm),
        "gate": (judging, gate, gate_llm),
        "test": (rows, test, test_llm),
        "injected": (rows, injected, injected_llm),
    }
    lists = {name: _fused("test" if name == "injected" else name, *part, weight) for name, part in made.items()}
    fusion: dict[str, Any] = {"weight": weight, "gain": known(gain), "satisfaction_weight": 0.0}
    glad: dict[str, list[np.ndarray]] = {}
    if forecast is not None and liked is not None:
        fusion |= choose(forecast, liked, sequences, lists["valid"], valid_rows, lists["test"], folder)
        log.info(fusion["satisfaction_in_words"])
        for name, part in lists.items():
            felt = part.satisfaction(forecast.model, forecast.stars, sequences)
            glad[name] = [s + fusion["satisfaction_weight"] * f for s, f in zip(part.scores, felt, strict=True)]
    frames = []
    for name, (asked_rows, requests, llm) in made.items():
        rankings = {RETRIEVER: [np.asarray(r.pool_scores) for r in requests], ranker.name: [s.values for s in llm]}
        served = {FUSED: list(lists[name].scores)} | ({GLAD: glad[name]} if glad else {})
        rankings = served if name == "gate" else rankings | served
        frames.append(_table(sequences, asked_rows, requests, rankings).assign(split=name))
    write_table(pd.concat(frames, ignore_index=True), folder / "rankings.parquet", "rankings")
    fusion |= {
        "validation_ndcg_at_10": {str(w): value for w, value in tried.items()},
        "validity": float(np.mean([s.validity for s in [*valid_llm, *test_llm, *new_scores]])),
        "validation_users": [sequences.users[row] for row in valid_rows],
        "gate_users": [sequences.users[row] for row in gate_rows],
        "test_users": [sequences.users[row] for row in rows],
    }
    write_json(fusion, folder / "fusion.json")
    metrics = {
        "fusion_weight": weight,
        "satisfaction_weight": fusion["satisfaction_weight"],
        "valid_ndcg@10": tried[weight],
        "valid_ndcg@10_retriever": tried[0.0],
    }
    if timed.lists:
        metrics["seconds_a_list"] = timed.seconds / timed.lists
    ranked = len(valid) + len(test) + len(missed) + (len(gate) if weight else 0)
    users = {"test_users": len(rows), "valid_users": len(valid_rows), "gate_users": len(gate_rows)}
    return StageResult(users | {"lists_generated": ranked}, metrics)


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
    """`ranker.score` in parts of ``size`` requests. Finished parts are kept, so an interrupted run continues.

    Raises FloatingPointError on a score that is not finite: it would be behind all others, or break every order.
    """
    scores: list[Scored] = []
    bar = progress_bar(label=f"re-rank {name}", unit="users", total=len(requests))
    for start in range(0, len(requests), size):
        part = requests[start : start + size]
        path = folder / CHECKPOINT / f"{name}-{start:07d}.npz"
        if path.exists():
            with np.load(path) as saved:
                done = [Scored(saved[f"values{i}"], float(saved["validity"][i])) for i in range(len(part))]
        else:
            done = ranker.score(part)
            if broken := sum(not np.isfinite(scored.values).all() for scored in done):
                raise FloatingPointError(
                    f"the LLM gave {broken} of {len(part)} users scores that are not numbers, so its weights are "
                    "broken: lower rerank.lr and train it again"
                )
            values = {f"values{i}": scored.values for i, scored in enumerate(done)}
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, validity=[scored.validity for scored in done], **values)  # type: ignore[arg-type]
        scores += done
        bar.update(len(part))
    bar.close()
    return scores


def _retrieved(
    split: str, rows: Sequence[int], sequences: Sequences, feelings: np.ndarray, pools: Pools
) -> tuple[list[int], list[RerankInput], list[int]]:
    """Rows, requests and targets of the users whose target is in their pool."""
    wanted = dict(zip(rows, sequences.targets(split, rows).tolist(), strict=True))
    asked = {row: ranking_request(row, split, sequences, feelings, pools) for row in rows}
    found = [row for row in rows if wanted[row] in asked[row].pool]
    return found, [asked[row] for row in found], [wanted[row] for row in found]


def _silent(request: RerankInput) -> Scored:
    """Scores that change no order."""
    return Scored(np.zeros(len(request.pool), dtype=np.float32))


def _fused(
    split: str, rows: Sequence[int], requests: Sequence[RerankInput], llm: Sequence[Scored], weight: float
) -> Lists:
    scores = [fuse(np.asarray(r.pool_scores), s.values, weight) for r, s in zip(requests, llm, strict=True)]
    return Lists(split, rows, requests, scores)


def _table(
    sequences: Sequences,
    rows: Sequence[int],
    requests: Sequence[RerankInput],
    rankings: Mapping[str, Sequence[np.ndarray]],
) -> pd.DataFrame:
    """The rankings of every request. rankings: name -> scores (C,) of each request."""
    names = {"user": sequences.users, "item": sequences.items, "ranker": list(rankings)}
    columns: dict[str, list[np.ndarray]] = {column: [] for column in ("user", "item", "rank", "score", "ranker")}
    for row, request, *scores in zip(rows, requests, *rankings.values(), strict=True):
        pool = np.asarray(request.pool)
        for ranker, values in enumerate(scores):
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
