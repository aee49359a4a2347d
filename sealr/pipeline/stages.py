"""The stages in the order of the chain, as plain functions.

Each one opens the stage's MLflow run, calls `run_stage` on a function of its subpackage, and logs the manifest. Stages
exchange manifests (paths and hashes), never tables. `sealr.flows.steps` makes Prefect tasks of them.
"""

from __future__ import annotations

import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sealr.pipeline.job import Job
from sealr.pipeline.inputs import (
    DRAWN,
    evaluated_users,
    ranking_inputs,
    read_sequences,
    retriever_sequences,
    split_settings,
    user_split,
)
from sealr.pipeline.retrievers import drawing, drawn, item_content, labelled_feelings, reads_feelings, train_retriever
from sealr import tracking, weights
from sealr.config import to_dict
from sealr.data import ingest as ingesting
from sealr.data.manifest import Manifest, StageResult, run_stage, state_dir
from sealr.data.tables import read_json, read_table, write_json
from sealr.emotion import label as labelling
from sealr.emotion.plots import distribution_plot
from sealr.evaluate.evaluate import evaluate as evaluate_tables
from sealr.rerank.generative.finetune import ADAPTER
from sealr.rerank.launch import finetune as finetune_adapter
from sealr.rerank.launch import train_scoring
from sealr.rerank.generative.palr import finetune_names
from sealr.rerank.rankers import load_ranker
from sealr.rerank.requests import feelings_of, finetuning_requests, sentiment_values
from sealr.rerank.rerank import rerank as rerank_lists
from sealr.retrieve.candidates import write_candidates
from sealr.retrieve.index import faiss
from sealr.retrieve.train import load
from sealr.settings import RetrieveConfig

log = logging.getLogger(__name__)
PART = 16  # batches of the scoring ranker to a checkpoint: they take a fraction of a second each
NOT_TRAINED = ("decode_batch", "top_k", "checkpoint_steps")  # settings of rerank that no adapter depends on
NOT_READ = ("n_reranked", "candidate_order")  # and one of the scoring ranker neither: it learns against the catalogue


def ingest(job: Job) -> Manifest:
    """Reads, cleans and validates the reviews (paper Section 3.1.1)."""
    config = job.config.data
    with job.stage("ingest", config):
        files = ingesting.input_files(config)

        def work(folder: Path) -> StageResult:
            return ingesting.ingest(config, folder, files)

        manifest = run_stage("ingest", job.name, config, files, ("data",), work)
        tracking.log_manifest(manifest)
        for table in ("reviews", "items"):
            job.validate_table(manifest, table)
        tracking.log_input(manifest, "reviews", job.name, config.reviews.path or config.source)
        return manifest


def label(job: Job, reviews: Manifest) -> Manifest:
    """Labels every review with an emotion and a sentiment (Section 2.1)."""
    config = job.config.label
    with job.stage("label", config):

        def work(folder: Path) -> StageResult:
            frame = read_table(reviews.path("reviews.parquet"), "reviews")
            output = labelling.label(frame, config, folder, cache=state_dir() / "label-cache" if config.cache else None)
            distribution_plot(read_table(folder / "labels.parquet", "labels"), folder / "labels.png", frame["rating"])
            return output

        what = {k: v for k, v in to_dict(config).items() if k not in labelling.HOW}
        identity = {"label": what, "labeller": labelling.labeller_id(config)}
        manifest = run_stage("label", job.name, identity, {"reviews": reviews}, ("data", "emotion"), work)
        tracking.log_manifest(manifest, {"labels.png": "plots"})
        if read_table(reviews.path("reviews.parquet"), "reviews")["text"].str.strip().eq("").all():
            log.warning("no review of %s has a text: there are no feelings, and everything goes on without them", job.name)
        else:
            job.validate_table(manifest, "labels")
        return manifest


def retrieve(job: Job, reviews: Manifest, labels: Manifest | None = None) -> Manifest:
    """Trains the retriever and writes candidate pools (Section 2.2). labels: needed where the retriever reads sentiments."""
    config = job.config.retrieve
    if config.index == "approximate":
        faiss()  # where it is missing, that is said before the training
    usual = RetrieveConfig()
    same = {name: getattr(usual, name) for name in ("index", "probe", "n_retrieved")}  # what is trained does not depend on these
    trained = train_retriever(job, replace(config, **same), reviews, labels)
    with job.stage("retrieve", config):

        def work(folder: Path) -> StageResult:
            for name in trained.files:
                shutil.copyfile(trained.path(name), folder / name)
            write_json(read_json(folder / "retriever.json") | {"config": to_dict(config)}, folder / "retriever.json")
            felt = labelled_feelings(config, labels, sequences := read_sequences(reviews))
            learned = retriever_sequences(job, reviews, config).whole
            return write_candidates(load(folder), sequences, config, folder, felt, learned)

        inputs = {"reviews": reviews, "retriever": trained} | ({"labels": labels} if reads_feelings(config) else {})
        code = ("data", "retrieve", "evaluate/metrics.py", *drawing(config))
        manifest = run_stage("retrieve", job.name, {"retrieve": config} | drawn(job, config), inputs, code, work)
        tracking.log_manifest(manifest, {"retriever.json": ""})
        job.validate_table(manifest, "candidates")
        return manifest


