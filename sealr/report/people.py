"""The report's third part as plain data: what reviews say of some items, and some users with all lists they got."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from torch.nn import functional as F

from sealr.content.profiles import Profiles
from sealr.data.sequences import Sequences, build
from sealr.data.tables import read_json
from sealr.emotion.feelings import feelings
from sealr.evaluate.protocols import RETRIEVER
from sealr.report.reviews import SEED, shortened
from sealr.report.sources import Sources
from sealr.rerank.rerank import FUSED, GLAD
from sealr.retrieve.models.fusion import reads_feelings
from sealr.retrieve.retriever import Retriever, load
from sealr.satisfaction.learn import REASONS
from sealr.serving.reasons import Places, Words, others_felt

NEIGHBOURS, NEAREST = 6, 3  # items shown, and how many of the nearest to each
TOP = 5  # of each list
SHOWN = 6  # newest items of a history
DRAWN = 2  # users drawn at random, beside the one who gains and the one who loses most
DEEP = 10  # a hit beyond it is worth nothing
QUOTE = 120  # characters of a review in a history
WHY = {"gain": "gains most from re-ranking", "loss": "loses most from re-ranking", "random": "drawn at random"}


def neighbours(sources: Sources) -> dict[str, Any] | None:
    """The nearest items by text of the most reviewed ones; None where the job reads no texts of items.

    ``items``: title, and (title, cosine) of the nearest. ``kind``: which texts, "reviews" or "metadata".
    """
    folder, read = sources.folder("content"), sources.folder("ingest")
    if folder is None or read is None:
        return None
    vectors = Profiles.load(folder).vectors
    kind = next((kind for kind in ("reviews", "metadata") if vectors[kind].any()), "")
    if not kind:
        return None
    counts = pd.read_parquet(read / "reviews.parquet", columns=["item"])["item"].value_counts()
    order = sorted(counts.index)  # ids of items, from 1
    titles, table = titles_of(read), F.normalize(vectors[kind], dim=1)
    shown = []
    for item in [name for name in counts.index if table[order.index(name) + 1].any()][:NEIGHBOURS]:
        row = order.index(item) + 1
        cosines = table @ table[row]
        cosines[[0, row]] = -1.0
        best = cosines.topk(min(NEAREST, len(order) - 1))
        near = [(titles[order[i - 1]], c) for i, c in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        shown.append((titles[item], near))
    return {"kind": kind, "items": shown}


def titles_of(folder: Path) -> dict[str, str]:
    """Item -> its title, or itself without one. folder: of ingest."""
    items = pd.read_parquet(folder / "items.parquet", columns=["item", "title"])
    return {item: title if isinstance(title, str) else item for item, title in items.itertuples(index=False)}


def users(sources: Sources) -> list[dict[str, Any]] | None:
    """Some test users: history, what they took next, and the first TOP items of every list; None without lists."""
    known = {kind: sources.folder(kind) for kind in ("rerank", "ingest", "label", "retrieve")}
    folders = {kind: folder for kind, folder in known.items() if folder}
    if len(folders) < len(known):
        return None
    fusion = read_json(folders["rerank"] / "fusion.json")
    columns = ["user", "item", "position", "rating"]
    table = pd.read_parquet(folders["ingest"] / "reviews.parquet", columns=columns)
    sequences = build(table)
    rankings = pd.read_parquet(folders["rerank"] / "rankings.parquet", filters=[("split", "==", "test")])
    targets = target_items(sequences, fusion["test_users"])
    chosen = choose(target_ranks(rankings, targets))
    labels = pd.read_parquet(folders["label"] / "labels.parquet", columns=["user", "position", "expected", "sentiment"])
    felt, titles = feelings(labels, sequences), titles_of(folders["ingest"])
    view = View(sources, fusion, sequences, table, felt, titles, folders)
    lists = rankings[rankings["user"].isin(chosen)]
    return [view.user(user, why, targets[user], lists[lists["user"] == user]) for user, why in chosen.items()]


def target_items(sequences: Sequences, names: list[str]) -> dict[str, str]:
    """User -> the item of the test, the last one that the user took."""
    found = sequences.targets("test", sequences.rows(names))
    return {user: sequences.items[target - 1] for user, target in zip(names, found, strict=True)}


def target_ranks(rankings: pd.DataFrame, targets: dict[str, str]) -> pd.DataFrame:
    """Rank of each user's target in every list: a row for each user, a column for each ranker, NaN for a miss."""
    hits = rankings[rankings["item"] == rankings["user"].map(targets)]
    ranks = hits.pivot(index="user", columns="ranker", values="rank").astype(float)
    return ranks.reindex(index=list(targets), columns=list(dict.fromkeys(rankings["ranker"])))


def choose(ranks: pd.DataFrame) -> dict[str, str]:
    """User -> why: who gains and who loses most by the served list, and DRAWN at random. ranks: `target_ranks`."""
    served = next(name for name in (GLAD, FUSED) if name in ranks)
    worth = [(1 / np.log2(1 + ranks[name])).where(ranks[name] <= DEEP, 0.0) for name in (served, RETRIEVER)]
    change, chosen = worth[0] - worth[1], {}
    for why, best, moved in (("gain", change.idxmax(), change.max() > 0), ("loss", change.idxmin(), change.min() < 0)):
        if moved:
            chosen[str(best)] = why
    rest = [user for user in ranks.index if user not in chosen]
    drawn = np.random.default_rng(SEED).permutation(len(rest))[:DRAWN]
    return chosen | {rest[place]: "random" for place in drawn}


