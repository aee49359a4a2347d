"""The stages from reviews to metrics, in their order, as plain functions.

Each stage names its inputs, its settings and its code, hands its work to ``run_stage``, and logs the result to MLflow.
Stages exchange manifests (paths and hashes), never tables. ``sealr.flows.steps`` makes Prefect tasks of them.
"""

from __future__ import annotations

import logging
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sealr import tracking, weights
from sealr.config import ConfigError, to_dict
from sealr.data import ingest as ingesting
from sealr.data.manifest import Manifest, StageResult, run_stage, state_dir
from sealr.data.privacy import ingest_settings
from sealr.data.tables import read_json, read_table, write_json
from sealr.emotion import label as labelling
from sealr.emotion.labeller import labeller_id
from sealr.emotion.plots import distribution_plot
from sealr.evaluate.evaluate import evaluate as evaluate_tables
from sealr.pipeline.gladness import read_forecast
from sealr.pipeline.gladness import satisfaction as satisfaction  # one of the stages, for `through_evaluation`
from sealr.pipeline.inputs import (
    INDUCTIVE_SETTINGS,
    evaluated_users,
    gate_users,
    learned_sequences,
    ranking_inputs,
    read_gladness,
    read_sequences,
    retriever_sequences,
    split_settings,
    user_split,
    weight_users,
)
from sealr.pipeline.job import Job
from sealr.pipeline.retrievers import (
    item_profiles,
    read_content,
    retriever_feelings,
    split_code,
    split_key,
    train_retriever,
)
from sealr.pipeline.texts import FILE as TEXTS
from sealr.pipeline.texts import decide, reading_parts
from sealr.registry.headline import headline
from sealr.rerank.generative.finetune import finetune as finetune_adapter
from sealr.rerank.launch import launch
from sealr.rerank.llm import ADAPTER
from sealr.rerank.rankers import load_encoder, load_ranker
from sealr.rerank.requests import finetuning_requests
from sealr.rerank.rerank import rerank as rerank_lists
from sealr.rerank.satisfying import PLOT as FRONTIER
from sealr.rerank.scoring.train import train_scoring
from sealr.retrieve.candidates import write_candidates
from sealr.retrieve.index import faiss
from sealr.retrieve.models.fusion import reads_feelings
from sealr.retrieve.train import load

log = logging.getLogger(__name__)
SCORING_BATCHES = 16  # batches that the scoring ranker scores per checkpoint: each takes a fraction of a second
RANKING_ONLY = ("decode_batch", "eval_history", "top_k")  # settings of rerank that no adapter depends on
PIPELINE = ("pipeline/inputs.py", "pipeline/stages.py")
LLM_CODE = (
    "data",
    "rerank",
    "retrieve",
    "trainer.py",
    "emotion/feelings.py",
    "emotion/sentiment.py",
    "evaluate/protocols.py",
    "evaluate/metrics.py",
)


def ingest(job: Job) -> Manifest:
    """Reads, cleans and validates the reviews (paper section 3.1.1)."""
    config = job.config.data
    with job.stage("ingest", config):
        files = ingesting.input_files(config)
        work = partial(ingesting.ingest, config, files=files)
        manifest = run_stage("ingest", job.name, ingest_settings(config), files, ("data", *PIPELINE), work)
        tracking.log_manifest(manifest)
        for table in ("reviews", "items"):
            job.validate_table(manifest, table)
        tracking.log_input(tracking.dataset_of(manifest, config), job.run_id)
        return manifest


def label(job: Job, reviews: Manifest) -> Manifest:
    """Labels every review with an emotion and a sentiment (section 2.1)."""
    config = job.config.label
    with job.stage("label", config):
        result_fields = {k: v for k, v in to_dict(config).items() if k not in labelling.EXECUTION_ONLY_FIELDS}
        settings = {"label": result_fields, "labeller": labeller_id(config)}
        cache = state_dir() / "label-cache" if config.cache else None

        def work(folder: Path) -> StageResult:
            frame = read_table(reviews.path("reviews.parquet"), "reviews")
            result = labelling.label(frame, config, folder, cache=cache)
            emotions = read_table(folder / "labels.parquet", "labels", ("emotion", "sentiment", "expected"))
            distribution_plot(emotions, folder / "labels.png", frame["rating"])
            return result

        manifest = run_stage("label", job.name, settings, {"reviews": reviews}, ("data", "emotion", *PIPELINE), work)
        tracking.log_manifest(manifest, {"labels.png": "plots"})
        if read_table(reviews.path("reviews.parquet"), "reviews", ("text",))["text"].str.strip().eq("").all():
            log.warning("%s has no review texts, so there are no sentiments; the job continues without them", job.name)
        else:
            job.validate_table(manifest, "labels")
        return manifest


