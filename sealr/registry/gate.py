"""May a challenger replace the champion? Both are compared on gate users, on whom neither of them chose anything.

A version carries the ranks of its gate users' validation items (`Evidence`). If the reviews are the champion's, both
sets of ranks are paired as they are. Otherwise the champion is loaded and ranks the new gate histories itself. It is
asked only for targets that it has not learned from, and for users who were gate users of it, too: `Evidence.learned`
counts the reviews of each user that it learned from. Where reviews before the target were added or removed since, this
count can be off. What was refitted on whole histories can only be judged by users with two or more newer reviews.

The first version has popularity for an opponent. `sealr.registry.rule` says who wins.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import mlflow
import numpy as np
import pandas as pd

from sealr.data.privacy import salted
from sealr.data.sequences import Sequences, gate_draw
from sealr.data.tables import read_json
from sealr.evaluate.metrics import ndcg
from sealr.redact import redact
from sealr.registry.rule import FEWEST, compare
from sealr.rerank.rerank import FUSED, GLAD
from sealr.retrieve.retriever import popularity
from sealr.serving.recommender import Recommender, ResolvedRequest
from sealr.serving.request import MAX_HISTORY, Options

log = logging.getLogger(__name__)
Note = TypeVar("Note")
TOP = 10  # depth of the compared lists
MIN_KNOWN = 0.5  # least share of histories with an item that the champion knows; below, it cannot be judged
NOTES = "notes"  # folder of a model's artifacts with the files below
EVIDENCE, STATISTICS, CARD, STAGES = "evidence.json", "statistics.json", "card.md", "stages.json"
PROMOTED, REFUSED, HELD = "promoted", "refused", "held"


@dataclass(frozen=True)
class Evidence:
    """What a version showed on its gate users, user by user. Ranks count from 1; 0 is a miss."""

    data: str  # digest of the reviews
    share: float  # evaluate.gate_share
    users: list[str]
    ranks: list[int]  # of the user's validation item in the served list
    popularity: list[int]  # of the same item in the list of the most popular items
    learned: dict[str, int]  # how many reviews of each user below the share the registered model learned from
    salted: bool = False  # whether the ids are salted ones, as they are unless ``registry.users`` is plain


@dataclass(frozen=True)
class Verdict:
    decision: str  # PROMOTED, REFUSED or HELD
    reason: str
    figures: dict[str, float | int] = field(default_factory=dict)


def evidence(
    rankings: pd.DataFrame, users: Sequence[str], sequences: Sequences, data: str, share: float, exclude_seen: bool
) -> Evidence:
    """Evidence of a freshly evaluated model. rankings: the table that `rerank` wrote; users: its gate users."""
    gate = rankings[rankings["split"] == "gate"]
    served = GLAD if (gate["ranker"] == GLAD).any() else FUSED
    lists = gate[gate["ranker"] == served]
    targets = {u: sequences.items[t - 1] for u, t in zip(users, _targets(sequences, users), strict=True)}
    hits = lists[lists["item"] == lists["user"].map(targets)]
    ranks = dict(zip(hits["user"], hits["rank"].astype(int), strict=True))
    popular = popularity_ranks(users, sequences, exclude_seen)
    known = {sequences.users[row]: int(sequences.lengths[row]) for row in sorted(sequences.gate)}
    return Evidence(data, share, list(users), [ranks.get(u, 0) for u in users], popular, known)


def with_salt(plain: Evidence) -> Evidence:
    """The same evidence under salted ids, sorted by them."""
    hashes = salted()
    rows = sorted(zip(map(hashes, plain.users), plain.ranks, plain.popularity, strict=True))
    users, ranks, popular = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    learned = {hashes(user): count for user, count in plain.learned.items()}
    return replace(plain, users=users, ranks=ranks, popularity=popular, learned=learned, salted=True)


def popularity_ranks(users: Sequence[str], sequences: Sequences, exclude_seen: bool) -> list[int]:
    """Ranks of the users' validation items among all items by training popularity; equal items by index."""
    counts = popularity(sequences)[1:]
    place = np.empty(sequences.n_items + 1, dtype=np.int64)  # 1 for the most popular item
    place[1 + np.argsort(-counts, kind="stable")] = np.arange(1, sequences.n_items + 1)
    ranks = []
    for row, target in zip(sequences.rows(users), _targets(sequences, users), strict=True):
        seen = np.unique(sequences.flat[sequences.span("gate", row)]) if exclude_seen else np.empty(0, np.int64)
        ahead = int((place[seen] < place[target]).sum())
        ranks.append(0 if target in seen else int(place[target]) - ahead)
    return ranks