class View:
    """How one user is shown."""

    def __init__(
        self,
        sources: Sources,
        fusion: dict[str, Any],
        sequences: Sequences,
        reviews: pd.DataFrame,
        felt: np.ndarray,
        titles: dict[str, str],
        folders: dict[str, Path],
    ) -> None:
        """reviews: user, position and rating. felt: `feelings`. titles: of the items. folders: of the stages."""
        self.sequences, self.felt, self.titles, self.folders = sequences, felt, titles, folders
        self.stars = sequences.values(reviews, "rating")
        self.places = sequences.values(reviews.assign(place=np.arange(len(reviews))), "place").astype(int)
        self.retriever: Retriever = load(folders["retrieve"])
        self.glad = bool(fusion["satisfaction_weight"])
        self.llm = bool(fusion["weight"])
        rerank, glad = sources.config["rerank"], sources.folder("satisfaction")
        reads = self.llm and rerank["ranker"] != "palr" and rerank["sentiment"] != "none"
        others = pd.read_parquet(glad / REASONS) if self.glad and glad else None
        known = {} if others is None else others_felt(others, self.retriever.item_to_id)
        names = ["", *(titles[item] for item in sequences.items)]
        self.words = Words(names, known, reads or reads_feelings(self.retriever.config))

    def user(self, name: str, why: str, target: str, rankings: pd.DataFrame) -> dict[str, Any]:
        """rankings: all lists of the user."""
        row = int(self.sequences.rows([name])[0])
        span = self.sequences.span("test", row)
        places = np.arange(max(span.start, span.stop - SHOWN), span.stop)
        texts = self._texts([*places, span.stop])
        history = [self._event(place, text) for place, text in zip(places, texts[:-1], strict=True)]
        orders = {ranker: part.sort_values("rank") for ranker, part in rankings.groupby("ranker", sort=False)}
        lists: dict[str, dict[str, Any]] = {}
        for ranker, part in orders.items():
            first = part["item"].tolist()[:TOP]
            at = part.loc[part["item"] == target, "rank"]
            shown = [{"title": self.titles[item], "hit": item == target} for item in first]
            lists[str(ranker)] = {"items": shown, "target": int(at.iloc[0]) if len(at) else None}
        served = next(name for name in (GLAD, FUSED) if name in orders)
        read = self.sequences.flat[span]
        for shown, item in zip(lists[served]["items"], orders[served]["item"], strict=False):
            shown["why"] = self._reason(item, read, span, orders)
        return {
            "name": name,
            "why": WHY[why],
            "history": history,
            "older": int(span.stop - span.start - len(places)),
            "target": self._event(span.stop, texts[-1]),
            "lists": lists,
            "served": served,
        }

    def _event(self, place: int, text: str) -> dict[str, Any]:
        """What is known of one interaction. place: in ``sequences.flat``."""
        sentiment, stars = self.felt[place, 0], self.stars[place]
        return {
            "title": self.titles[self.sequences.items[self.sequences.flat[place] - 1]],
            "class": None if np.isnan(sentiment) else int(sentiment),
            "stars": None if np.isnan(stars) else float(stars),
            "text": shortened(text, QUOTE),
        }

    def _texts(self, places: list[int]) -> list[str]:
        rows = self.places[places].tolist()
        path = self.folders["ingest"] / "reviews.parquet"
        return [str(text) for text in pq.read_table(path, columns=["text"])["text"].take(rows).to_pylist()]

    def _reason(self, item: str, read: np.ndarray, span: slice, orders: dict[Any, pd.DataFrame]) -> str:
        """As the server says it: the nearest item of the history, what others felt, and the places in all rankings."""
        number = self.retriever.item_to_id[item]
        recent = read[-self.retriever.config.max_len :]
        nearest = int(np.argmax(self.retriever.similarity(number, recent)))
        place = span.stop - len(recent) + nearest
        why = f"closest to {self.words.history_item(int(read[place - span.start]), self.felt[place, 0])}"
        llm = next((name for name in orders if name not in (RETRIEVER, FUSED, GLAD)), None) if self.llm else None
        ranks = {name: dict(zip(part["item"], part["rank"], strict=True)) for name, part in orders.items()}
        glad = satisfaction_ranks(orders) if self.glad else {}
        places = Places(int(ranks[RETRIEVER][item]), int(ranks[llm][item]) if llm else None, glad.get(item))
        return self.words.reason(why, number, places)


def satisfaction_ranks(orders: dict[Any, pd.DataFrame]) -> dict[str, int]:
    """Item -> its rank by predicted satisfaction alone, which is what the last list adds to the fused scores."""
    scores = [orders[name].set_index("item")["score"].astype(float) for name in (GLAD, FUSED)]
    added = (scores[0] - scores[1]).reindex(orders[RETRIEVER]["item"])
    ranks = added.rank(ascending=False, method="first").astype(int)
    return {str(item): int(rank) for item, rank in ranks.items()}
