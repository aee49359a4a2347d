"""One model from all parts: a request with raw ids and review texts in, items with scores and reasons out.

It calls the very functions the pipeline trained and evaluated with: `label_texts`, `pool_for`, a ranker's
`score`, and `fuse`. A packed model is a folder of safetensors, JSON and Parquet and needs no data set to load.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr import weights
from sealr.config import Config, from_dict, to_dict
from sealr.data.tables import read_json, read_table, write_json
from sealr.emotion.backends import pinned
from sealr.emotion.label import Labeller, label_texts
from sealr.emotion.sentiment import CLASS_NAMES
from sealr.rerank.finetune import ADAPTER
from sealr.rerank.llm import AdapterError
from sealr.rerank.prompts import Request
from sealr.rerank.rankers import GenerativeRanker, fuse, order
from sealr.retrieve.candidates import pool_for
from sealr.retrieve.train import Retriever, load

log = logging.getLogger(__name__)
MAX_TOP_K = 1000
MAX_HISTORY = 10_000  # items of one request


class BadRequest(ValueError):
    """The request is malformed; the message tells the caller what to change."""


@dataclass
class _Query:
    """A request after its items and feelings were looked up."""

    user: str | None
    history: list[int] = field(default_factory=list)
    sentiments: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def pack(
    folder: Path, config: Config, weight: float, retriever: Path, finetuned: Path, items: Path, histories: pd.DataFrame
) -> None:
    """Writes a servable folder.

    retriever, finetuned: stage folders. histories: user, items (list of item indices), sentiments (list of ints).
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(
        retriever,
        folder / "retriever",
        ignore=shutil.ignore_patterns("*.parquet", "*.npy", "history.json", "manifest.json", ".*"),
    )
    shutil.copytree(finetuned / ADAPTER, folder / ADAPTER)
    shutil.copy(items, folder / "items.parquet")
    histories.to_parquet(folder / "histories.parquet", index=False)
    if config.registry.include_base:
        shutil.copytree(weights.resolve(config.rerank.base), folder / "base")
    config = replace(config, label=replace(config.label, model=pinned(config.label.model)))
    base = {"base_digest": weights.digest(config.rerank.base)}
    write_json({"config": to_dict(config), "fusion_weight": weight} | base, folder / "model.json")