def judge(
    challenger: Evidence,
    champion: str | None,
    number: int,
    sequences: Sequences,
    feelings: np.ndarray,
    stars: np.ndarray | None,
    resamples: int,
    hold: str = "",
) -> Verdict:
    """Compares the challenger with the registered version at the URI ``champion``, or with popularity if it is None.

    number: of the try against this opponent, from 1. feelings (interactions, 2), stars (interactions,): aligned with
    ``sequences.flat``. hold: why no version may be promoted now. Without a fair comparison nothing moves: a champion
    that cannot be scored, or on fewer than FEWEST users, holds the promotion.
    """
    users, old, known = challenger.users, challenger.popularity, 1.0
    if champion is not None:
        try:
            users, old, known = _champion_ranks(challenger, champion, sequences, feelings, stars)
        except Exception as error:
            log.warning("the champion %s cannot be scored", champion, exc_info=True)
            said = f"{type(error).__name__}: {redact(' '.join(str(error).split()))[:500]}"
            return Verdict(HELD, f"the champion cannot be scored on these users ({said})")
    figures: dict[str, float | int] = {"users": len(users), "known": round(known, 4)}
    if len(users) < FEWEST:
        few = _too_few(len(users), challenger)
        return Verdict(HELD, f"{hold}; {few}" if hold else few, figures)
    if known < MIN_KNOWN:
        share = f"{1 - known:.0%} of the {len(users)} gate histories hold no item that the champion knows"
        return Verdict(HELD, f"the champion cannot be scored on these users: {share}", figures)
    ranks = dict(zip(challenger.users, challenger.ranks, strict=True))
    wins, said, found = compare(ndcg([ranks[u] for u in users], TOP), ndcg(old, TOP), number, resamples)
    figures |= found
    if champion is None:
        said = f"the opponent is popularity; {said}"
    if hold:
        return Verdict(HELD, f"{hold}; {said}", figures)
    return Verdict(PROMOTED if wins else REFUSED, said, figures)


def _too_few(count: int, challenger: Evidence) -> str:
    if len(challenger.users) < FEWEST:
        takes = f", so about {math.ceil(FEWEST / challenger.share)} users are needed" if challenger.share else ""
        return (
            f"there are {count} gate users, and fewer than {FEWEST} decide nothing: raise evaluate.gate_share "
            f"(now {challenger.share:g}{takes}), or promote by hand"
        )
    return (
        f"only {count} of {len(challenger.users)} gate users can be compared, and fewer than {FEWEST} decide nothing: "
        "the champion has learned from the others' targets, or they were no gate users of it; wait for more reviews, "
        "or promote by hand"
    )


def rescore(
    model: Recommender,
    users: Sequence[str],
    sequences: Sequences,
    feelings: np.ndarray,
    stars: np.ndarray | None = None,
) -> tuple[list[int], float]:
    """Ranks of the users' validation items in the model's lists, 0 below TOP, and the share of histories it knows.

    The model gets each history up to the validation item, with the feelings that the challenger was evaluated with. A
    target that the model does not know is a miss, as in service. No ranks where the share is below MIN_KNOWN.
    """
    # The model's id of each of our items
    stars = np.full(len(sequences.flat), np.nan, np.float32) if stars is None else stars
    own_id = np.array([0, *(model.retriever.item_to_id.get(item, 0) for item in sequences.items)])
    queries = []
    for row in sequences.rows(users):
        span = sequences.span("gate", row)
        span = slice(max(span.start, span.stop - MAX_HISTORY), span.stop)
        ids = own_id[sequences.flat[span]]
        queries.append(ResolvedRequest(None, ids[ids > 0].tolist(), feelings[span][ids > 0], stars[span][ids > 0]))
    share = sum(bool(q.history) for q in queries) / max(1, len(users))
    if share < MIN_KNOWN:
        return [], share
    answers = model.recommend(queries, Options(top_k=TOP, exclude_seen=model.config.retrieve.exclude_seen))
    targets = [sequences.items[t - 1] for t in _targets(sequences, users)]
    return [rank_in_list(a["items"], target) for a, target in zip(answers, targets, strict=True)], share


def rank_in_list(items: Sequence[str], target: str) -> int:
    """The rank of an item in a list, from 1; 0 if it is not there."""
    return items.index(target) + 1 if target in items else 0


def _champion_ranks(
    challenger: Evidence, uri: str, sequences: Sequences, feelings: np.ndarray, stars: np.ndarray | None
) -> tuple[list[str], list[int], float]:
    """(comparable users, the champion's ranks of their validation items, share of histories that it knows)."""
    kept = read_note(uri, EVIDENCE, Evidence)
    if kept is None:
        raise ValueError("it carries no evidence: promote by hand")
    stored_as = salted("the evidence of the champion") if kept.salted else str
    if kept.data == challenger.data:
        ranks = dict(zip(kept.users, kept.ranks, strict=True))
        users = [u for u in challenger.users if stored_as(u) in ranks]
        return users, [ranks[stored_as(u)] for u in users], 1.0
    log.info("the reviews are not the champion's: scoring %s on the new gate histories", uri)
    places = dict(zip(challenger.users, sequences.lengths[sequences.rows(challenger.users)] - 2, strict=True))
    fair = (u for u in challenger.users if gate_draw(u) < kept.share and places[u] >= kept.learned.get(stored_as(u), 0))
    if len(users := list(fair)) < FEWEST:
        return users, [], 1.0
    with tempfile.TemporaryDirectory(prefix="sealr-gate-") as scratch:
        folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=scratch))
        model = Recommender.load(next((folder / "artifacts").glob("*/model.json")).parent)
        return users, *rescore(model, users, sequences, feelings, stars)


def read_note(uri: str, name: str, kind: type[Note]) -> Note | None:
    """What a version carries in a file of NOTES, such as its Evidence; None if it has no such file."""
    if not any(f.path.endswith(name) for f in mlflow.artifacts.list_artifacts(f"{uri}/artifacts/{NOTES}")):
        return None
    with tempfile.TemporaryDirectory(prefix="sealr-gate-") as scratch:
        path = mlflow.artifacts.download_artifacts(f"{uri}/artifacts/{NOTES}/{name}", dst_path=scratch)
        values = read_json(Path(path))
        try:
            return kind(**values)
        except TypeError:
            raise ValueError(f"its {name} is of another release: promote by hand") from None


def _targets(sequences: Sequences, users: Sequence[str]) -> np.ndarray:
    return sequences.targets("gate", sequences.rows(users))
