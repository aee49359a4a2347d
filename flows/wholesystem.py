"""The whole system beside its retrievers, over the whole catalogue: ``mlflow run . -e benchmark -P table=sealr``.

``benchmarks/sealr.yaml`` names configurations and seeds. Every stage is the one of the main job, so what was done is reused.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow

from sealr.flows import steps
from sealr.pipeline.job import Job
from sealr.pipeline.inputs import read_sequences
from sealr.flows.job import open_job
from sealr.pipeline.retrievers import parts_of, train_retriever
from sealr.flows.sheets import report, write
from sealr.flows.specs import read_spec, wanted
from sealr.config import load_config
from sealr.data.manifest import Manifest, state_dir
from sealr.pipeline.stages import through_evaluation
from sealr.data.sequences import Sequences
from sealr.data.tables import read_json, read_table
from sealr.evaluate import retrievers as comparing
from sealr.evaluate.retrievers import Trained
from sealr.retrieve.feelings import feelings

WHOLE = "sealr"  # the table's name
SINGLE, RETRIEVED, LLM, EVERYTHING = "best single retriever", "retrievers, fused", "LLM alone", "everything fused"


@flow(name="whole-system")
def whole_system(data: str = "", overrides: str = "") -> None:
    """Best single retriever (by validation), fused retrievers, the LLM alone, and everything fused, with intervals."""
    spec = read_spec(WHOLE)
    for name in wanted(data, spec, "configuration"):
        settings = f"{shlex.join(spec[name].get('overrides', []))} {overrides}".strip()
        with open_job(f"benchmark-{WHOLE}", spec[name].get("configuration", name), "", settings) as job:
            compare(job, name, spec[name], settings)


def compare(job: Job, name: str, spec: dict[str, Any], settings: str) -> None:
    """One configuration's page. settings: what differs from the configuration file, for the reader.

    spec["variants"]: names and settings of other LLMs, such as placebos, each with rows of its own over the same retrievers.
    """
    trained: list[Trained] = []
    notes = [f"settings beside the configuration's: `{settings}`"] if settings else []
    variants = {"": []} | spec.get("variants", {})
    for seed in range(spec.get("seeds", 1)):
        retrievers: list[Manifest] = []
        for variant, changes in variants.items():
            config = load_config(spec.get("configuration", name), "", f"{settings} {shlex.join(changes)}")
            config = replace(config, retrieve=replace(config.retrieve, seed=seed), rerank=replace(config.rerank, seed=seed))
            seeded = replace(job, config=config)
            made = through_evaluation(seeded, steps)
            if not retrievers:  # variants differ in the LLM alone
                all_of_them = [*parts_of(config.retrieve), config.retrieve]
                retrievers = [train_retriever(seeded, c, made["reviews"], made["labels"]) for c in all_of_them]
            found = systems(made, *retrievers, seed=seed)
            own = [replace(run, system=f"{run.system}, {variant}") for run in found if run.system in (LLM, EVERYTHING)]
            trained += own if variant else found
            weight, single = read_json(made["rankings"].path("fusion.json"))["weight"], best_of(retrievers).config["model"]
            notes.append(
                f"seed {seed}, {variant or 'as configured'}: the LLM's weight in the fusion is {weight:g}; best single retriever, "
                f"by validation: {single}"
            )
    pairs = [(EVERYTHING, SINGLE), (EVERYTHING, RETRIEVED), (RETRIEVED, SINGLE), (LLM, SINGLE)]
    pairs += [(system, f"{system}, {variant}") for system in (LLM, EVERYTHING) for variant in variants if variant]
    notes.append(
        f"the LLM orders the first {job.config.rerank.n_reranked} candidates of the retriever, or of the fused ones: also alone, it misses "
        "a target that is not among them"
    )
    table = comparing.comparison(trained, target_feelings(made), spec.get("published", {}))
    text = report(job, spec, table, comparing.differences(trained, pairs) + notes)
    folder = state_dir() / "benchmarks" / f"{WHOLE}-{name}"
    write(folder, job, table, text)
    print(f"\n{text}\nfiles: {folder}")


def best_of(retrievers: Sequence[Manifest]) -> Manifest:
    """The best one on validation that is not a fusion."""
    return max((r for r in retrievers if r.config["model"] != "fusion"), key=lambda r: r.metrics["valid_ndcg@10"])


def systems(made: dict[str, Manifest], *retrievers: Manifest, seed: int) -> list[Trained]:
    """The compared systems of one seed over the evaluated users. retrievers: parts of a fusion, and what gave the candidates.

    Coverage is known of retrievers over everybody's lists, and so is only given, of all systems, where everybody is evaluated.
    """
    sequences = read_sequences(made["reviews"])
    users, rows = evaluated(made, sequences)
    everybody = len(users) == len(sequences.split("test"))
    retrieval = sum(r.seconds for r in retrievers)
    named = [(SINGLE, m := best_of(retrievers), m.seconds)]
    named += [(RETRIEVED, r, retrieval) for r in retrievers if r.config["model"] == "fusion"]
    found = []
    for name, manifest, seconds in named:
        ranks = np.load(manifest.path("test_ranks.npy"), allow_pickle=False)[rows]
        found.append(Trained(name, seed, ranks, manifest.metrics["coverage@10"] if everybody else np.nan, seconds))
    lists = read_table(made["rankings"].path("rankings.parquet"), "rankings").query("split == 'test'")
    seconds = retrieval + made["adapter"].seconds + made["rankings"].seconds  # the LLM ranks what was retrieved
    for ranker in lists["ranker"].unique():
        if ranker != "retriever":
            ranks, share = target_ranks(lists[lists["ranker"] == ranker], users, sequences)
            name = EVERYTHING if ranker == "fused" else LLM
            found.append(Trained(name, seed, ranks, share if everybody else np.nan, seconds))
    return found


def evaluated(made: dict[str, Manifest], sequences: Sequences) -> tuple[list[str], list[int]]:
    """The users that the lists are of, and their rows in the split "test"."""
    users = read_json(made["rankings"].path("fusion.json"))["test_users"]
    place = {sequences.users[u]: i for i, u in enumerate(sequences.split("test").users)}
    return users, [place[user] for user in users]


def target_feelings(made: dict[str, Manifest]) -> np.ndarray | None:
    """(users,) sentiment class of each evaluated user's target, NaN without a label; None where no review has one."""
    sequences = read_sequences(made["reviews"])
    felt = feelings(read_table(made["labels"].path("labels.parquet"), "labels"), sequences, "class", 0)
    targets = felt[sequences.split("test").ends, 0][evaluated(made, sequences)[1]]
    return None if np.isnan(targets).all() else targets


def target_ranks(lists: pd.DataFrame, users: list[str], sequences: Sequences) -> tuple[np.ndarray, float]:
    """(users,) rank of each user's test item in their list, 0 where it is not, and the share of items in anyone's first ten."""
    last = dict(zip(sequences.users, np.asarray(sequences.items)[sequences.flat[sequences.offsets[1:] - 1] - 1], strict=True))
    hits = lists[lists["item"].to_numpy() == lists["user"].map(last).to_numpy()]
    ranks = hits.set_index("user")["rank"].reindex(users).fillna(0).to_numpy(dtype=np.int64)
    return ranks, lists[lists["rank"] <= 10]["item"].nunique() / sequences.n_items