class Recommender:
    """A loaded model. Thread-safe after loading; requests of one call are ranked together."""

    def __init__(
        self,
        config: Config,
        weight: float,
        retriever: Retriever,
        ranker: GenerativeRanker | None,
        items: pd.DataFrame,
        histories: pd.DataFrame,
    ):
        self.config, self.weight, self.retriever, self.ranker = config, weight, retriever, ranker
        self.labeller = Labeller.from_config(config.label)  # now, so that a missing one fails before the first request
        self.index = {item: i for i, item in enumerate(retriever.items, start=1)}
        titles = dict(zip(items["item"], items["title"], strict=True))
        self.titles = [""] + [t if isinstance(t := titles.get(i), str) and t else i for i in retriever.items]
        self.histories = {u: (list(i), list(s)) for u, i, s in histories.itertuples(index=False)}

    @classmethod
    def load(cls, folder: Path) -> Recommender:
        """Loads a packed folder. Raises weights.WeightsError when the base LLM cannot be had."""
        values = read_json(folder / "model.json")
        config: Config = from_dict(Config, values["config"])
        if (folder / "base").exists():
            config = replace(config, rerank=replace(config.rerank, base=str(folder / "base")))
        weight = values["fusion_weight"]
        if weight and weights.digest(config.rerank.base) != values["base_digest"]:
            raise AdapterError(
                f"{config.rerank.base} is not the same here as where the adapter was trained (another source of the same name); "
                "register the model with registry.include_base=true"
            )
        # A weight of 0 means validation found no use for the LLM: then it is not loaded either
        ranker = GenerativeRanker(config.rerank, config.data.category, folder / ADAPTER) if weight else None
        items = read_table(folder / "items.parquet", "items")
        return cls(config, weight, load(folder / "retriever"), ranker, items, pd.read_parquet(folder / "histories.parquet"))

    def predict(self, frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        """frame: one row a request with ``user`` and/or ``history``. Raises BadRequest with a sentence."""
        top_k = 10 if params.get("top_k") is None else params["top_k"]
        exclude_seen = params.get("exclude_seen") is not False  # null means the default, like a missing one
        if not isinstance(top_k, (int, np.integer)) or not 1 <= top_k <= MAX_TOP_K:
            raise BadRequest(f"top_k must be a whole number from 1 to {MAX_TOP_K}, got {top_k!r}")
        if not {"user", "history"} & set(frame.columns):
            raise BadRequest("a request needs a 'user' (an id) or a 'history' (a list of {item, text or sentiment})")
        queries = [self._query(row, i) for i, row in enumerate(frame.to_dict("records"))]
        answers = self._answer(queries, int(top_k), exclude_seen)
        users = pd.Series([a["user"] for a in answers], dtype=object)  # a string column would turn None into NaN
        return pd.DataFrame(answers).assign(user=users)

    def _query(self, row: dict[str, Any], number: int) -> _Query:
        """Looks up the user's stored history, or reads and labels the one that came with the request."""
        user = row.get("user")
        user = None if user is None or user != user else str(user)
        given = row.get("history")
        query = _Query(user)
        if given is None or (isinstance(given, float) and np.isnan(given)):
            if user in self.histories:
                query.history, query.sentiments = map(list, self.histories[user])
            else:
                query.warnings.append(f"user {user!r} is not known and no history was given: popular items instead")
            return query
        events = _events(given, number)
        known = [e for e in events if str(e["item"]) in self.index]
        if skipped := [str(e["item"]) for e in events if str(e["item"]) not in self.index]:
            query.warnings.append(f"unknown items ignored: {', '.join(skipped[:10])}{' and more' if len(skipped) > 10 else ''}")
        query.history = [self.index[str(e["item"])] for e in known]
        query.sentiments = self._sentiments(known, number)
        if not known:
            query.warnings.append("no known item in the history: popular items instead")
        return query

    def _sentiments(self, events: list[dict[str, Any]], number: int) -> list[int]:
        """The given sentiments; where only a text came, the labeller's class; where neither, 0."""
        values = [_sentiment(e.get("sentiment"), number) for e in events]
        texts = [(i, e["text"]) for i, e in enumerate(events) if values[i] is None and e.get("text")]
        if texts:
            for (i, _), labelled in zip(texts, label_texts([str(t) for _, t in texts], self.labeller), strict=True):
                values[i] = labelled["sentiment"]
        return [v or 0 for v in values]

    def _answer(self, queries: list[_Query], top_k: int, exclude_seen: bool) -> list[dict[str, Any]]:
        size = max(top_k, self.config.rerank.candidates)
        pools = [pool_for(self.retriever, q.history, size, exclude_seen) for q in queries]  # (ids, scores) each
        shown = self.config.rerank.candidates  # the LLM sees as many candidates as it was trained on
        requests = [Request(q.history, q.sentiments, ids[:shown].tolist()) for q, (ids, _) in zip(queries, pools, strict=True)]
        asked = [i for i, q in enumerate(queries) if q.history and self.ranker is not None]
        scored = self.ranker.score([requests[i] for i in asked]) if asked else []
        llm = {i: s.values for i, s in zip(asked, scored, strict=True)}
        answers = []
        for i, (query, (ids, scores)) in enumerate(zip(queries, pools, strict=True)):
            head = fuse(scores[:shown], llm[i], self.weight) if i in llm else np.asarray(scores[:shown], dtype=np.float64)
            ranked = order(head)[:top_k]
            positions = [*ranked, *range(len(head), min(len(ids), top_k))]  # beyond the LLM's pool: retriever order
            tail = head.min() - 1 - np.arange(len(positions)) if len(head) else np.array([])
            llm_places = {int(p): place for place, p in enumerate(order(llm[i]), start=1)} if i in llm else {}
            answers.append(
                {
                    "user": query.user,
                    "items": [self.retriever.items[ids[p] - 1] for p in positions],
                    "titles": [self.titles[ids[p]] for p in positions],
                    "scores": [round(float(head[p] if p < len(head) else tail[n]), 5) for n, p in enumerate(positions)],
                    "reasons": [self._reason(query, int(ids[p]), p + 1, llm_places.get(int(p))) for p in positions],
                    "warnings": query.warnings,
                }
            )
        return answers

    def _reason(self, query: _Query, item: int, place: int, llm_place: int | None) -> str:
        """What speaks for an item: the most similar thing in the history, how it felt, and both rankers' places."""
        if not query.history:
            return f"popular: number {place} among all users"
        nearest = int(np.argmax(self.retriever.similarity(item, query.history)))
        feeling = CLASS_NAMES[query.sentiments[nearest]].lower()
        places = f"retriever #{place}" + (f", LLM #{llm_place}" if llm_place else "")
        return f"closest to {self.titles[query.history[nearest]]!r} in your history (felt {feeling}); {places}"


def _events(given: Any, number: int) -> list[dict[str, Any]]:
    if isinstance(given, str):
        try:
            given = json.loads(given)  # a CSV request can only carry the history as JSON text
        except json.JSONDecodeError:
            raise BadRequest(
                f"request {number}: history must be a list of objects like {{'item': 'B000', 'text': 'Great!'}}"
            ) from None
    if not isinstance(given, (list, np.ndarray)) or not all(isinstance(e, dict) and e.get("item") is not None for e in given):
        raise BadRequest(
            f"request {number}: history must be a list of objects like {{'item': 'B000', 'text': 'Great!'}}, each with an item"
        )
    if len(given) > MAX_HISTORY:
        raise BadRequest(
            f"request {number}: history has {len(given)} items, at most {MAX_HISTORY} are read; send the most recent ones"
        )
    return list(given)


def _sentiment(value: Any, number: int) -> int | None:
    if value is None or value != value:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)) or value not in (-2, -1, 0, 1, 2):
        raise BadRequest(
            f"request {number}: sentiment must be a whole number from -2 (strong negative) to 2 (strong positive), got {value!r}"
        )
    return int(value)
