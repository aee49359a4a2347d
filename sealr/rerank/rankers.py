"""The ranker interface, the three rankers, and the fusion of LLM and retriever.

A ranker gives every candidate of a request a score, higher is better; an order is read off with `order`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from sealr.evaluate.metrics import ndcg, validity
from sealr.evaluate.statistics import paired_bootstrap
from sealr.rerank.generative.finetune import Encoder
from sealr.rerank.generative.decoding import generate_lists
from sealr.rerank.scoring.model import load_model
from sealr.rerank.llm import load_adapter, load_tokenizer
from sealr.rerank.generative.palr import NameEncoder, item_names
from sealr.rerank.generative.prompts import RerankInput
from sealr.rerank.requests import feelings_of
from sealr.retrieve.retriever import pad
from sealr.settings import RerankConfig

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)  # fusion weights tried on validation


@dataclass(frozen=True)
class Scored:
    """A ranker's answer to one request."""

    values: np.ndarray  # (C,) float, aligned with the pool, higher is better
    validity: float = 1.0  # share of the items the ranker named that are candidates and not repeated


class Ranker(Protocol):
    name: str

    def score(self, requests: Sequence[RerankInput]) -> list[Scored]: ...


class GenerativeRanker:
    """The paper's re-ranker: Figure 3's prompt, then a generated list of encoded ids, constrained to the pool.

    Scores are list positions: ``top_k`` for the first item down to 1, 0 for candidates that were not written.
    """

    name = "generative"

    def __init__(self, config: RerankConfig, category: str, adapter: Path):
        self.config = config
        self.encoder = Encoder(load_tokenizer(config.base), config, category)
        self.model = load_adapter(config, adapter)

    def score(self, requests: Sequence[RerankInput]) -> list[Scored]:
        scores = []
        for start in range(0, len(requests), self.config.decode_batch):
            batch = requests[start : start + self.config.decode_batch]
            prompts = [self.encoder.prompt(r) for r in batch]
            pools = [list(r.pool) for r in batch]
            lists = generate_lists(self.model, self.encoder.ids, prompts, pools, self.config.top_k, self.encoder.pad)
            for written, pool in zip(lists, pools, strict=True):
                place = {item: len(written) - i for i, item in enumerate(written)}
                share = validity(np.array([written]), np.array([pool]))[0]
                scores.append(Scored(np.array([place.get(item, 0) for item in pool], dtype=np.float32), float(share)))
        return scores


class PalrRanker(GenerativeRanker):
    """The PALR baseline: the same list of positions, over names, from a prompt with a written preference.

    items: the items table. cache: folder of preferences written before; None keeps them in memory.
    """

    name = "palr"

    def __init__(self, config: RerankConfig, category: str, adapter: Path, items: pd.DataFrame, cache: Path | None = None):
        self.config = config
        self.encoder = NameEncoder(load_tokenizer(config.base), config, category, item_names(items), cache)
        self.model = load_adapter(config, adapter)
        self._alone = threading.Lock()  # the adapter is off for all threads while a preference is written

    def score(self, requests: Sequence[RerankInput]) -> list[Scored]:
        with self._alone:
            with self.model.disable_adapter():
                self.encoder.preferences.write(requests, lambda: self.model)
            return super().score(requests)