def finetune(job: Job, reviews: Manifest, labels: Manifest, candidates: Manifest) -> Manifest:
    """Fine-tunes the LLM on instructions with LoRA (Section 2.3)."""
    config = job.config.rerank
    with job.stage("finetune", config):

        def work(folder: Path) -> StageResult:
            given = ranking_inputs(job, reviews, labels, candidates)
            users, row = user_split(job, given.sequences), {u: i for i, u in enumerate(given.sequences.users)}
            train, valid = ([row[u] for u in part] for part in (users.train, users.valid))
            if config.ranker == "scoring":
                texts = np.load(content.path("content.npy")) if content else None
                felt = feelings_of(given.sentiments, given.expected) if config.sentiment != "none" else None
                return train_scoring(
                    config, category, given.sequences, felt, (train, valid), candidates.folder, texts, folder, tracking.log_epoch
                )
            prompts = [finetuning_requests(part, given.sequences, given.sentiments, given.pools) for part in (train, valid)]
            if config.ranker == "palr":
                items = read_table(reviews.path("items.parquet"), "items")
                return finetune_names(*prompts, config, category, items, folder, tracking.log_epoch, _preferences())
            return finetune_adapter(*prompts, config, category, folder, tracking.log_epoch)

        category = job.config.data.category
        content = item_content(job, reviews) if config.ranker == "scoring" and config.scoring.content else None
        inputs = {"reviews": reviews, "labels": labels, "candidates": candidates} | ({"content": content} if content else {})
        unused = {*NOT_TRAINED, *DRAWN, *(NOT_READ if config.ranker == "scoring" else ())}
        trained = {k: v for k, v in to_dict(config).items() if k not in unused}
        settings = {"rerank": trained, "users": split_settings(job), "category": category, "base": weights.digest(config.base)}
        code = ("data", "rerank", "retrieve", "evaluate/protocols.py", "evaluate/metrics.py", "emotion/sentiment.py")
        manifest = run_stage("finetune", job.name, settings, inputs, code, work)
        tracking.log_manifest(manifest, {ADAPTER: ADAPTER, "history.json": ""})
        return manifest


def rerank(job: Job, reviews: Manifest, labels: Manifest, candidates: Manifest, adapter: Manifest) -> Manifest:
    """Re-ranks the evaluation users' pools and tunes the fusion weight on validation."""
    config = job.config
    with job.stage("rerank", {"rerank": config.rerank, "evaluate": config.evaluate}):

        def work(folder: Path) -> StageResult:
            given = ranking_inputs(job, reviews, labels, candidates)
            row = {u: i for i, u in enumerate(given.sequences.users)}
            users = evaluated_users(job, given.sequences)
            test, valid = ([row[u] for u in users[: n or None]] for n in (config.evaluate.users, config.evaluate.valid_users))
            items = read_table(reviews.path("items.parquet"), "items")
            ranker = load_ranker(config.rerank, config.data.category, adapter.path(ADAPTER), items, _preferences())
            size = config.rerank.decode_batch * (PART if config.rerank.ranker == "scoring" else 1)
            return rerank_lists(ranker, test, valid, given.sequences, given.sentiments, given.pools, size, folder, given.expected)

        inputs = {"reviews": reviews, "labels": labels, "candidates": candidates, "adapter": adapter}
        settings = {
            "rerank": config.rerank,
            "evaluate": config.evaluate,
            "category": config.data.category,
            "base": weights.digest(config.rerank.base),
        }
        code = (
            "data",
            "rerank",
            "retrieve",
            "evaluate/protocols.py",
            "evaluate/metrics.py",
            "evaluate/statistics.py",
            "emotion/sentiment.py",
        )
        manifest = run_stage("rerank", job.name, settings, inputs, code, work)
        tracking.log_manifest(manifest, {"fusion.json": ""})
        return manifest


def evaluate(job: Job, reviews: Manifest, labels: Manifest, candidates: Manifest, rankings: Manifest) -> Manifest:
    """Metrics of retriever, LLM and fusion under the three protocols (Section 3.1.3), with intervals."""
    config = job.config.evaluate
    with job.stage("evaluate", config):

        def work(folder: Path) -> StageResult:
            sequences = read_sequences(reviews)
            felt, _ = sentiment_values(read_table(labels.path("labels.parquet"), "labels"), sequences)
            ranks = np.load(candidates.path("test_ranks.npy"), allow_pickle=False)
            fusion = read_json(rankings.path("fusion.json"))
            table = read_table(rankings.path("rankings.parquet"), "rankings")
            learned = retriever_sequences(job, reviews, job.config.retrieve).whole
            return evaluate_tables(table, ranks, fusion["test_users"], fusion["validity"], sequences, felt, config, folder, learned)

        inputs = {"reviews": reviews, "labels": labels, "candidates": candidates, "rankings": rankings}
        settings = {"evaluate": config} | drawn(job, job.config.retrieve)
        manifest = run_stage("evaluate", job.name, settings, inputs, ("data", "evaluate", "rerank/requests.py"), work)
        tracking.log_manifest(manifest, {"results.md": "", "results.json": "", "results.png": "plots"})
        if not job.cell:  # cells would overwrite each other's
            tracking.log_metrics(manifest.metrics, job.run_id)
        return manifest


def through_evaluation(job: Job, stages: Any = None) -> dict[str, Manifest]:
    """The chain up to the metrics: every stage's manifest by the name of what it made.

    stages: where the stage functions come from, this module unless given; flows pass their Prefect tasks.
    """
    run = stages or sys.modules[__name__]
    made = {"reviews": run.ingest(job)}
    made["labels"] = run.label(job, made["reviews"])
    made["candidates"] = run.retrieve(job, made["reviews"], made["labels"])
    made["adapter"] = run.finetune(job, made["reviews"], made["labels"], made["candidates"])
    made["rankings"] = run.rerank(job, made["reviews"], made["labels"], made["candidates"], made["adapter"])
    made["results"] = run.evaluate(job, made["reviews"], made["labels"], made["candidates"], made["rankings"])
    return made


def _preferences() -> Path:
    """Where PALR's written preferences are kept, for all data sets: a text is found by the LLM and the prompt."""
    return state_dir() / "preferences"
