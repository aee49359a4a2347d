"""What stages read from the tables of earlier stages: sequences, user splits and the input of re-rankers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from sealr.data.manifest import Manifest
from sealr.data.sequences import Sequences, build, gate_draw
from sealr.data.tables import read_table
from sealr.emotion.feelings import feelings
from sealr.evaluate.gladness import Gladness, gladness
from sealr.evaluate.protocols import UserSplit, draw_users, split_users
from sealr.pipeline.job import Job
from sealr.rerank.requests import Pools
from sealr.settings import RetrieveConfig

FEW_VALID, MOST_VALID = 50, 0.3  # validation users that choose an epoch, and their largest share by default
ITEMS_OF_USERS = ("user", "item", "timestamp", "position")  # of a reviews table, for sequences
FELT = ("user", "position", "sentiment", "expected")  # of a labels table, for feelings
INDUCTIVE_SETTINGS = ("finetune_share", "valid_share", "max_users")  # of rerank; they select the fine-tuning users


@dataclass(frozen=True)
class RankingInputs:
    """What re-rankers are trained and asked with."""

    sequences: Sequences
    feelings: np.ndarray  # (interactions, 2) class and expected sentiment; shuffled where the configuration says so
    pools: Pools


def read_sequences(job: Job, reviews: Manifest) -> Sequences:
    """The users' sequences in the reviews that ``ingest`` wrote, see `job_sequences`."""
    return job_sequences(job, read_table(reviews.path("reviews.parquet"), "reviews", ITEMS_OF_USERS))


def job_sequences(job: Job, reviews: pd.DataFrame) -> Sequences:
    """The users' sequences in the reviews table, with the gate users of the job, split as ``evaluate.split`` says."""
    config, sequences = job.config.evaluate, build(reviews).with_gate(job.config.evaluate.gate_share)
    return sequences.with_times(sequences.values(reviews, "timestamp")) if config.split == "time" else sequences


def read_feelings(labels: Manifest, sequences: Sequences, shuffle_seed: int | None = None) -> np.ndarray:
    """(interactions, 2) class and expected sentiment in the labels that ``label`` wrote, see ``feelings``."""
    return feelings(read_table(labels.path("labels.parquet"), "labels", FELT), sequences, shuffle_seed)


def read_gladness(reviews: Manifest, labels: Manifest | None, sequences: Sequences) -> Gladness | None:
    """Who was glad of what, by the stars of the reviews or else by their labels, see ``gladness``."""
    labelled = None if labels is None else read_table(labels.path("labels.parquet"), "labels", FELT)
    rated = read_table(reviews.path("reviews.parquet"), "reviews", ("user", "position", "rating"))
    return gladness(rated, labelled, sequences)


def ranking_inputs(job: Job, reviews: Manifest, labels: Manifest, candidates: Manifest) -> RankingInputs:
    """Sequences, feelings as ``rerank.sentiment`` says, and pools of ``rerank.n_reranked`` candidates."""
    config, sequences = job.config.rerank, read_sequences(job, reviews)
    felt = read_feelings(labels, sequences, config.seed if config.sentiment == "shuffled" else None)
    first = [("rank", "<=", config.n_reranked)]
    table = read_table(candidates.path("candidates.parquet"), "candidates", filters=first)
    return RankingInputs(sequences, felt, Pools(table, sequences, config.n_reranked))


def user_split(job: Job, sequences: Sequences) -> UserSplit:
    """Splits the users who have a test item. A refit trains on the validation users, too.

    The share of validation users is raised where it holds fewer than FEW_VALID, to at most MOST_VALID.
    Inductive: nobody is both fine-tuned on and evaluated; at most ``rerank.max_users`` are fine-tuned on, and no gate
    users, because fine-tuning learns and chooses the epoch from held-out items.
    Transductive: all are evaluated; the LLM learns from everybody's items but the last two.
    """
    users = [sequences.users[row] for row in sequences.split("test").users]
    config = job.config.rerank
    if config.user_split == "transductive":
        return UserSplit(train=[], valid=[], evaluate=sorted(users))
    tuned = int(config.finetune_share * len(users) * (1 - job.config.evaluate.gate_share))
    enough = min(MOST_VALID, FEW_VALID / tuned) if tuned else 0.0
    share, seed = max(config.valid_share, enough), job.config.evaluate.seed
    gate = {sequences.users[row] for row in sequences.gate}
    split = split_users(users, config.finetune_share, share, seed, gate)
    if job.refit:
        split = replace(split, train=[*split.train, *split.valid], valid=[])
    return replace(split, train=split.train[: config.max_users or None])


def split_settings(job: Job) -> dict[str, Any]:
    """The settings that ``user_split`` and the gate users depend on."""
    config, gate = job.config.rerank, {"gate_share": job.config.evaluate.gate_share}
    if config.user_split == "transductive":
        return {"user_split": config.user_split} | gate
    names = ("user_split", *INDUCTIVE_SETTINGS)
    return {name: getattr(config, name) for name in names} | {"seed": job.config.evaluate.seed} | gate


def evaluated_users(job: Job, sequences: Sequences) -> list[str]:
    """The evaluation users in random order, of whom ``evaluate.users`` takes the first."""
    return draw_users(user_split(job, sequences).evaluate, job.config.evaluate.seed)


def weight_users(job: Job, sequences: Sequences) -> list[str]:
    """The users on whose validation items weights are chosen: evaluation users, without gate users."""
    gate = {sequences.users[row] for row in sequences.gate}
    users = [user for user in evaluated_users(job, sequences) if user not in gate]
    return users[: job.config.evaluate.valid_users or None]


def gate_users(job: Job, sequences: Sequences) -> list[str]:
    """The gate users with a target. ``evaluate.valid_users`` takes those whose `gate_draw` is lowest, whoever joins."""
    users = [sequences.users[row] for row in sequences.split("gate").users]
    return sorted(users, key=gate_draw)[: job.config.evaluate.valid_users or None]


def learned_sequences(job: Job, sequences: Sequences) -> Sequences:
    """The sequences that a stage learns from: with held-out items, but not in a refit."""
    return sequences.with_whole(sequences.users) if job.refit else sequences


def retriever_sequences(job: Job, sequences: Sequences, config: RetrieveConfig) -> Sequences:
    """The sequences that a retriever learns from.

    With ``retrieve.tuning_users: whole`` nothing is held out of the LLM's fine-tuning users.
    """
    if config.tuning_users == "whole" and not job.refit:
        return sequences.with_whole(user_split(job, sequences).train)
    return learned_sequences(job, sequences)