def retrieve(job: Job, reviews: Manifest, labels: Manifest | None = None) -> Manifest:
    """Trains the retriever and writes candidate pools (section 2.2). labels: needed where it reads sentiments."""
    config = job.config.retrieve
    if config.index == "approximate":
        faiss()  # a missing library is an error before the training, not after it
    decision = decide(job, reviews, labels)
    config = decision.config
    trained = train_retriever(job, config, reviews, labels)
    with job.stage("retrieve", config):

        def work(folder: Path) -> StageResult:
            for name in trained.files:
                shutil.copyfile(trained.path(name), folder / name)
            write_json(read_json(folder / "retriever.json") | {"config": to_dict(config)}, folder / "retriever.json")
            write_json({"words": decision.words, "figures": decision.figures}, folder / TEXTS)
            sequences = read_sequences(job, reviews)
            felt = retriever_feelings(config, labels, sequences)
            learned = retriever_sequences(job, sequences, config).whole
            return write_candidates(load(folder), sequences, config, folder, felt, learned)

        inputs = {"reviews": reviews, "retriever": trained}
        if labels is not None and reads_feelings(config):
            inputs["labels"] = labels
        settings = {"retrieve": config, "texts": decision.figures, "gate_share": job.config.evaluate.gate_share}
        settings |= split_key(job, config)
        own = ("retrieve", "evaluate/metrics.py", "emotion/feelings.py", *split_code(config))
        code = ("data", *own, "pipeline/texts.py", *PIPELINE)
        manifest = run_stage("retrieve", job.name, settings, inputs, code, work)
        tracking.log_manifest(manifest, {"retriever.json": "", TEXTS: ""})
        job.validate_table(manifest, "candidates")
        return manifest


def finetune(
    job: Job,
    reviews: Manifest,
    labels: Manifest,
    candidates: Manifest,
    retriever: Manifest | None = None,
    stop: int | None = None,
) -> Manifest:
    """Fine-tunes the LLM with LoRA (section 2.3).

    retriever: to start from; None: that of the candidates. stop: train for so many epochs, without validation.
    """
    config, category = job.config.rerank, job.config.data.category
    with job.stage("finetune", config):
        inputs = {"reviews": reviews, "labels": labels, "candidates": candidates}
        if retriever:
            inputs["retriever"] = retriever
        choice = config.scoring.content if config.ranker == "scoring" else "none"
        if choice != "none":
            inputs["content"] = item_profiles(job, job.config.retrieve, reviews)
        # The scoring ranker learns against the catalogue, so its adapter does not depend on the pool size
        unused = {*RANKING_ONLY, *INDUCTIVE_SETTINGS, *(("n_reranked",) if config.ranker == "scoring" else ())}
        trained = {k: v for k, v in to_dict(config).items() if k not in unused}
        settings = {
            "rerank": trained,
            "users": split_settings(job),
            "category": category,
            "base": weights.digest(config.base),
            "stop": stop,
        }

        def work(folder: Path) -> StageResult:
            given = ranking_inputs(job, reviews, labels, candidates)
            split, learned = user_split(job, given.sequences), learned_sequences(job, given.sequences)
            if (share := len(split.valid) / max(1, len(split.train) + len(split.valid))) > 1.5 * config.valid_share:
                log.info("rerank.valid_share is raised to %.2f: fewer users would choose the epoch by chance", share)
            train, valid = (given.sequences.rows(users).tolist() for users in (split.train, split.valid))
            tune = partial(launch, processes=config.processes, on_epoch=tracking.log_epoch)
            if config.ranker == "scoring":
                read = job.config.retrieve
                content = read_content(inputs["content"], choice, read).numpy() if "content" in inputs else None
                felt, users = given.feelings if config.sentiment != "none" else None, (train, valid)
                data = (category, learned, felt, users, (retriever or candidates).folder, content)
                return tune(partial(train_scoring, stop=stop), config, *data, folder)
            prompts, held_out = (
                finetuning_requests(rows, given.sequences, given.feelings, given.pools) for rows in (train, valid)
            )
            items = read_table(reviews.path("items.parquet"), "items")
            encoder = load_encoder(config, category, items, preferences_dir())
            return tune(partial(finetune_adapter, stop=stop), prompts, held_out, config, encoder, folder)

        manifest = run_stage(job.named("finetune"), job.name, settings, inputs, (*LLM_CODE, *PIPELINE), work)
        tracking.log_manifest(manifest, {ADAPTER: ADAPTER, "history.json": ""})
        return manifest


