"""One model from all parts: a request with raw item ids and review texts in, items with scores and reasons out.

It calls the functions that the pipeline trained and evaluated with: `label_texts`, `pools_for`, a ranker's ``score``,
`fuse` and `Satisfaction.standardised`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sealr.data.tables import read_table
from sealr.emotion.label import label_texts
from sealr.emotion.labeller import Labeller, labeller_id
from sealr.rerank.llm import ADAPTER
from sealr.rerank.rankers import Ranker, fuse, load_ranker, order
from sealr.rerank.requests import RerankInput
from sealr.retrieve.candidates import pools_for, scores_of
from sealr.retrieve.models.fusion import parts_of, standardise
from sealr.retrieve.retriever import Retriever, load
from sealr.satisfaction.learn import REASONS
from sealr.satisfaction.model import Satisfaction
from sealr.serving.available import Available
from sealr.serving.filters import Catalogue, Mask, Rule, ignored
from sealr.serving.packing import HISTORIES, SATISFACTION, Weights, read_config, read_salt, read_values
from sealr.serving.reasons import Head, Places, Words, others_felt
from sealr.serving.request import ApiRequest, BadRequest, Event, Limits, Options, read, short
from sealr.serving.resolved import ResolvedRequest, label, stars
from sealr.serving.stages import stage
from sealr.settings import Config

__all__ = ["BadRequest", "Recommender", "ResolvedRequest"]
log = logging.getLogger(__name__)
EXPLAINED = 20  # newest items of a history that an explanation leaves out in turn
COLUMNS = ["user", "items", "titles", "scores", "reasons", "warnings"]  # of an answer


class Recommender:
    """A loaded model. Thread-safe; all requests of a call are ranked together."""

    def __init__(
        self,
        config: Config,
        weights: Weights,
        retriever: Retriever,
        ranker: Ranker | None,
        items: pd.DataFrame,
        histories: pd.DataFrame,
        forecast: Satisfaction | None = None,
        item_feelings: pd.DataFrame | None = None,
        stored_as: Callable[[str], str] = str,
    ):
        """forecast, item_feelings: where satisfaction has a weight. Without, ``satisfaction_weight`` has no effect.

        stored_as: a user's id -> the id in ``histories``.
        """
        self.config, self.weights, self.retriever, self.ranker = config, weights, retriever, ranker
        self.forecast, self.stored_as = forecast, stored_as
        self.labeller = Labeller.from_config(config.label)  # here: a missing one fails before the first request
        self.catalogue = Catalogue(retriever.item_to_id, items)
        titles = dict(zip(items["item"], items["title"], strict=True))
        self.titles = [""] + [t if isinstance(t := titles.get(i), str) and t else i for i in retriever.items]
        felt = {} if item_feelings is None else others_felt(item_feelings, retriever.item_to_id)
        self.words = Words(self.titles, felt, _reads_feelings(config, retriever, ranker))
        self.histories = {
            user: (list(items), np.stack(feelings, axis=1).astype(np.float32), np.asarray(stars, np.float32))
            for user, items, *feelings, stars in histories.itertuples(index=False)
        }

    @classmethod
    def load(cls, folder: Path) -> Recommender:
        """Loads a packed folder. Raises FormatError, AdapterError, or WeightsError if the base LLM is not available."""
        values = read_values(folder)
        config, chosen = read_config(folder, values), Weights(**values["weights"])
        if (here := labeller_id(config.label)) != (then := values["labeller"]):
            log.warning("requests are labelled by %s, the model's data by %s: feelings may differ", here, then)
        items = read_table(folder / "items.parquet", "items")
        # At weight 0 the LLM was of no use on validation, so it is not loaded
        ranker = load_ranker(config.rerank, config.data.category, folder / ADAPTER, items) if chosen.llm else None
        histories, glad = pd.read_parquet(folder / HISTORIES), folder / SATISFACTION
        forecast = Satisfaction.load(glad) if chosen.satisfaction else None
        felt = pd.read_parquet(glad / REASONS) if chosen.satisfaction else None
        parts = (config, chosen, load(folder / "retriever"), ranker, items, histories, forecast, felt)
        return cls(*parts, read_salt(values))

    @cached_property
    def popular_place(self) -> np.ndarray:
        """(items + 1,) place of each item by popularity, from 1; filters leave it as it is."""
        places = np.zeros(len(self.titles), dtype=np.int32)
        places[order(self.retriever.popularity)] = np.arange(1, len(places) + 1)
        return places

    @property
    def users(self) -> list[str]:
        """Ids of the users whose histories are stored. Raises BadRequest where the model does not keep them."""
        if self.config.registry.users != "plain":
            raise BadRequest(f"the model keeps no ids (registry.users={self.config.registry.users}): name the users")
        return list(self.histories)

    def knows(self, user: str) -> bool:
        """Whether the user's history is stored."""
        return self.stored_as(user) in self.histories

    def watch(self, path: Path) -> None:
        """From now on, recommends only items that the file lists, unless a request says otherwise (`Available`)."""
        self.catalogue.available = Available(path, self.retriever.item_to_id)

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
        rules = [self.catalogue.rule(r, f"request {number}: ") for number, r in enumerate(requests)]  # may refuse
        with stage("label"):
            labels = iter(label_texts(texts, self.labeller) if texts else ())
        return [self._resolve(*each, labels) for each in zip(requests, rules, known, strict=True)]

    def _resolve(
        self, request: ApiRequest, rule: Rule, known: list[Event], labels: Iterator[dict[str, Any]]
    ) -> ResolvedRequest:
        """known: events of items in the catalogue. labels: of their texts, in order."""
        felt = [label(e, labels) for e in known]
        resolved = ResolvedRequest(request.user, [self.retriever.item_to_id[e.item] for e in known])
        resolved.feelings = np.array([f[:2] for f in felt], dtype=np.float32).reshape(-1, 2)
        calibration = self.forecast.calibration if self.forecast else None
        resolved.stars = stars(known, resolved.feelings[:, 1], [f[2] for f in felt], calibration)
        if unknown := [e.item for e in request.history or () if e.item not in self.retriever.item_to_id]:
            resolved.warnings.append(ignored(unknown))
        if (stored := self.histories.get(self.stored_as(request.user or ""))) and request.user is not None:
            resolved.after(stored)
        elif request.history is None:
            who = "no user" if request.user is None else f"user {short(request.user)} is not known"
            who = "the model keeps no histories of users" if self.config.registry.users == "none" else who
            resolved.warnings.append(f"{who} and no history was given: popular items instead")
        elif not known:
            resolved.warnings.append("no known item in the history: popular items instead")
        resolved.rule = rule
        resolved.warnings += rule.warnings
        return resolved

    def recommend(self, queries: Sequence[ResolvedRequest], options: Options) -> list[dict[str, Any]]:
        """An answer with the keys COLUMNS for each query."""
        shown = self.config.rerank.n_reranked  # the LLM sees as many candidates as in training
        call = self.catalogue.rule(options)
        allowed = self.catalogue.masks(call, [q.rule for q in queries])
        with stage("retrieve"):
            pools = self._pools(queries, options, allowed)
        glad = options.satisfaction_weight
        with stage("rerank"):
            heads = self._rank(queries, [(ids[:shown], scores[:shown]) for ids, scores in pools], glad)
        answers = []
        for query, (ids, _), head in zip(queries, pools, heads, strict=True):
            final = head.scores
            ranked = order(final)[: options.top_k]
            # Beyond the LLM's candidates, items keep the retriever's order
            positions = [*ranked, *range(len(final), min(len(ids), options.top_k))]
            tail = final.min() - 1 - np.arange(len(positions)) if len(final) else np.array([])
            effects = self._leave_one_out_effects(query, ids[:shown], final, glad) if options.explain else None
            places = head.places()
            few = allowed is not None and len(positions) < options.top_k
            left = [f"the filters leave {len(positions)} item{'s' if len(positions) != 1 else ''}"] if few else []
            answers.append(
                {
                    "user": query.user,
                    "items": [self.retriever.items[ids[p] - 1] for p in positions],
                    "titles": [self.titles[ids[p]] for p in positions],
                    "scores": [
                        round(float(final[p] if p < len(final) else tail[n]), 5) for n, p in enumerate(positions)
                    ],
                    "reasons": [
                        self._reason(query, int(ids[p]), int(p), places.get(int(p), Places(int(p) + 1)), effects)
                        for p in positions
                    ],
                    "warnings": [*query.warnings, *call.warnings, *left],
                }
            )
        return answers

    def voices(self, query: ResolvedRequest, options: Options) -> tuple[np.ndarray, np.ndarray, Head]:
        """What each voice says: indices (C,) of the candidates, the retriever's scores of them, and all others."""
        allowed = self.catalogue.masks(self.catalogue.rule(options), [query.rule])
        ((ids, scores),) = self._pools([query], options, allowed)
        ids, scores = ids[: self.config.rerank.n_reranked], scores[: self.config.rerank.n_reranked]
        (head,) = self._rank([query], [(ids, scores)], options.satisfaction_weight)
        return ids, scores, head

    def _pools(
        self, queries: Sequence[ResolvedRequest], options: Options, allowed: Mask | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Item indices and the retriever's scores for each query, as many as the LLM sees or the answer shows."""
        histories, feelings = [q.history for q in queries], [q.feelings for q in queries]
        pool = max(options.top_k, self.config.rerank.n_reranked)
        return list(pools_for(self.retriever, histories, pool, options.exclude_seen, feelings, allowed))

    def _rank(
        self, queries: Sequence[ResolvedRequest], pools: Sequence[tuple[np.ndarray, np.ndarray]], glad: float
    ) -> list[Head]:
        """Scores of each query's candidates. pools: item indices and the retriever's scores. glad: of the request."""
        asked = [i for i, q in enumerate(queries) if q.history and len(pools[i][0]) and self.ranker is not None]
        requests = [RerankInput(queries[i].history, queries[i].feelings, pools[i][0].tolist()) for i in asked]
        scored = self.ranker.score(requests) if self.ranker and asked else []
        llm = {i: s.values for i, s in zip(asked, scored, strict=True)}
        weight, heads = glad * self.weights.satisfaction, []
        for i, (query, (ids, scores)) in enumerate(zip(queries, pools, strict=True)):
            final, felt = np.asarray(scores, dtype=np.float64), None
            if i in llm:
                final = fuse(scores, llm[i], self.weights.llm)
            elif self.forecast and len(ids):  # satisfaction is added to z-scores, as on validation
                final = fuse(scores, np.zeros_like(scores), 0.0)
            if self.forecast and weight and len(ids):
                felt = self.forecast.standardised([np.asarray(query.history, np.int64)], [query.stars], ids[None])[0]
                final = final + weight * felt
            heads.append(Head(final, llm.get(i), felt))
        return heads

    def _leave_one_out_effects(
        self, query: ResolvedRequest, ids: np.ndarray, final: np.ndarray, glad: float
    ) -> np.ndarray | None:
        """(H, C): by how much each item of the history raises each candidate's final score.

        Each of the newest EXPLAINED items is left out in turn, all in one batch. None where the history has one item.
        """
        if len(query.history) < 2 or not len(ids):
            return None
        first = max(0, len(query.history) - EXPLAINED)
        left = [query.without(place) for place in range(first, len(query.history))]
        scores = scores_of(self.retriever, [q.history for q in left], ids, [q.feelings for q in left])  # (H, C)
        others = np.stack([head.scores for head in self._rank(left, [(ids, row) for row in scores], glad)])
        if self.ranker is None and self.forecast is None:  # else the scores are sums of z-scores already
            final, others = (standardise(torch.from_numpy(s)).numpy() for s in (final, others))
        effects = np.zeros((len(query.history), len(ids)))
        effects[first:] = final - others
        return effects

    def _reason(
        self, query: ResolvedRequest, item: int, position: int, places: Places, effects: np.ndarray | None
    ) -> str:
        """The history items that raised the score most, or the most similar one, and the places in all rankings."""
        if not query.history:
            return self.words.reason(f"popular: number {self.popular_place[item]} among all users", item, places)
        if effects is not None and position < effects.shape[1]:
            column = effects[:, position]
            strongest = [i for i in np.argsort(-column, kind="stable")[:2] if column[i] > 0]
            if strongest:
                named = " and ".join(self._describe_item(query, i) for i in strongest)
                return self.words.reason(f"because of {named}", item, places)
            return self.words.reason(f"in spite of {self._describe_item(query, int(column.argmin()))}", item, places)
        recent = query.history[-self.config.retrieve.max_len :]  # what the retriever read
        nearest = int(np.argmax(self.retriever.similarity(item, recent))) - len(recent)
        return self.words.reason(f"closest to {self._describe_item(query, nearest)}", item, places)

    def _describe_item(self, query: ResolvedRequest, place: int) -> str:
        return self.words.history_item(query.history[place], query.feelings[place, 0])


def _reads_feelings(config: Config, retriever: Retriever, ranker: Ranker | None) -> bool:
    """Whether the user's feelings move a score: a part of a fusion reads them only with a weight, and PALR never."""
    parts = parts_of(config.retrieve)
    used = retriever.model.weights.tolist() if parts else [1.0]
    read = [part.sentiment for part, weight in zip(parts or [config.retrieve], used, strict=True) if weight]
    if ranker is not None and config.rerank.ranker != "palr":
        read.append(config.rerank.sentiment)
    return bool(set(read) - {"none"})
