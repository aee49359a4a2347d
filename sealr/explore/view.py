"""What the page shows, as plain tables: histories, lists, voices, and how lists differ. It knows no browser."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from sealr.api import Model
from sealr.api import load as load_model
from sealr.retrieve.models.fusion import standardise
from sealr.serving.recommender import Recommender
from sealr.serving.request import Options, read, read_options
from sealr.serving.resolved import ResolvedRequest

TOP = 10  # items of a list
MOST = 1000  # names that a menu offers
VOICES = ("retriever", "llm", "satisfaction")
LIST = ["item", "title", "score", "reason"]


@functools.cache
def load(source: str) -> Model:
    """A model, read once for this process. source: as for `sealr.load`."""
    return load_model(source)


def query(
    recommender: Recommender,
    user: str | None,
    events: Sequence[Mapping[str, Any]] = (),
    hidden: Sequence[str] = (),
    categories: Sequence[str] = (),
) -> ResolvedRequest:
    """A request with everything looked up; texts are labelled.

    user: None for a new one. events: ``{"item", "text", "rating"}``, oldest first; they follow the user's stored
    history. hidden: items that no list may have. Raises BadRequest.
    """
    asked = {"user": user, "history": list(events) or None, "exclude_items": list(hidden) or None}
    asked["categories"] = list(categories) or None
    (found,) = recommender.resolve(read(pd.DataFrame([asked], dtype=object), {})[0])
    return found


def served(recommender: Recommender, asked: ResolvedRequest, weight: float = 1.0) -> tuple[pd.DataFrame, list[str]]:
    """The list that a server answers with (columns LIST, best first) and its warnings. weight: of satisfaction."""
    (answer,) = recommender.recommend([asked], _options(recommender, weight))
    rows = zip(answer["items"], answer["titles"], answer["scores"], answer["reasons"], strict=True)
    return pd.DataFrame(list(rows), columns=LIST), answer["warnings"]


def _options(recommender: Recommender, weight: float) -> Options:
    return read_options({"top_k": TOP, "satisfaction_weight": float(weight)}, recommender.config.retrieve.exclude_seen)


def voices(recommender: Recommender, asked: ResolvedRequest) -> pd.DataFrame:
    """The candidates in the retriever's order: item, title, and the standardised score of each voice that has a weight.

    The forecast is standardised over the catalogue, the other voices over the candidates, as in ranking.
    """
    ids, scores, head = recommender.voices(asked, _options(recommender, 1.0))
    said = {"retriever": scores, "llm": head.llm}
    columns: dict[str, Any] = {"item": [recommender.retriever.items[i - 1] for i in ids]}
    columns["title"] = [recommender.titles[i] for i in ids]
    for name, values in said.items():
        if values is not None:
            z = torch.as_tensor(values, dtype=torch.float64)
            columns[name] = (standardise(z) if len(z) else z).numpy()
    if head.satisfaction is not None:
        columns["satisfaction"] = np.asarray(head.satisfaction, np.float64)
    return pd.DataFrame(columns)


def orders(said: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The first TOP candidates of each voice. said: of `voices`. Ties keep the retriever's order."""
    names = [name for name in VOICES if name in said]
    sort = {name: said.sort_values(name, ascending=False, kind="stable") for name in names}
    return {
        name: frame[["item", "title", name]].rename(columns={name: "score"}).head(TOP) for name, frame in sort.items()
    }


def marks(items: Sequence[str], before: Sequence[str]) -> list[str]:
    """How each item of a list moved against another one: "new", "+2" (two places up), "-1", or "" (same place)."""
    places = {item: place for place, item in enumerate(before)}
    moves = [places[item] - place if item in places else None for place, item in enumerate(items)]
    return ["new" if move is None else f"{move:+d}" if move else "" for move in moves]


def gone(items: Iterable[str], before: pd.DataFrame) -> list[str]:
    """Titles of a list ``before`` that are not among the items."""
    return before.loc[~before["item"].isin(list(items)), "title"].tolist()


def history(recommender: Recommender, asked: ResolvedRequest, newest: int = 20) -> pd.DataFrame:
    """The newest items of a history, newest first: place, title, sentiment, expected and stars, NaN if unknown."""
    places = range(len(asked.history) - 1, max(-1, len(asked.history) - 1 - newest), -1)
    titles = [recommender.titles[asked.history[p]] for p in places]
    felt = [(*asked.feelings[p].tolist(), float(asked.stars[p])) for p in places]
    rows = [(place, title, *values) for place, title, values in zip(places, titles, felt, strict=True)]
    return pd.DataFrame(rows, columns=["place", "title", "sentiment", "expected", "stars"])


def what_if(recommender: Recommender, asked: ResolvedRequest, place: int, event: Mapping[str, Any]) -> ResolvedRequest:
    """The same request as if one review of its history had been another one.

    event: ``{"sentiment": -2}`` or ``{"text": ...}``. What the review said, its stars too, no longer counts.
    """
    item = recommender.retriever.items[asked.history[place] - 1]
    other = query(recommender, None, [{"item": item, **event}])
    feelings, stars = asked.feelings.copy(), asked.stars.copy()
    feelings[place], stars[place] = other.feelings[0], other.stars[0]
    return replace(asked, feelings=feelings, stars=stars)


def reads_feelings(recommender: Recommender) -> bool:
    """Whether a feeling in the history can move any score of this model."""
    return recommender.words.reads_feelings or recommender.forecast is not None


def known_users(recommender: Recommender) -> list[str] | None:
    """The ids to choose from; None where the model keeps histories under hashes of ids, or none at all."""
    return recommender.users if recommender.config.registry.users == "plain" else None


def is_known(recommender: Recommender, user: str) -> bool:
    """Whether the model has a history of the user."""
    return recommender.stored_as(user) in recommender.histories


def names(recommender: Recommender) -> dict[str, str]:
    """Item -> "title · id", by which a person finds it."""
    pairs = zip(recommender.retriever.items, recommender.titles[1:], strict=True)
    return {item: item if title == item else f"{title} · {item}" for item, title in pairs}


def matching(known: Mapping[str, str], words: str = "") -> list[str]:
    """The first MOST ids whose names have all the words, whatever their case."""
    wanted = words.casefold().split()
    found = (key for key, name in known.items() if all(word in name.casefold() for word in wanted))
    return [key for _, key in zip(range(MOST), found, strict=False)]
