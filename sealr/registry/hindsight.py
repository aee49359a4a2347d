"""Which of two versions would have been better for what users took next? Both are asked in hindsight.

Each version recommends to each user from the history that it has stored, as in service. A row, a user and an item, is
compared if both versions know the user and neither has the item in its history of the user: it has learned from that.
Other rows are set aside with a reason. An item that a version does not know is a miss for it, as in service.

A user's value is the mean over the user's rows, so every user counts alike, and intervals draw users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr.config import nearest
from sealr.data.cleaning import clean
from sealr.data.parts import parts
from sealr.data.sources.formats import read_records
from sealr.evaluate import liking
from sealr.evaluate.gladness import DISLIKED, LIKED
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.statistics import Interval, bootstrap_mean, paired_bootstrap
from sealr.registry.gate import TOP, rank_in_list
from sealr.serving.batch import ROWS
from sealr.serving.recommender import Recommender
from sealr.settings import DataConfig

COLUMNS = ["user", "item", "rating"]
HR, NDCG = f"HR@{TOP}", f"NDCG@{TOP}"
AGAIN = "the same user and item again"
Figure = tuple[Interval, Interval, Interval]  # of the first version, of the second, second minus first


class HindsightError(ValueError):
    """The file or the versions cannot be used; the message says why."""


@dataclass(frozen=True)
class Taken:
    """What users took: one row for each user and item."""

    rows: pd.DataFrame  # user, item, rating (1 to 5, NaN unknown)
    aside: Counter[str]  # reason -> rows of the file that are no such row


@dataclass(frozen=True)
class Hindsight:
    """A comparison of two versions."""

    names: tuple[str, str]
    users: int
    rows: int
    figures: dict[str, Figure]
    aside: Counter[str]  # reason -> rows that were not compared
    unknown: Counter[str]  # who does not know the item -> compared rows


def read_taken(path: Path) -> Taken:
    """Rows of a file, or of all files of a folder, in any format of `sealr.data.sources.formats`.

    Raises HindsightError, DataFileError, and OSError for a file that is not there.
    """
    found, aside = dict[tuple[str, str], float](), Counter[str]()
    for part in parts(path):
        for row in read_records(part, DataConfig("next"), COLUMNS, partial(_check, part)):
            if row.values is None:
                raise HindsightError(f"{part}, row {row.line}: {row.reason}")
            values = {name: row.values.get(name) for name in COLUMNS}
            cleaned, reason = clean(values | {"timestamp": 0, "text": None}, since=0, until=0)
            if cleaned is None:
                aside[reason.partition(":")[0]] += 1  # without the setting that would mend it in a job
            elif cleaned[:2] in found:
                aside[AGAIN] += 1
            else:
                found[cleaned[:2]] = cleaned[3]
    if not found and not aside:
        raise HindsightError(f"{path} has no rows: it needs what users took next, one user and item a row")
    rows = pd.DataFrame([(*pair, rating) for pair, rating in found.items()], columns=COLUMNS)
    return Taken(rows, aside)


def _check(path: Path, names: list[str]) -> None:
    if missing := [name for name in COLUMNS[:2] if name not in names]:
        near, has = nearest(missing[0], names) or ".", ", ".join(names) or "none"
        raise HindsightError(f"{path} has no column {missing[0]}{near} It needs user and item; its columns: {has}")


def judge(first: Recommender, second: Recommender, names: tuple[str, str], taken: Taken, resamples: int) -> Hindsight:
    """Compares two versions on what users took. names: what messages call them. Raises HindsightError."""
    models = (first, second)
    if silent := _whose([model.config.registry.users == "none" for model in models], names):
        raise HindsightError(f"{silent}: no histories of users are kept (registry.users=none), so nobody can be asked")
    aside, unknown, kept = Counter(taken.aside), Counter[str](), []
    for user, rows in taken.rows.groupby("user", sort=False):
        if strangers := _whose([not model.knows(str(user)) for model in models], names):
            aside[f"user unknown to {strangers}"] += len(rows)
            continue
        histories = [_stored(model, str(user)) for model in models]
        for row in rows.itertuples():
            if owners := _whose([row.item in history for history in histories], names):
                aside[f"item in the user's history in {owners}"] += 1
                continue
            kept.append(row.Index)
            if strangers := _whose([row.item not in model.retriever.item_to_id for model in models], names):
                unknown[strangers] += 1
    if not kept:
        why = "; ".join(f"{reason} ({n:,} {'row' if n == 1 else 'rows'})" for reason, n in aside.most_common())
        raise HindsightError(f"nothing can be compared: {why}")
    rows = taken.rows.loc[kept]
    ranks = [_ranks(model, rows) for model in models]
    figures = {HR: _figure(hit_rate, ranks, rows, ..., resamples), NDCG: _figure(ndcg, ranks, rows, ..., resamples)}
    for name, chosen in (("liked", rows["rating"] >= LIKED), ("disliked", rows["rating"] <= DISLIKED)):
        if rows["user"][chosen].nunique() >= liking.FEWEST:
            figures[f"{HR} {name}"] = _figure(hit_rate, ranks, rows, chosen.to_numpy(), resamples)
    return Hindsight(names, rows["user"].nunique(), len(rows), figures, aside, unknown)


def _whose(flags: Sequence[bool], names: tuple[str, str]) -> str:
    """Whose flag is set; empty if nobody's."""
    return "both versions" if all(flags) else next((n for n, flag in zip(names, flags, strict=True) if flag), "")


def _stored(model: Recommender, user: str) -> set[str]:
    """Items of the user's stored history."""
    return {model.retriever.items[i - 1] for i in model.histories[model.stored_as(user)][0]}


def _ranks(model: Recommender, rows: pd.DataFrame) -> np.ndarray:
    """(rows,) rank of each item in the list that the user is served, from 1; 0 for a miss."""
    users, lists = rows["user"].unique().tolist(), dict[str, list[str]]()
    for start in range(0, len(users), ROWS):
        block = users[start : start + ROWS]
        answers = model.predict(pd.DataFrame({"user": block}), {"top_k": TOP})
        lists |= dict(zip(block, answers["items"], strict=True))
    return np.array([rank_in_list(lists[user], item) for user, item in zip(rows["user"], rows["item"], strict=True)])


def _figure(metric: Any, ranks: Sequence[np.ndarray], rows: pd.DataFrame, chosen: Any, resamples: int) -> Figure:
    """Means and paired difference over users; a user's value is the mean over the chosen rows (a mask; ...: all)."""
    users = rows["user"].to_numpy()[chosen]
    first, second = (pd.Series(metric(r, TOP)[chosen]).groupby(users).mean().to_numpy() for r in ranks)
    apart = paired_bootstrap(second, first, resamples)
    return bootstrap_mean(first, resamples), bootstrap_mean(second, resamples), apart
