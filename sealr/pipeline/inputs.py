"""What later stages work on, read from the tables of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sealr.pipeline.job import Job
from sealr.data.manifest import Manifest
from sealr.data.sequences import Sequences, build
from sealr.data.tables import read_table
from sealr.evaluate.protocols import UserSplit, draw_users, split_users
from sealr.rerank.requests import Pools, sentiment_values
from sealr.settings import RetrieveConfig

DRAWN = ("finetune_share", "valid_share", "max_users")  # settings of rerank that say who is fine-tuned on, in the inductive setting


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
    pools = Pools(read_table(candidates.path("candidates.parquet"), "candidates"), sequences, config.n_reranked)
    return RankingInputs(sequences, *sentiment_values(table, sequences, placebo), pools)


def user_split(job: Job, sequences: Sequences) -> UserSplit:
    """The split of all users who have a test item. Inductive: nobody is both trained on and evaluated, and of those to train on
    there are at most ``rerank.max_users``. Transductive: nobody's last two items are trained on, and all are evaluated."""
    known = [sequences.users[u] for u in sequences.split("test").users]
    config = job.config.rerank
    if config.user_split == "transductive":
        return UserSplit(train=[], valid=[], evaluate=sorted(known))
    split = split_users(known, config.finetune_share, config.valid_share, job.config.evaluate.seed)
    return replace(split, train=split.train[: config.max_users or None])


def evaluated_users(job: Job, sequences: Sequences) -> list[str]:
    """Who is evaluated, in a random order: ``evaluate.users`` and ``evaluate.valid_users`` count from its start."""
    return draw_users(user_split(job, sequences).evaluate, job.config.evaluate.seed)


def split_settings(job: Job) -> dict[str, Any]:
    """The settings that ``user_split`` follows."""
    rerank = job.config.rerank
    if rerank.user_split == "transductive":
        return {"user_split": rerank.user_split}
    names = ("user_split", *DRAWN)
    return {name: getattr(rerank, name) for name in names} | {"seed": job.config.evaluate.seed}


def retriever_sequences(job: Job, reviews: Manifest, config: RetrieveConfig) -> Sequences:
    """Sequences of which retrievers learn the training split: with ``retrieve.tuning_users`` whole also all of some users."""
    sequences = read_sequences(reviews)
    return sequences.with_whole(user_split(job, sequences).train) if config.tuning_users == "whole" else sequences
