"""Comparisons of systems: how one system is run. `sealr.pipeline.comparison_files` reads what is compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sealr.config import ConfigError, from_dict, load_config, merged, nearest, to_dict
from sealr.data.manifest import Manifest
from sealr.data.sequences import Sequences
from sealr.data.tables import read_json, read_table
from sealr.evaluate.comparison import FULL, INJECTED, KEPT, TIMELY, TIMES, Run
from sealr.evaluate.evaluate import list_matrix
from sealr.evaluate.gladness import Gladness
from sealr.evaluate.metrics import coverage
from sealr.evaluate.protocols import RETRIEVER, inverted, rank_in
from sealr.pipeline.comparison_files import Comparison
from sealr.pipeline.inputs import evaluated_users, read_gladness, read_sequences
from sealr.pipeline.job import Job
from sealr.pipeline.retrievers import timely, train_retriever
from sealr.pipeline.stages import through_evaluation
from sealr.rerank.rerank import GLAD
from sealr.retrieve.models.fusion import built_on, parts_of
from sealr.settings import RetrieveConfig

RANKS = {FULL: "test_ranks.npy", KEPT: "test_ranks_kept.npy", INJECTED: "test_ranks.npy"}  # files of a retriever
SHARE = r" FT\d+"  # in the name of a system: the share of the users that the paper fine-tunes on
APART = 100  # between the seeds of equal parts; replicates have seeds below it, so none trains another's part
NOT_SETTINGS = ("seeds", "parts", "teacher", "best_part")  # keys of a row that are not settings of `retrieve`


@dataclass(frozen=True)
class Bench:
    """A comparison on one data set, with the tables and users that its systems share."""

    spec: Comparison
    job: Job
    overrides: str  # from the command line, after all other settings
    stages: Any  # as in `through_evaluation`
    reviews: Manifest
    labels: Manifest | None
    users: list[str]
    places: np.ndarray  # (N,) of the users in the split "test"
    everybody: bool  # all users with a test item are evaluated, so that coverage is comparable
    split: str = "Leave-one-out"  # what is held out, for the heading
    trained: dict[str, Manifest] = field(default_factory=dict)  # retriever -> its first seed, once it was run

    def ranks(self, made: Manifest, protocol: str) -> np.ndarray:
        """(N,) target ranks of a trained retriever, 0 where the target is masked as seen.

        Under "injected" it keeps its own first C items, and a target that is not among them takes the last place.
        """
        ranks = np.load(made.path(RANKS[protocol]), allow_pickle=False)[self.places]
        pool = self.job.config.rerank.n_reranked
        return np.where((ranks >= 1) & (ranks <= pool), ranks, pool) if protocol == INJECTED else ranks

    def baseline(self) -> np.ndarray | None:
        """(N,) target ranks of the configuration's own retriever, where the comparison has a baseline."""
        if not self.spec.baseline:
            return None
        return self.ranks(train_retriever(self.job, self.job.config.retrieve, self.reviews, self.labels), FULL)

    def gladness(self) -> Gladness | None:
        """How glad users were of their targets, (N,) each; None where the reviews have neither stars nor labels."""
        sequences = read_sequences(self.job, self.reviews)
        glad = read_gladness(self.reviews, self.labels, sequences)
        return glad and glad.take(sequences.split("test").ends[self.places])


def open_bench(spec: Comparison, job: Job, overrides: str, stages: Any) -> Bench:
    """Ingests, labels if feelings are compared, and selects the users."""
    reviews = stages.ingest(job)
    labels = stages.label(job, reviews) if spec.feelings else None
    sequences = read_sequences(job, reviews)
    split = sequences.split("test")
    users = evaluated_users(job, sequences)[: job.config.evaluate.users or None]
    users = (
        users if spec.chains else sorted(users)
    )  # the order of the sums, and so their last digits, stay as published
    places = np.searchsorted(split.users, sequences.rows(users))
    everybody = len(users) == len(split)
    return Bench(spec, job, overrides, stages, reviews, labels, users, places, everybody, in_words(sequences, places))


