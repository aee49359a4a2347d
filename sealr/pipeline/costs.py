"""What the retrievers of a comparison cost: columns beside their accuracy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import pandas as pd
import torch

from sealr.data.manifest import Manifest
from sealr.data.sequences import Sequences
from sealr.pipeline.comparison import Bench
from sealr.pipeline.inputs import read_sequences
from sealr.pipeline.retrievers import retriever_feelings
from sealr.retrieve.candidates import pools_for, user_blocks
from sealr.retrieve.retriever import Retriever, load

USERS = 1000  # at most; spread over those who are evaluated
WARM = 50  # users before the clock starts: what is computed once belongs to no user
PASSES = 3  # the median counts, as other threads of the process use CPU time now and then
K = 10  # items of a list
COLUMNS = ("epochs", "seconds", "lists/s")


@dataclass(frozen=True)
class Cost:
    """lists: users a second of CPU time who get their list. epochs: kept ones of a network; None for anything else."""

    lists: float
    epochs: int | None = None


def cost_of(bench: Bench, trained: Manifest) -> Cost:
    """The cost of a trained retriever, measured now."""
    retriever, sequences = load(trained.folder), read_sequences(bench.job, bench.reviews)
    felt = retriever_feelings(retriever.config, bench.labels, sequences)
    lists = lists_per_second(retriever, sequences, bench.places, felt)
    counted = retriever.config.model == "fusion" or not any(retriever.epochs)
    return Cost(lists, None if counted else retriever.epochs[0])


def lists_per_second(
    retriever: Retriever, sequences: Sequences, places: np.ndarray, feelings: np.ndarray | None = None
) -> float:
    """Users a second of CPU time who get their K best items as a served model finds them, over the whole catalogue.

    places (N,): in the split "test". feelings: (interactions, 2), where the retriever reads any.
    """
    split = sequences.split("test")
    drawn = places[np.unique(np.linspace(0, len(places) - 1, USERS, dtype=np.int64))]
    part = replace(split, **{name: getattr(split, name)[drawn] for name in ("users", "starts", "ends", "targets")})
    ((_, histories, felt),) = user_blocks(retriever, sequences, part, feelings, USERS, "lists/s")

    def seconds(count: int) -> float:
        started = time.process_time()
        some = felt and felt[:count]
        for _ in pools_for(retriever, histories[:count], K, retriever.config.exclude_seen, some):
            pass
        return time.process_time() - started

    seconds(WARM)
    return len(histories) / median(seconds(len(histories)) for _ in range(PASSES))


def with_costs(table: pd.DataFrame, costs: Mapping[str, Cost]) -> pd.DataFrame:
    """A comparison's table with the columns ``epochs`` and ``lists/s`` around ``seconds``; empty for other systems."""
    made = table.copy()
    for name, values in (
        ("epochs", {system: cost.epochs for system, cost in costs.items() if cost.epochs}),
        ("lists/s", {system: round(cost.lists) for system, cost in costs.items()}),
    ):
        if values:
            made[name] = made["system"].map(values).astype("Int64")
    last = [name for name in (*COLUMNS, "note") if name in made]
    return made[[*(name for name in made if name not in last), *last]]


def reading() -> str:
    """What the columns mean, for the page."""
    return (
        "`epochs`: those that validation kept, of the first seed. `seconds`: wall time of training and ranking one "
        "seed, with what it builds on, as the machine was then. `lists/s`: users a second of CPU time who get their "
        f"exact {K} best items as in service. It is measured now on up to {USERS:,} users with the first seed and "
        f"{torch.get_num_threads()} torch threads; a fusion asks every part that has a weight."
    )
