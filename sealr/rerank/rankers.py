"""The ranker interface, the three rankers, and the fusion of LLM and retriever.

A ranker scores every candidate of a request, higher is better; `order` turns scores into a ranking.
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
from numpy.typing import ArrayLike

from sealr.evaluate.crossfit import best, held_out_gain
from sealr.evaluate.metrics import ndcg, validity
from sealr.evaluate.statistics import Interval
from sealr.rerank.generative.decoding import generate_lists
from sealr.rerank.generative.finetune import Encoder
from sealr.rerank.generative.palr import NameEncoder
from sealr.rerank.llm import load_adapter, load_tokenizer
from sealr.rerank.requests import RerankInput
from sealr.rerank.scoring.model import load_model
from sealr.retrieve.models.fusion import standardise
from sealr.retrieve.retriever import pad
from sealr.settings import RerankConfig

LLM_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)  # fusion weights tried on validation


@dataclass(frozen=True)
class Scored:
    """A ranker's answer to one request."""

    values: np.ndarray  # (C,) float scores of the pool, higher is better
    validity: float = 1.0  # share of the written items that are candidates and not repeated


class Ranker(Protocol):
    name: str

    def score(self, requests: Sequence[RerankInput]) -> list[Scored]: ...


class GenerativeRanker:
    """The paper's re-ranker: Figure 3's prompt, then a generated list of encoded ids, constrained to the pool.

    Scores are list positions: ``top_k`` for the first item down to 1, and 0 for candidates that are not in the list.
    """

    name = "generative"

    def __init__(self, config: RerankConfig, encoder: Encoder, adapter: Path):
        self.config, self.encoder = config, encoder
        self.model = load_adapter(config, adapter)

    def score(self, requests: Sequence[RerankInput]) -> list[Scored]:
        return self._lists(self._seen(requests))

    def _seen(self, requests: Sequence[RerankInput]) -> Sequence[RerankInput]:
        """With ``rerank.eval_history: paper``, histories end where those of training prompts do."""
        return requests if self.config.eval_history == "whole" else [r.without_newest() for r in requests]

    def _lists(self, requests: Sequence[RerankInput]) -> list[Scored]:
        scores = []
        for start in range(0, len(requests), self.config.decode_batch):
            batch = requests[start : start + self.config.decode_batch]
            prompts, pools = [self.encoder.prompt(r) for r in batch], [list(r.pool) for r in batch]
            lists = generate_lists(self.model, self.encoder.ids, prompts, pools, self.config.top_k, self.encoder.pad)
            for items, pool in zip(lists, pools, strict=True):
                points = {item: len(items) - i for i, item in enumerate(items)}
                valid = float(validity(np.array([items]), np.array([pool]))[0])
                scores.append(Scored(np.array([points.get(item, 0) for item in pool], dtype=np.float32), valid))
        return scores


class PalrRanker(GenerativeRanker):
    """The PALR baseline: scores as above, for lists of names and a prompt with a written preference."""

    name = "palr"

    def __init__(self, config: RerankConfig, encoder: Encoder, adapter: Path):
        super().__init__(config, encoder, adapter)
        self._lock = threading.Lock()  # while a preference is written, the adapter is disabled for all threads

    def score(self, requests: Sequence[RerankInput]) -> list[Scored]:
        seen = self._seen(requests)
        with self._lock:
            with self.model.disable_adapter():
                self.encoder.prepare(seen, lambda: self.model)
            return self._lists(seen)