def rerank(
    job: Job, reviews: Manifest, labels: Manifest, candidates: Manifest, adapter: Manifest, glad: Manifest
) -> Manifest:
    """Re-ranks the evaluation users' pools, tunes the weights of LLM and satisfaction, and ranks for the gate users.

    glad: the forecast of satisfaction.
    """
    config = job.config
    with job.stage("rerank", {"rerank": config.rerank, "evaluate": config.evaluate}):
        inputs = {"reviews": reviews, "labels": labels, "candidates": candidates, "adapter": adapter}
        inputs["satisfaction"] = glad
        settings = {"rerank": config.rerank, "evaluate": config.evaluate, "category": config.data.category}
        settings["base"] = weights.digest(config.rerank.base)

        def work(folder: Path) -> StageResult:
            given = ranking_inputs(job, reviews, labels, candidates)
            drawn = (users(job, given.sequences) for users in (evaluated_users, weight_users, gate_users))
            test, valid, gate = (given.sequences.rows(users).tolist() for users in drawn)
            test = test[: config.evaluate.users or None]
            items = read_table(reviews.path("items.parquet"), "items")
            ranker = load_ranker(config.rerank, config.data.category, adapter.path(ADAPTER), items, preferences_dir())
            batch = config.rerank.decode_batch * (SCORING_BATCHES if config.rerank.ranker == "scoring" else 1)
            truth = read_gladness(reviews, labels, given.sequences)
            more = (read_forecast(glad), truth.liked if truth else None)
            tables = given.sequences, given.feelings, given.pools
            return rerank_lists(ranker, test, valid, *tables, batch, folder, *more, gate_rows=gate)

        code = (*LLM_CODE, "evaluate", "satisfaction", *PIPELINE)
        manifest = run_stage("rerank", job.name, settings, inputs, code, work)
        tracking.log_manifest(manifest, {"fusion.json": "", FRONTIER: "plots"})
        return manifest


def evaluate(job: Job, reviews: Manifest, labels: Manifest, candidates: Manifest, rankings: Manifest) -> Manifest:
    """Metrics of retriever, LLM and fusion under three protocols (section 3.1.3), with intervals over users."""
    config = job.config.evaluate
    with job.stage("evaluate", config):
        inputs = {"reviews": reviews, "labels": labels, "candidates": candidates, "rankings": rankings}
        settings = {"evaluate": config} | split_key(job, job.config.retrieve)
        if readers := reading_parts(job.config.retrieve):
            inputs["content"] = item_profiles(job, job.config.retrieve, reviews)

        def work(folder: Path) -> StageResult:
            sequences = read_sequences(job, reviews)
            content = read_content(inputs["content"], readers[0].content, readers[0]).numpy() if readers else None
            ranks = np.load(candidates.path("test_ranks.npy"), allow_pickle=False)
            fusion = read_json(rankings.path("fusion.json"))
            lists = read_table(rankings.path("rankings.parquet"), "rankings")
            glad = read_gladness(reviews, labels, sequences)
            learned = retriever_sequences(job, sequences, job.config.retrieve).whole
            users, validity = fusion["test_users"], fusion["validity"]
            words = (read_json(candidates.path(TEXTS))["words"], fusion.get("satisfaction_in_words", ""))
            about = sequences, glad, config, folder, learned, content, [found for found in words if found]
            return evaluate_tables(lists, ranks, users, validity, *about)

        code = ("data", "evaluate", "emotion/feelings.py", *PIPELINE)
        manifest = run_stage("evaluate", job.name, settings, inputs, code, work)
        tracking.log_manifest(manifest, {"results.md": "", "results.json": "", "results.png": "plots"})
        if not job.cell:  # the cells of a comparison would overwrite each other's metrics
            tracking.log_metrics(headline(read_json(manifest.path("results.json"))), job.run_id)
        return manifest


def through_evaluation(job: Job, stages: Any = None) -> dict[str, Manifest]:
    """Runs the stages up to the metrics; returns their manifests by the name of what they made.

    stages: a module with the stage functions; this one if None. Flows pass their Prefect tasks.
    """
    if job.config.evaluate.split == "time":
        raise ConfigError("evaluate.split=time is for comparisons of retrievers, not for jobs: set evaluate.split=last")
    run = stages or sys.modules[__name__]
    made = {"reviews": run.ingest(job)}
    made["labels"] = run.label(job, made["reviews"])
    made["satisfaction"] = run.satisfaction(job, *(read := (made["reviews"], made["labels"])))
    made["candidates"] = run.retrieve(job, *read)
    made["adapter"] = run.finetune(job, *read, made["candidates"])
    made["rankings"] = run.rerank(job, *read, made["candidates"], made["adapter"], made["satisfaction"])
    made["results"] = run.evaluate(job, *read, made["candidates"], made["rankings"])
    return made


def preferences_dir() -> Path:
    """Where PALR's written preferences are cached for all data sets, by LLM and prompt."""
    return state_dir() / "preferences"
