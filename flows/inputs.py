"""What later stages work on, read from the tables of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sealr.data.manifest import Manifest
from sealr.data.sequences import Sequences, build
from sealr.data.tables import read_table
from sealr.evaluate.protocols import UserSplit, split_users
from sealr.rerank.requests import Pools, sentiment_values

if TYPE_CHECKING:
    from flows.steps import Job


def read_sequences(reviews: Manifest) -> Sequences:
    """Users' sequences of the reviews that ``ingest`` wrote."""
    return build(read_table(reviews.path("reviews.parquet"), "reviews"))


@dataclass(frozen=True)
class RankingInputs:
    """What re-rankers are trained and asked with. Sentiments are those that the configuration lets them see."""

    sequences: Sequences
    sentiments: np.ndarray  # (interactions,) int64 class, 0 without a label
    expected: np.ndarray  # (interactions,) float64, NaN without a label
    pools: Pools


def ranking_inputs(job: Job, reviews: Manifest, labels: Manifest, candidates: Manifest) -> RankingInputs:
    """Sequences, feelings as the re-ranker may see them, and pools of as many candidates as it is given."""
    config = job.config.rerank
    sequences, table = read_sequences(reviews), read_table(labels.path("labels.parquet"), "labels")
    placebo = config.seed if config.sentiment == "shuffled" else None
    pools = Pools(read_table(candidates.path("candidates.parquet"), "candidates"), sequences, config.candidates)
    return RankingInputs(sequences, *sentiment_values(table, sequences, placebo), pools)


def user_split(job: Job, sequences: Sequences) -> UserSplit:
    """The split of all users who have a test item. Inductive: nobody is both trained on and evaluated. Transductive: nobody's
    last two items are trained on, and all are evaluated."""
    known = [sequences.users[u] for u in sequences.split("test").users]
    if job.config.rerank.setting == "transductive":
        return UserSplit(train=[], valid=[], evaluate=sorted(known))
    return split_users(known, job.config.rerank.ratio, job.config.rerank.valid_share, job.config.rerank.seed)
