"""One model from all parts: a request with raw ids and review texts in, items with scores and reasons out.

It calls the very functions the pipeline trained and evaluated with: `label_texts`, `pools_for`, a ranker's
`score`, and `fuse`. A packed model is a folder of safetensors, JSON and Parquet and needs no data set to load.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr import weights
from sealr.config import from_dict, to_dict
from sealr.data.tables import read_json, read_table, write_json
from sealr.emotion.backends import pinned_name
from sealr.emotion.label import Labeller, label_texts, labeller_id
from sealr.emotion.sentiment import CLASS_NAMES
from sealr.redact import redacted
from sealr.serving.request import ApiRequest, BadRequest, Limits, Options, read, short
from sealr.rerank.generative.finetune import ADAPTER
from sealr.rerank.llm import AdapterError
from sealr.rerank.generative.prompts import RerankInput
from sealr.rerank.rankers import Ranker, Scored, fuse, load_ranker, order, standardise
from sealr.retrieve.candidates import pools_for, scores_of
from sealr.retrieve.train import Retriever, load
from sealr.settings import Config

__all__ = ["BadRequest", "Recommender", "pack"]
log = logging.getLogger(__name__)
EXPLAINED = 20  # newest items of a history that an explanation looks at
ANSWER = ["user", "items", "titles", "scores", "reasons", "warnings"]  # columns


@dataclass
class ResolvedRequest:
    """A request after its items and feelings were looked up."""

    user: str | None
    history: list[int] = field(default_factory=list)
    sentiments: list[int] = field(default_factory=list)
    felt: list[tuple[float, float]] = field(
        default_factory=list
    )  # class and expected sentiment for the retriever; NaN: not known
    warnings: list[str] = field(default_factory=list)

    @property
    def feelings(self) -> np.ndarray:
        """(H, 2) float32, as retrievers read them."""
        return np.array(self.felt, dtype=np.float32).reshape(-1, 2)

    def without(self, place: int) -> ResolvedRequest:
        """The same request with one item of the history left out."""
        kept = [[v for i, v in enumerate(values) if i != place] for values in (self.history, self.sentiments, self.felt)]
        return ResolvedRequest(self.user, *kept)


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
    config = replace(config, label=replace(config.label, model=pinned_name(config.label.model)))
    made_with = {"base_digest": weights.digest(config.rerank.base), "labeller": labeller_id(config.label)}
    write_json({"config": redacted(to_dict(config)), "fusion_weight": weight} | made_with, folder / "model.json")


class Recommender:
    """A loaded model. Thread-safe after loading; requests of one call are ranked together."""

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
        self.labeller = Labeller.from_config(config.label)  # now, so that a missing one fails before the first request
        self.index = {item: i for i, item in enumerate(retriever.items, start=1)}
        titles = dict(zip(items["item"], items["title"], strict=True))
        self.titles = [""] + [t if isinstance(t := titles.get(i), str) and t else i for i in retriever.items]
        self.histories = {u: tuple(map(list, parts)) for u, *parts in histories.itertuples(index=False)}

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
        if (here := labeller_id(config.label)) != (then := values.get("labeller", here)):
            log.warning("texts in requests are labelled by %s, the model was made with %s: their feelings may differ", here, then)
        # A weight of 0 means validation found no use for the LLM: then it is not loaded either
        items = read_table(folder / "items.parquet", "items")
        ranker = load_ranker(config.rerank, config.data.category, folder / ADAPTER, items) if weight else None
        return cls(config, weight, load(folder / "retriever"), ranker, items, pd.read_parquet(folder / "histories.parquet"))

    def predict(self, frame: pd.DataFrame, params: dict[str, Any], limits: Limits | None = None) -> pd.DataFrame:
        """frame: one row a request with ``user`` and/or ``history``. limits: None for batch scoring. Raises BadRequest."""
        answers = self.answer(*read(frame, params, limits, self.config.retrieve.exclude_seen))
        users = pd.Series([a["user"] for a in answers], dtype=object)  # a string column would turn None into NaN
        return pd.DataFrame(answers, columns=ANSWER).assign(user=users)

    def answer(self, asked: list[ApiRequest], options: Options) -> list[dict[str, Any]]:
        """A dict of ANSWER for each request, all of them ranked together."""
        return self._answer(self._queries(asked), options)

    def _queries(self, asked: list[ApiRequest]) -> list[ResolvedRequest]:
        """Looks up stored histories, and reads those that came with a request; all texts of the call are labelled together."""
        queries = [self._query(a) for a in asked]
        known = [[e for e in a.events or () if e.item in self.index] for a in asked]
        texts = [e.text for events in known for e in events if e.text and e.sentiment is None]
        felt = iter(label_texts(texts, self.labeller) if texts else ())
        for query, a, events in zip(queries, asked, known, strict=True):
            if a.events is not None:
                query.history = [self.index[e.item] for e in events]
                for e in events:
                    given = {"sentiment": e.sentiment, "expected": e.sentiment if e.expected is None else e.expected}
                    labelled = next(felt) if e.text and e.sentiment is None else given
                    query.sentiments.append(labelled["sentiment"] or 0)  # where neither a sentiment nor a readable text came, 0
                    query.felt.append(_felt(labelled["sentiment"], labelled["expected"]))
        return queries

    def _query(self, asked: ApiRequest) -> ResolvedRequest:
        """The user's stored history, unless one came with the request, and what there is to warn of."""
        query = ResolvedRequest(asked.user)
        if asked.events is None:
            if asked.user in self.histories:
                query.history, query.sentiments, expected = map(list, self.histories[asked.user])
                query.felt = [_felt(s, e) for s, e in zip(query.sentiments, expected, strict=True)]
            else:
                who = "no user" if asked.user is None else f"user {short(asked.user)} is not known"
                query.warnings.append(f"{who} and no history was given: popular items instead")
            return query
        if skipped := [short(e.item)[1:-1] for e in asked.events if e.item not in self.index]:
            query.warnings.append(f"unknown items ignored: {', '.join(skipped[:10])}{' and more' if len(skipped) > 10 else ''}")
        if len(skipped) == len(asked.events):
            query.warnings.append("no known item in the history: popular items instead")
        return query

    def _answer(self, queries: list[ResolvedRequest], options: Options) -> list[dict[str, Any]]:
        shown = self.config.rerank.n_reranked  # the LLM sees as many candidates as it was trained on
        histories, felt = [q.history for q in queries], [q.feelings for q in queries]
        pools = list(pools_for(self.retriever, histories, max(options.top_k, shown), options.exclude_seen, felt))  # (ids, scores)
        heads = self._rank(queries, [(ids[:shown], scores[:shown]) for ids, scores in pools])
        answers = []
        for query, (ids, _), (head, llm) in zip(queries, pools, heads, strict=True):
            ranked = order(head)[: options.top_k]
            positions = [*ranked, *range(len(head), min(len(ids), options.top_k))]  # beyond the LLM's pool: retriever order
            tail = head.min() - 1 - np.arange(len(positions)) if len(head) else np.array([])
            places = {} if llm is None else {int(p): place for place, p in enumerate(order(llm), start=1)}
            moved = self._moved(query, ids[:shown], head) if options.explain and len(head) else None
            answers.append(
                {
                    "user": query.user,
                    "items": [self.retriever.items[ids[p] - 1] for p in positions],
                    "titles": [self.titles[ids[p]] for p in positions],
                    "scores": [round(float(head[p] if p < len(head) else tail[n]), 5) for n, p in enumerate(positions)],
                    "reasons": [self._reason(query, int(ids[p]), int(p), places.get(int(p)), moved) for p in positions],
                    "warnings": query.warnings,
                }
            )
        return answers

    def _rank(
        self, queries: Sequence[ResolvedRequest], pools: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Final scores of each query's candidates, and the LLM's where it was asked, (C,) each. pools: ids and retriever's scores."""
        asked = [i for i, q in enumerate(queries) if q.history and len(pools[i][0]) and self.ranker is not None]
        requests = [
            RerankInput(queries[i].history, queries[i].sentiments, pools[i][0].tolist(), expected=queries[i].feelings[:, 1].tolist())
            for i in asked
        ]
        scored: list[Scored] = self.ranker.score(requests) if asked else []
        llm = {i: s.values for i, s in zip(asked, scored, strict=True)}
        return [
            (fuse(scores, llm[i], self.weight), llm[i]) if i in llm else (np.asarray(scores, dtype=np.float64), None)
            for i, (_, scores) in enumerate(pools)
        ]

    def _moved(self, query: ResolvedRequest, ids: np.ndarray, head: np.ndarray) -> np.ndarray | None:
        """(items of the history, C): how much lower each candidate's final score is without each item of the history.

        Only the newest EXPLAINED items are left out in turn, all in one batch. None for a history of less than two items.
        """
        first = max(0, len(query.history) - EXPLAINED)
        if len(query.history) < 2:
            return None
        without = [query.without(place) for place in range(first, len(query.history))]
        scores = scores_of(self.retriever, [q.history for q in without], ids, [q.feelings for q in without])  # (H, C)
        moved = np.zeros((len(query.history), len(ids)))
        for place, (other, _) in enumerate(self._rank(without, [(ids, row) for row in scores]), start=first):
            both = [standardise(s) if self.ranker is None else s for s in (head, other)]  # fused scores are z-scores already
            moved[place] = both[0] - both[1]
        return moved

    def _reason(self, query: ResolvedRequest, item: int, position: int, llm_place: int | None, moved: np.ndarray | None) -> str:
        """What speaks for an item: the things in the history that moved its score most, or the most similar one; how they felt;
        and both rankers' places."""
        if not query.history:
            return f"popular: number {position + 1} among all users"
        places = f"retriever #{position + 1}" + (f", LLM #{llm_place}" if llm_place else "")
        if moved is not None and position < moved.shape[1]:
            effects = moved[:, position]
            strongest = [i for i in np.argsort(-effects, kind="stable")[:2] if effects[i] > 0]
            if strongest:
                return f"because of {' and '.join(self._bought(query, i) for i in strongest)}; {places}"
            return f"in spite of {self._bought(query, int(effects.argmin()))}; {places}"
        recent = query.history[-self.config.retrieve.max_len :]  # what the retriever read
        nearest = int(np.argmax(self.retriever.similarity(item, recent))) - len(recent)
        return f"closest to {self._bought(query, nearest)}; {places}"

    def _bought(self, query: ResolvedRequest, place: int) -> str:
        return f"{self.titles[query.history[place]]!r} (felt {CLASS_NAMES[query.sentiments[place]].lower()})"


def _felt(sentiment: int | None, expected: float | None) -> tuple[float, float]:
    """What a retriever reads of one interaction: as in `sealr.retrieve.feelings`, nothing where there is no label."""
    known = expected is not None and not np.isnan(expected)
    return (float(sentiment), float(expected)) if known else (np.nan, np.nan)