class ScoringRanker:
    """Our re-ranker: items and feelings as soft tokens; one pass scores all candidates (`sealr.rerank.scoring.model`).

    Scores are logits of the candidate being next, all 0 for an empty history.
    """

    name = "scoring"

    def __init__(self, config: RerankConfig, category: str, adapter: Path):
        self.config = config
        self.model = load_model(config, load_adapter(config, adapter), category, adapter)
        with torch.inference_mode():
            self.table = self.model.tokens.table()  # (n_items + 1, D)

    @torch.inference_mode()
    def score(self, requests: Sequence[RerankInput]) -> list[Scored]:
        longest, device = self.config.max_history, self.table.device
        newest = [request.newest(longest) for request in requests]
        scores = [Scored(np.zeros(len(request.pool), dtype=np.float32)) for request in requests]
        by_length = sorted((i for i, (items, _) in enumerate(newest) if len(items)), key=lambda i: len(newest[i][0]))
        for start in range(0, len(by_length), self.config.decode_batch):
            batch = by_length[start : start + self.config.decode_batch]
            items = pad([np.asarray(newest[i][0], dtype=np.int64) for i in batch], longest).to(device)  # (B, T)
            feelings = pad([newest[i][1] for i in batch], longest).to(device)  # (B, T, 2)
            queries = self.model.last(items, feelings)  # (B, D)
            for i, query in zip(batch, queries, strict=True):
                pool = torch.as_tensor(np.asarray(requests[i].pool, dtype=np.int64), device=device)
                scores[i] = Scored((self.table[pool] @ query).float().cpu().numpy())
        return scores


def load_ranker(
    config: RerankConfig, category: str, folder: Path, items: pd.DataFrame, preferences: Path | None = None
) -> Ranker:
    """The configured ranker with the adapter in ``folder``.

    items: the items table, for the ranker that writes names. preferences: its folder of written preferences, or None.
    """
    if config.ranker == "scoring":
        return ScoringRanker(config, category, folder)
    encoder = load_encoder(config, category, items, preferences)
    return (PalrRanker if config.ranker == "palr" else GenerativeRanker)(config, encoder, folder)


def load_encoder(config: RerankConfig, category: str, items: pd.DataFrame, preferences: Path | None = None) -> Encoder:
    """What writes the prompts of a ranker that generates lists. Arguments as for `load_ranker`."""
    tokenizer = load_tokenizer(config.base)
    if config.ranker == "palr":
        return NameEncoder(tokenizer, config, category, items, preferences)
    return Encoder(tokenizer, config, category)


def fuse(retriever: np.ndarray, llm: np.ndarray, weight: float) -> np.ndarray:
    """z(retriever) + weight * z(llm) over one pool, all (C,); z is 0 where all scores are equal."""
    return _z_scores(retriever) + weight * _z_scores(llm)


def _z_scores(scores: ArrayLike) -> np.ndarray:
    return standardise(torch.as_tensor(scores, dtype=torch.float64)).numpy()


def order(scores: np.ndarray) -> np.ndarray:
    """Indices of a pool, best first; ties keep the retriever's order."""
    return np.argsort(-np.asarray(scores), kind="stable")


def tune_weight(
    requests: Sequence[RerankInput], llm: Sequence[np.ndarray], targets: Sequence[int], users: int
) -> tuple[float, dict[float, float], Interval]:
    """The fusion weight to use, the validation NDCG@10 of each weight tried, and the gain that decides.

    requests: those whose pool holds the target; the other ``users - len(requests)`` users are misses at any weight.
    The gain over the retriever alone is cross-fitted. Unless its 95 % interval is above 0, the weight is 0, because
    with few users some weight always looks better. Otherwise it is the best on all users.
    """
    z_scores = [(_z_scores(r.pool_scores), _z_scores(scores)) for r, scores in zip(requests, llm, strict=True)]
    values = np.zeros((len(LLM_WEIGHTS), max(1, users)))  # users without a request come last
    for row, weight in enumerate(LLM_WEIGHTS):
        ranks = [
            target_rank(retriever + weight * scores, request.pool, target)
            for (retriever, scores), request, target in zip(z_scores, requests, targets, strict=True)
        ]
        values[row, : len(ranks)] = ndcg(np.array(ranks), 10)
    tried = dict(zip(LLM_WEIGHTS, values.mean(axis=1).tolist(), strict=True))
    gain = held_out_gain(values, LLM_WEIGHTS.index(0.0))
    return (LLM_WEIGHTS[best(values)] if gain[1] > 0 else 0.0), tried, gain


def target_rank(scores: np.ndarray, pool: Sequence[int], target: int) -> float:
    """1-based rank of the target in the pool; infinity if it is not in the pool."""
    found = np.flatnonzero(np.asarray(pool)[order(scores)] == target)
    return float(found[0] + 1) if len(found) else np.inf
