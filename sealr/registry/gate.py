"""May a challenger take the champion's place? Both on the same validation users, with a paired 95 % interval.

A version carries what it showed on validation (`Evidence`). Where users and reviews are the champion's, the two are paired
as they are. Where they changed, the champion is loaded and ranks the new validation histories itself. Users whom the
champion's LLM was fine-tuned on are left out then: their validation items were its training answers.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences
from sealr.data.tables import read_json
from sealr.evaluate.metrics import ndcg
from sealr.evaluate.statistics import paired_bootstrap, shown
from sealr.redact import redact
from sealr.serving.recommender import Recommender
from sealr.registry.drift import Statistics
from sealr.serving.request import MAX_HISTORY, ApiRequest, Event, Options

log = logging.getLogger(__name__)
TOP = 10  # depth of the list that counts
MIN_KNOWN = 0.5  # a champion that knows no item of more than half of the histories cannot be judged by them
NOTES = "notes"  # folder of a model's artifacts with what follows
EVIDENCE, STATISTICS, CARD = "evidence.json", "statistics.json", "card.md"
PROMOTED, REFUSED, HELD = "promoted", "refused", "held"


@dataclass(frozen=True)
class Evidence:
    """What a version showed on validation, user by user."""

    validation: str  # digest of the users and reviews
    users: list[str]
    ranks: list[int]  # place of the user's validation item in the list that is served, from 1; 0: it is not in it
    tuned: list[str]  # users whom the LLM was fine-tuned on


@dataclass(frozen=True)
class Verdict:
    decision: str  # PROMOTED, REFUSED or HELD
    reason: str
    figures: dict[str, float | int] = field(default_factory=dict)


def evidence(
    rankings: pd.DataFrame, users: Sequence[str], sequences: Sequences, validation: str, tuned: Sequence[str]
) -> Evidence:
    """Evidence of a freshly evaluated model. rankings: the table that `rerank` wrote; users: its validation users."""
    lists = rankings[(rankings["ranker"] == "fused") & (rankings["split"] == "valid")]
    rows = {u: i for i, u in enumerate(sequences.users)}
    targets = {u: sequences.items[_target(sequences, rows[u]) - 1] for u in users}
    hits = lists[lists["item"] == lists["user"].map(targets)]
    place = dict(zip(hits["user"], hits["rank"].astype(int), strict=True))
    return Evidence(validation, list(users), [place.get(u, 0) for u in users], list(tuned))


def judge(
    challenger: Evidence,
    champion: str,
    sequences: Sequences,
    sentiments: np.ndarray,
    expected: np.ndarray,
    resamples: int,
    hold: str = "",
) -> Verdict:
    """The challenger against the registered version with the URI ``champion``. hold: why nobody may be promoted now.

    sentiments, expected (interactions,): class, and expected sentiment, NaN without a label; aligned with ``sequences.flat``.

    A champion that cannot be scored, for whatever reason, holds the promotion: nothing moves without a comparison.
    """
    try:
        users, old, known = _champion_ranks(challenger, champion, sequences, sentiments, expected)
    except Exception as error:
        log.warning("the champion %s cannot be scored", champion, exc_info=True)
        return Verdict(
            HELD,
            f"the champion cannot be scored on these users ({type(error).__name__}: {redact(' '.join(str(error).split()))[:500]})",
        )
    figures: dict[str, float | int] = {"users": len(users), "known": round(known, 4)}
    if known < MIN_KNOWN or not users:
        share = f"{1 - known:.0%} of the {len(users)} validation histories hold no item that the champion knows"
        return Verdict(HELD, f"the champion cannot be scored on these users: {share}", figures)
    place = dict(zip(challenger.users, challenger.ranks, strict=True))
    new_values, old_values = ndcg([place[u] for u in users], TOP), ndcg(old, TOP)
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
    model: Recommender, users: Sequence[str], sequences: Sequences, sentiments: np.ndarray, expected: np.ndarray
) -> tuple[list[int], float]:
    """Places of the users' validation items in the model's own lists (0: not in the first TOP), and the share of histories it knows.

    The history of each user ends before the validation item and is given item by item, with the feelings as they were evaluated:
    class and expected sentiment, or neither. A target that the model has never seen is a miss, as it would be when served. Below MIN_KNOWN there are no places.
    """
    rows = {u: i for i, u in enumerate(sequences.users)}
    histories, targets, known = [], [], 0
    for user in users:
        stop = sequences.offsets[rows[user] + 1] - 2
        first = max(sequences.offsets[rows[user]], stop - MAX_HISTORY)
        items = [sequences.items[i - 1] for i in sequences.flat[first:stop]]
        felt = zip(items, sentiments[first:stop].tolist(), expected[first:stop].tolist(), strict=True)
        histories.append([Event(i, "", None if np.isnan(e) else s, None if np.isnan(e) else e) for i, s, e in felt])
        targets.append(sequences.items[_target(sequences, rows[user]) - 1])
        known += any(i in model.retriever.index for i in items)
    share = known / max(1, len(users))
    if share < MIN_KNOWN:
        return [], share
    options = Options(TOP, model.config.retrieve.exclude_seen, explain=False)
    answers = model.answer([ApiRequest(None, events) for events in histories], options)
    return [a["items"].index(t) + 1 if t in a["items"] else 0 for a, t in zip(answers, targets, strict=True)], share


def read_evidence(uri: str) -> Evidence | None:
    """The evidence that a version carries; None for one registered without."""
    values = _read_note(uri, EVIDENCE)
    return Evidence(**values) if values else None


def read_statistics(uri: str) -> Statistics | None:
    """The statistics of a version's training data; None for one registered without."""
    values = _read_note(uri, STATISTICS)
    return Statistics(**values) if values else None


def _champion_ranks(
    challenger: Evidence, uri: str, sequences: Sequences, sentiments: np.ndarray, expected: np.ndarray
) -> tuple[list[str], list[int], float]:
    """(users who can be compared, the champion's ranks of their validation items, share of histories it knows)."""
    kept = read_evidence(uri)
    if kept and kept.validation == challenger.validation and kept.users == challenger.users:
        return kept.users, kept.ranks, 1.0
    log.info("users or reviews are not the champion's: scoring %s on the new validation users", uri)
    tuned = set(kept.tuned) if kept else set()
    users = [u for u in challenger.users if u not in tuned]
    with tempfile.TemporaryDirectory(prefix="sealr-gate-") as scratch:
        folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=scratch))
        model = Recommender.load(next((folder / "artifacts").glob("*/model.json")).parent)
        return users, *rescore(model, users, sequences, sentiments, expected)


def _read_note(uri: str, name: str) -> dict | None:
    found = [f.path for f in mlflow.artifacts.list_artifacts(f"{uri}/artifacts/{NOTES}")]
    if not any(path.endswith(name) for path in found):
        return None
    with tempfile.TemporaryDirectory(prefix="sealr-gate-") as scratch:
        return read_json(Path(mlflow.artifacts.download_artifacts(f"{uri}/artifacts/{NOTES}/{name}", dst_path=scratch)))


def _target(sequences: Sequences, user: int) -> int:
    """The item that validation asks for."""
    return int(sequences.flat[sequences.offsets[user + 1] - 2])
