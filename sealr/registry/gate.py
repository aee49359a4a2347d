"""May a challenger replace the champion? Both are compared on the same validation users, with a paired 95 % interval.

A version carries its validation ranks (`Evidence`). If users and reviews are the champion's, the two sets of ranks are
paired as they are. Otherwise the champion is loaded and ranks the new validation histories itself. It has learned from
all reviews of its time, so that comparison leaves out users whose validation item is among these, and users on whom the
champion's LLM was fine-tuned.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import mlflow
import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences
from sealr.data.tables import read_json
from sealr.evaluate.metrics import ndcg
from sealr.evaluate.statistics import paired_bootstrap, shown
from sealr.redact import redact
from sealr.rerank.rerank import FUSED, GLAD
from sealr.serving.recommender import Recommender, ResolvedRequest
from sealr.serving.request import MAX_HISTORY, Options

log = logging.getLogger(__name__)
Note = TypeVar("Note")
TOP = 10  # depth of the compared lists
MIN_KNOWN = 0.5  # least share of histories with an item that the champion knows; below, it cannot be judged
NOTES = "notes"  # folder of a model's artifacts with the files below
EVIDENCE, STATISTICS, CARD = "evidence.json", "statistics.json", "card.md"
PROMOTED, REFUSED, HELD = "promoted", "refused", "held"


@dataclass(frozen=True)
class Evidence:
    """What a version showed on validation, user by user."""

    validation: str  # digest of users and reviews
    users: list[str]
    ranks: list[int]  # rank of the user's validation item in the served list, from 1; 0: not in the list
    tuned: list[str]  # users on whom the LLM was fine-tuned


@dataclass(frozen=True)
class Verdict:
    decision: str  # PROMOTED, REFUSED or HELD
    reason: str
    figures: dict[str, float | int] = field(default_factory=dict)


def evidence(
    rankings: pd.DataFrame, users: Sequence[str], sequences: Sequences, validation: str, tuned: Sequence[str]
) -> Evidence:
    """Evidence of a freshly evaluated model. rankings: the table that `rerank` wrote; users: its validation users."""
    valid = rankings[rankings["split"] == "valid"]
    served = GLAD if (valid["ranker"] == GLAD).any() else FUSED
    lists = valid[valid["ranker"] == served]
    targets = {u: sequences.items[t - 1] for u, t in zip(users, _targets(sequences, users), strict=True)}
    hits = lists[lists["item"] == lists["user"].map(targets)]
    ranks = dict(zip(hits["user"], hits["rank"].astype(int), strict=True))
    return Evidence(validation, list(users), [ranks.get(u, 0) for u in users], list(tuned))


def judge(
    challenger: Evidence,
    champion: str,
    sequences: Sequences,
    feelings: np.ndarray,
    stars: np.ndarray | None,
    resamples: int,
    hold: str = "",
) -> Verdict:
    """Compares the challenger with the registered version at the URI ``champion``.

    feelings (interactions, 2), stars (interactions,): aligned with ``sequences.flat``. hold: why no version may be
    promoted now. A champion that cannot be scored holds the promotion: nothing moves without a comparison.
    """
    try:
        users, old, known = _champion_ranks(challenger, champion, sequences, feelings, stars)
    except Exception as error:
        log.warning("the champion %s cannot be scored", champion, exc_info=True)
        said = f"{type(error).__name__}: {redact(' '.join(str(error).split()))[:500]}"
        return Verdict(HELD, f"the champion cannot be scored on these users ({said})")
    figures: dict[str, float | int] = {"users": len(users), "known": round(known, 4)}
    if not users:
        said = "it has learned from their validation items, and none of them has two new reviews"
        return Verdict(HELD, f"the champion cannot be scored on these users: {said}", figures)
    if known < MIN_KNOWN:
        share = f"{1 - known:.0%} of the {len(users)} validation histories hold no item that the champion knows"
        return Verdict(HELD, f"the champion cannot be scored on these users: {share}", figures)
    ranks = dict(zip(challenger.users, challenger.ranks, strict=True))
    new_values, old_values = ndcg([ranks[u] for u in users], TOP), ndcg(old, TOP)
    difference, low, high = paired_bootstrap(new_values, old_values, resamples)
    figures |= {"challenger": float(new_values.mean()), "champion": float(old_values.mean())}
    figures |= {"difference": difference, "low": low, "high": high}
    wins = low > 0
    said = (
        f"validation NDCG@{TOP} {figures['challenger']:.4f} against {figures['champion']:.4f} on {len(users)} users: "
        f"difference {shown(difference, low, high)}, {'clear of 0' if wins else 'no significant gain'}"
    )
    if hold:
        return Verdict(HELD, f"{hold}; {said}", figures)
    return Verdict(PROMOTED if wins else REFUSED, said, figures)


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
        span = sequences.span("valid", row)
        span = slice(max(span.start, span.stop - MAX_HISTORY), span.stop)
        ids = own_id[sequences.flat[span]]
        queries.append(ResolvedRequest(None, ids[ids > 0].tolist(), feelings[span][ids > 0], stars[span][ids > 0]))
    share = sum(bool(q.history) for q in queries) / max(1, len(users))
    if share < MIN_KNOWN:
        return [], share
    answers = model.recommend(queries, Options(top_k=TOP, exclude_seen=model.config.retrieve.exclude_seen))
    targets = [sequences.items[t - 1] for t in _targets(sequences, users)]
    return [a["items"].index(t) + 1 if t in a["items"] else 0 for a, t in zip(answers, targets, strict=True)], share


def _champion_ranks(
    challenger: Evidence, uri: str, sequences: Sequences, feelings: np.ndarray, stars: np.ndarray | None
) -> tuple[list[str], list[int], float]:
    """(comparable users, the champion's ranks of their validation items, share of histories that it knows)."""
    kept = read_note(uri, EVIDENCE, Evidence)
    if kept and kept.validation == challenger.validation and kept.users == challenger.users:
        return kept.users, kept.ranks, 1.0
    log.info("users or reviews are not the champion's: scoring %s on the new validation users", uri)
    tuned = set(kept.tuned) if kept else set()
    users = [u for u in challenger.users if u not in tuned]
    with tempfile.TemporaryDirectory(prefix="sealr-gate-") as scratch:
        folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=scratch))
        model = Recommender.load(next((folder / "artifacts").glob("*/model.json")).parent)
        users = unlearned(model, users, sequences)
        return users, *rescore(model, users, sequences, feelings, stars)


def unlearned(model: Recommender, users: Sequence[str], sequences: Sequences) -> list[str]:
    """The users whose validation item is not in the history that the model has stored, and so has learned from."""
    targets = [model.retriever.item_to_id.get(sequences.items[t - 1]) for t in _targets(sequences, users)]
    stored = [model.histories[u][0] if u in model.histories else [] for u in users]
    return [u for u, items, target in zip(users, stored, targets, strict=True) if target not in items]


def read_note(uri: str, name: str, kind: type[Note]) -> Note | None:
    """What a version carries in a file of NOTES, such as its Evidence; None if it has no such file."""
    if not any(f.path.endswith(name) for f in mlflow.artifacts.list_artifacts(f"{uri}/artifacts/{NOTES}")):
        return None
    with tempfile.TemporaryDirectory(prefix="sealr-gate-") as scratch:
        path = mlflow.artifacts.download_artifacts(f"{uri}/artifacts/{NOTES}/{name}", dst_path=scratch)
        return kind(**read_json(Path(path)))


def _targets(sequences: Sequences, users: Sequence[str]) -> np.ndarray:
    return sequences.targets("valid", sequences.rows(users))