def in_words(sequences: Sequences, places: np.ndarray) -> str:
    """What is held out of which sequences. places: of the evaluated users in the split "test"."""
    if sequences.cuts is None:
        return "Leave-one-out"
    start, until = (str(np.datetime64(moment, "s").astype("datetime64[D]")) for moment in sequences.cuts.moments)
    new = int((~sequences.known[sequences.split("test").targets[places]]).sum())
    users = len(sequences.split("valid"))
    return (
        f"Split by time: training until {start}, validation ({users:,} users) until {until}, test after it; "
        f"{new:,} test targets are items that nobody had in training, so all miss them"
    )


def run_system(bench: Bench, system: str) -> list[Run]:
    """The runs of one system, a chain or a retriever, for every seed."""
    own, seeds = bench.spec.systems[system], bench.spec.seeds
    run = _run_chain if isinstance(own, str) else _run_retriever
    count = seeds if isinstance(own, str) else own.get("seeds", seeds)
    return [made for seed in range(count) or [None] for made in run(bench, system, seed)]


def retriever_config(base: RetrieveConfig, name: str, systems: dict[str, Any], seed: int | None) -> RetrieveConfig:
    """The settings of one retriever over those of the configuration. seed None: that of the configuration.

    A part that a fusion names again is trained with another seed: seed + APART, then seed + 2 * APART, and so on.
    Raises ConfigError on settings, parts or a teacher that cannot be.
    """
    plain = {system: {k: v for k, v in systems[system].items() if k not in NOT_SETTINGS} for system in systems}
    own, settings = systems[name], plain[name]
    seeded = replace(base, teacher=()) if seed is None else replace(base, teacher=(), seed=seed)

    def fused(parts: Sequence[str], rows: Mapping[str, dict[str, Any]]) -> tuple[dict[str, Any], ...]:
        for part in parts:
            if part not in systems or systems[part].keys() & {"parts", "teacher"}:
                raise ConfigError(
                    f"settings of {name}: {part!r} is not a row of one model{nearest(part, list(systems))}"
                )
        earlier = [parts[:place].count(part) for place, part in enumerate(parts)]
        others = [{"seed": seeded.seed + APART * count} if count else {} for count in earlier]
        return tuple(rows[part] | other for part, other in zip(parts, others, strict=True))

    if parts := own.get("parts"):
        settings = settings | {"model": "fusion", "parts": fused(parts, plain)}
    elif settings.get("model", "fusion") != "fusion":  # so that a part of the configuration's fusion is trained once
        settings = settings | {"parts": ()}
    if teacher := own.get("teacher"):
        rows = {part: to_dict(retriever_config(base, part, systems, seed)) for part in {*teacher} & systems.keys()}
        settings = settings | {"teacher": fused(teacher, rows)}  # whole, so that those of the pupil do not count
    return from_dict(RetrieveConfig, merged(to_dict(seeded), settings), f"settings of {name}")


def _run_retriever(bench: Bench, system: str, seed: int | None) -> list[Run]:
    job, own = bench.job, {k: v for k, v in bench.spec.systems.items() if not isinstance(v, str)}
    config, pool = retriever_config(job.config.retrieve, system, own, seed), job.config.rerank.n_reranked
    before = [train_retriever(job, each, bench.reviews, bench.labels) for each in built_on(config)]
    if before and own[system].get("best_part"):
        made = max(before, key=lambda part: part.metrics["valid_ndcg@10"])
        seconds, note = made.seconds, str(made.config["model"])
    else:
        made = train_retriever(job, config, bench.reviews, bench.labels, system)
        seconds, note = made.seconds + sum(each.seconds for each in before), ""
    bench.trained.setdefault(system, made)
    covered = made.metrics["coverage@10"] if bench.everybody else np.nan
    ranks = {protocol: bench.ranks(made, protocol) for protocol in bench.spec.protocols if protocol in RANKS}
    if TIMELY in bench.spec.protocols:  # without texts, time changes nothing
        reads = any(part.content != "none" for part in parts_of(config) or [config])
        aged = timely(job, config, bench.reviews, made, bench.labels) if reads else made
        ranks[TIMELY] = np.load(aged.path("test_ranks.npy"), allow_pickle=False)[bench.places]
    return [Run(system, config.seed, ranks, pool, np.full(len(bench.users), pool), covered, seconds, note=note)]


