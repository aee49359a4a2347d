"""One model from all parts: a request with raw item ids and review texts in, items with scores and reasons out.

It calls the functions that the pipeline trained and evaluated with: `label_texts`, `pools_for`, a ranker's ``score``
and `fuse`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sealr import weights
from sealr.config import from_dict
from sealr.data.tables import read_json, read_table
from sealr.emotion.label import label_texts
from sealr.emotion.labeller import Labeller, labeller_id
from sealr.emotion.sentiment import CLASS_NAMES
from sealr.rerank.llm import ADAPTER, AdapterError
from sealr.rerank.rankers import Ranker, fuse, load_ranker, order
from sealr.rerank.requests import RerankInput
from sealr.retrieve.candidates import pools_for, scores_of
from sealr.retrieve.models.fusion import standardise
from sealr.retrieve.retriever import Retriever, load
from sealr.serving.request import ApiRequest, BadRequest, Event, Limits, Options, read, short
from sealr.settings import Config

__all__ = ["BadRequest", "Recommender"]
log = logging.getLogger(__name__)
EXPLAINED = 20  # newest items of a history that an explanation leaves out in turn
COLUMNS = ["user", "items", "titles", "scores", "reasons", "warnings"]  # of an answer
UNKNOWN = (np.nan, np.nan)  # feelings about an item without a label


@dataclass
class ResolvedRequest:
    """A request with its items looked up, and feelings as `sealr.emotion.feelings` gives them."""

    user: str | None
    history: list[int] = field(default_factory=list)  # item indices, oldest first
    feelings: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.float32))  # (H, 2)
    warnings: list[str] = field(default_factory=list)

    def without(self, place: int) -> ResolvedRequest:
        """The same request with one item left out of the history."""
        kept = self.history[:place] + self.history[place + 1 :]
        return ResolvedRequest(self.user, kept, np.delete(self.feelings, place, axis=0))


class Recommender:
    """A loaded model. Thread-safe; all requests of a call are ranked together."""

    def __init__(
        self,
        config: Config,
        weight: float,
        retriever: Retriever,
        ranker: Ranker | None,
        items: pd.DataFrame,
        histories: pd.DataFrame,
    ):
        self.config, self.weight, self.retriever, self.ranker = config, weight, retriever, ranker
        self.labeller = Labeller.from_config(config.label)  # here: a missing one fails before the first request
        titles = dict(zip(items["item"], items["title"], strict=True))
        self.titles = [""] + [t if isinstance(t := titles.get(i), str) and t else i for i in retriever.items]
        self.histories = {
            user: (list(items), np.stack(feelings, axis=1).astype(np.float32))
            for user, items, *feelings in histories.itertuples(index=False)
        }

    @classmethod
    def load(cls, folder: Path) -> Recommender:
        """Loads a packed folder. Raises weights.WeightsError when the base LLM is not available, or AdapterError."""
        values = read_json(folder / "model.json")
        config: Config = from_dict(Config, values["config"])
        if (folder / "base").exists():
            config = replace(config, rerank=replace(config.rerank, base=str(folder / "base")))
        weight = values["fusion_weight"]
        if weight and weights.digest(config.rerank.base) != values["base_digest"]:
            raise AdapterError(
                f"{config.rerank.base} is not the model that the adapter was trained on (another source of the same "
                "name); register the model with registry.include_base=true"
            )
        if (here := labeller_id(config.label)) != (then := values["labeller"]):
            log.warning("requests are labelled by %s, the model's data by %s: feelings may differ", here, then)
        items = read_table(folder / "items.parquet", "items")
        # At weight 0 the LLM was of no use on validation, so it is not loaded
        ranker = load_ranker(config.rerank, config.data.category, folder / ADAPTER, items) if weight else None
        histories = pd.read_parquet(folder / "histories.parquet")
        return cls(config, weight, load(folder / "retriever"), ranker, items, histories)

    def predict(self, frame: pd.DataFrame, params: Mapping[str, Any], limits: Limits | None = None) -> pd.DataFrame:
        """One row (COLUMNS) for each request, a row with ``user`` and/or ``history``. Raises BadRequest.

        limits: None for batch scoring.
        """
        requests, options = read(frame, params, limits, self.config.retrieve.exclude_seen)
        answers = self.recommend(self.resolve(requests), options)
        users = pd.Series([a["user"] for a in answers], dtype=object)  # a string column would turn None into NaN
        return pd.DataFrame(answers, columns=COLUMNS).assign(user=users)

    def resolve(self, requests: Sequence[ApiRequest]) -> list[ResolvedRequest]:
        """Looks up stored histories, and reads those of the requests; all their texts are labelled together."""
        known = [[e for e in r.history or () if e.item in self.retriever.item_to_id] for r in requests]
        texts = [e.text for events in known for e in events if e.text and e.sentiment is None]
        labels = iter(label_texts(texts, self.labeller) if texts else ())
        return [self._resolve(r, events, labels) for r, events in zip(requests, known, strict=True)]

    def _resolve(self, request: ApiRequest, known: list[Event], labels: Iterator[dict[str, Any]]) -> ResolvedRequest:
        """known: events of items in the catalogue. labels: of their texts, in order."""
        if request.history is None:
            if request.user in self.histories:
                return ResolvedRequest(request.user, *self.histories[request.user])
            who = "no user" if request.user is None else f"user {short(request.user)} is not known"
            return ResolvedRequest(request.user, warnings=[f"{who} and no history was given: popular items instead"])
        resolved = ResolvedRequest(request.user, [self.retriever.item_to_id[e.item] for e in known])
        resolved.feelings = np.array([_feeling(e, labels) for e in known], dtype=np.float32).reshape(-1, 2)
        if unknown := [short(e.item)[1:-1] for e in request.history if e.item not in self.retriever.item_to_id]:
            more = " and more" if len(unknown) > 10 else ""
            resolved.warnings.append(f"unknown items ignored: {', '.join(unknown[:10])}{more}")
        if not known:
            resolved.warnings.append("no known item in the history: popular items instead")
        return resolved

    def recommend(self, queries: Sequence[ResolvedRequest], options: Options) -> list[dict[str, Any]]:
        """An answer with the keys COLUMNS for each query."""
        shown = self.config.rerank.n_reranked  # the LLM sees as many candidates as in training
        histories, feelings = [q.history for q in queries], [q.feelings for q in queries]
        count = max(options.top_k, shown)
        pools = list(pools_for(self.retriever, histories, count, options.exclude_seen, feelings))  # (ids, scores) each
        heads = self._rank(queries, [(ids[:shown], scores[:shown]) for ids, scores in pools])
        answers = []
        for query, (ids, _), (head, llm) in zip(queries, pools, heads, strict=True):
            ranked = order(head)[: options.top_k]
            # Beyond the LLM's candidates, items keep the retriever's order
            positions = [*ranked, *range(len(head), min(len(ids), options.top_k))]
            tail = head.min() - 1 - np.arange(len(positions)) if len(head) else np.array([])
            llm_places = {} if llm is None else {int(p): place for place, p in enumerate(order(llm), start=1)}
            effects = self._leave_one_out_effects(query, ids[:shown], head) if options.explain and len(head) else None
            reasons = [self._reason(query, int(ids[p]), int(p), llm_places.get(int(p)), effects) for p in positions]
            answers.append(
                {
                    "user": query.user,
                    "items": [self.retriever.items[ids[p] - 1] for p in positions],
                    "titles": [self.titles[ids[p]] for p in positions],
                    "scores": [round(float(head[p] if p < len(head) else tail[n]), 5) for n, p in enumerate(positions)],
                    "reasons": reasons,
                    "warnings": query.warnings,
                }
            )
        return answers

    def _rank(
        self, queries: Sequence[ResolvedRequest], pools: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Final scores of each query's candidates and the LLM's, None where it is not asked; (C,) each.

        pools: item indices and the retriever's scores.
        """
        asked = [i for i, q in enumerate(queries) if q.history and len(pools[i][0]) and self.ranker is not None]
        requests = [RerankInput(queries[i].history, queries[i].feelings, pools[i][0].tolist()) for i in asked]
        scored = self.ranker.score(requests) if self.ranker and asked else []
        llm = {i: s.values for i, s in zip(asked, scored, strict=True)}
        return [
            (fuse(scores, llm[i], self.weight), llm[i]) if i in llm else (np.asarray(scores, dtype=np.float64), None)
            for i, (_, scores) in enumerate(pools)
        ]

    def _leave_one_out_effects(self, query: ResolvedRequest, ids: np.ndarray, head: np.ndarray) -> np.ndarray | None:
        """(H, C): by how much each item of the history raises each candidate's final score.

        Each of the newest EXPLAINED items is left out in turn, all in one batch. None where the history has one item.
        """
        if len(query.history) < 2:
            return None
        first = max(0, len(query.history) - EXPLAINED)
        left = [query.without(place) for place in range(first, len(query.history))]
        scores = scores_of(self.retriever, [q.history for q in left], ids, [q.feelings for q in left])  # (H, C)
        others = np.stack([final for final, _ in self._rank(left, [(ids, row) for row in scores])])
        if self.ranker is None:  # else the scores are sums of z-scores already
            head, others = (standardise(torch.from_numpy(s)).numpy() for s in (head, others))
        effects = np.zeros((len(query.history), len(ids)))
        effects[first:] = head - others
        return effects

    def _reason(
        self, query: ResolvedRequest, item: int, position: int, llm_place: int | None, effects: np.ndarray | None
    ) -> str:
        """The history items that raised the score most, or the most similar one, and the places in both rankings."""
        if not query.history:
            return f"popular: number {position + 1} among all users"
        places = f"retriever #{position + 1}" + (f", LLM #{llm_place}" if llm_place else "")
        if effects is not None and position < effects.shape[1]:
            column = effects[:, position]
            strongest = [i for i in np.argsort(-column, kind="stable")[:2] if column[i] > 0]
            if strongest:
                return f"because of {' and '.join(self._describe_item(query, i) for i in strongest)}; {places}"
            return f"in spite of {self._describe_item(query, int(column.argmin()))}; {places}"
        recent = query.history[-self.config.retrieve.max_len :]  # what the retriever read
        nearest = int(np.argmax(self.retriever.similarity(item, recent))) - len(recent)
        return f"closest to {self._describe_item(query, nearest)}; {places}"

    def _describe_item(self, query: ResolvedRequest, place: int) -> str:
        title, sentiment = self.titles[query.history[place]], query.feelings[place, 0]
        return repr(title) if np.isnan(sentiment) else f"{title!r} (felt {CLASS_NAMES[int(sentiment)].lower()})"


def _feeling(event: Event, labels: Iterator[dict[str, Any]]) -> tuple[float | None, float | None]:
    """Class and expected sentiment: a given sentiment stands for both, else the next label is the text's."""
    if event.sentiment is not None:
        return event.sentiment, event.sentiment
    if not event.text:
        return UNKNOWN
    label = next(labels)
    return label["sentiment"], label["expected"]  # None becomes NaN