class ScoringRanker:
    """Ours: items and feelings as soft tokens, and one pass that scores all candidates (`sealr.rerank.scoring.model`).

    Scores are logits of the candidate being next.
    """

    name = "scoring"

    def __init__(self, config: RerankConfig, category: str, adapter: Path):
        self.config = config
        self.model = load_model(config, load_adapter(config, adapter), category, adapter)
        with torch.inference_mode():
            self.table = self.model.tokens.table()

    @torch.inference_mode()
    def score(self, requests: Sequence[RerankInput]) -> list[Scored]:
        histories = [np.asarray(r.history[-self.config.max_history :], dtype=np.int64) for r in requests]
        scores: list[Scored] = [Scored(np.zeros(len(r.pool), dtype=np.float32)) for r in requests]  # of an empty history
        by_length = [i for i in sorted(range(len(requests)), key=lambda i: len(histories[i])) if len(histories[i])]
        for start in range(0, len(by_length), self.config.decode_batch):
            batch = by_length[start : start + self.config.decode_batch]
            items = pad([histories[i] for i in batch], self.config.max_history)  # (B, T)
            felt = None
            if self.config.sentiment != "none":
                felt = pad([_feelings(requests[i], len(histories[i])) for i in batch], self.config.max_history)
            queries = self.model.last(items.to(self.table.device), None if felt is None else felt.to(self.table.device))
            for i, query in zip(batch, queries, strict=True):
                pool = torch.as_tensor(np.asarray(requests[i].pool, dtype=np.int64), device=self.table.device)
                scores[i] = Scored((self.table[pool] @ query).float().cpu().numpy())
        return scores


def _feelings(request: RerankInput, count: int) -> np.ndarray:
    """(count, 2) class and expected sentiment of the newest items; NaN where a review has no label."""
    return feelings_of(request.sentiments[-count:], (request.expected or request.sentiments)[-count:])


def load_ranker(
    config: RerankConfig, category: str, folder: Path, items: pd.DataFrame, preferences: Path | None = None
) -> Ranker:
    """The configured ranker from its adapter's folder.

    items: the items table, for the ranker that writes names. preferences: folder of those it wrote before; None: keep none.
    """
    if config.ranker == "palr":
        return PalrRanker(config, category, folder, items, preferences)
    return ScoringRanker(config, category, folder) if config.ranker == "scoring" else GenerativeRanker(config, category, folder)


def standardise(scores: np.ndarray) -> np.ndarray:
    """z-scores over one pool; all zeros where the scores are constant."""
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)


def fuse(retriever: np.ndarray, llm: np.ndarray, weight: float) -> np.ndarray:
    """z(retriever) + weight * z(llm), both (C,)."""
    return standardise(np.asarray(retriever, dtype=np.float64)) + weight * standardise(np.asarray(llm, dtype=np.float64))


def order(scores: np.ndarray) -> np.ndarray:
    """Indices of a pool, best first; equal scores keep the retriever's order."""
    return np.argsort(-np.asarray(scores), kind="stable")


def tune_weight(
    requests: Sequence[RerankInput], llm: Sequence[np.ndarray], targets: Sequence[int], users: int
) -> tuple[float, dict[float, float]]:
    """The fusion weight to use, and the validation NDCG@10 of each weight tried.

    requests: those whose pool holds the target; the other ``users - len(requests)`` count as misses under any weight.
    The best weight is used only when its gain over the retriever alone is clear of 0 by a paired 95 % interval over the
    validation users, else 0: with few users some weight always looks a little better. It is chosen and tested on the same users, so
    with tens of thousands of them a gain may pass that is smaller, or gone, on others.
    """
    per_user = {}
    for weight in WEIGHTS:
        values = np.zeros(max(1, users))  # (users,), the ones without a request last
        ranks = [
            target_rank(fuse(np.asarray(r.pool_scores), s, weight), r.pool, t)
            for r, s, t in zip(requests, llm, targets, strict=True)
        ]
        values[: len(ranks)] = ndcg(np.array(ranks), 10)
        per_user[weight] = values
    tried = {weight: float(values.mean()) for weight, values in per_user.items()}
    best = max(tried, key=lambda weight: (tried[weight], -weight))
    _, low, _ = paired_bootstrap(per_user[best], per_user[0.0])
    return (best if low > 0 else 0.0), tried


def target_rank(scores: np.ndarray, pool: Sequence[int], target: int) -> float:
    """1-based rank of target in the pool ordered by scores; infinity when it is not in the pool."""
    ordered = np.asarray(pool)[order(scores)]
    found = np.flatnonzero(ordered == target)
    return float(found[0] + 1) if len(found) else np.inf