def _run_chain(bench: Bench, system: str, seed: int | None) -> list[Run]:
    """The LLM alone, fused and with satisfaction; under "injected" also the retriever's order, inverted and not."""
    spec = bench.spec
    config = load_config(spec.configuration, spec.base, f"{spec.settings} {spec.systems[system]} {bench.overrides}")
    if seed is not None:
        config = replace(config, retrieve=replace(config.retrieve, seed=seed), rerank=replace(config.rerank, seed=seed))
    job, pool = Job(config, bench.job.run_id, system), config.rerank.n_reranked
    made = through_evaluation(job, bench.stages)
    adapter, rankings, fusion = made["adapter"], made["rankings"], read_json(made["rankings"].path("fusion.json"))
    if fusion["test_users"] != bench.users:
        raise ConfigError(f"{system} evaluates other users than this comparison: remove evaluate.* from its settings")
    sequences = read_sequences(bench.job, bench.reviews)
    lists = read_table(rankings.path("rankings.parquet"), "rankings")
    targets = sequences.split("test").targets[bench.places]

    def items(ranker: str, split: str) -> np.ndarray:
        return list_matrix(lists, ranker, split, bench.users, sequences)  # (N, C)

    retrievers = [config.retrieve, *built_on(config.retrieve)]
    trained = [train_retriever(job, each, made["reviews"], made["labels"]) for each in retrievers]
    seconds = sum(stage.seconds for stage in (*trained, adapter, rankings))
    pools = items(RETRIEVER, "injected")
    sizes, runs, used = (pools > 0).sum(axis=1), [], ""
    if {INJECTED, TIMES} & spec.protocols.keys():  # the paper's tables name rows by shares that a cap may have cut
        used = f"{adapter.rows['train_users']:,} of {len(sequences):,} users"
    for ranker in (name for name in dict.fromkeys(lists["ranker"]) if name != RETRIEVER):
        label = system if ranker == config.rerank.ranker else f"{system}, {ranker}"
        orders = {FULL: items(ranker, "test"), INJECTED: items(ranker, "injected")}
        ranks = {protocol: rank_in(orders[protocol], targets) for protocol in spec.protocols if protocol in orders}
        covered = coverage(orders[FULL][:, :10], sequences.n_items) if bench.everybody else np.nan
        note = "" if ranker == config.rerank.ranker else f"weight of the LLM {fusion['weight']:g}"
        if ranker == GLAD:
            note += f", of satisfaction {fusion['satisfaction_weight']:g}"
        shown = used and label.replace(system, f"{re.sub(SHARE, '', system)}, {used}")
        runs.append(Run(label, config.rerank.seed, ranks, pool, sizes, covered, seconds, note=note, label=shown))
    if TIMES in spec.protocols:
        training = adapter.metrics["train_seconds"] / (adapter.rows["train_users"] * adapter.metrics["epochs"])
        runs[0] = replace(runs[0], times=(training, rankings.metrics.get("seconds_a_list", np.nan)))
    if INJECTED in spec.protocols:
        for order, label in ((pools, "retriever's order"), (inverted(pools), "retriever's order inverted")):
            runs.append(
                Run(f"{label}, Can{pool}", config.rerank.seed, {INJECTED: rank_in(order, targets)}, pool, sizes)
            )
    return runs
