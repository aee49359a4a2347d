"""Search for settings on the validation users. A study continues where an earlier run stopped."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
from prefect import flow

from sealr import tracking
from sealr.config import to_dict
from sealr.data.manifest import code_digest, state_dir, text_digest
from sealr.data.tables import read_json
from sealr.flows import steps
from sealr.flows.job import hold_lock, open_job
from sealr.pipeline.inputs import read_sequences, retriever_sequences
from sealr.pipeline.job import Job
from sealr.pipeline.retrievers import identity, item_profiles, read_content, retriever_feelings
from sealr.rerank import tune as reranker
from sealr.rerank.scoring.train import hard_model
from sealr.retrieve import tune as retriever
from sealr.retrieve.models.fusion import reads_feelings
from sealr.retrieve.train import OnEpoch, load
from sealr.settings import RetrieveConfig
from sealr.study import open_study, search, summary

# Code that a trial's value depends on: changed code starts a new study. A reranker's folder names its candidates
RETRIEVER = ("data/sequences.py", "evaluate/metrics.py", "evaluate/protocols.py", "retrieve", "trainer.py")
RERANKER = (*RETRIEVER, "evaluate/statistics.py", "emotion/sentiment.py", "rerank")


@flow(name="tune", flow_run_name="tune-{what}-{data}")
def tune(
    what: str = "retriever",
    data: str = "demo",
    base: str = "smollm2-135m",
    trials: int = 20,
    hours: float = 0.0,
    overrides: str = "",
) -> None:
    """Optuna on the validation NDCG@10. Every trial is a nested MLflow run.

    what: "retriever" or "reranker". trials: those of earlier runs count. hours: no trial starts later; 0: no limit.
    """
    with (
        open_job("tune", data, base, overrides) as job,
        hold_lock(state_dir() / job.name / "tune.lock", f"another search works on data set {job.name}"),
    ):
        study, folder, best = (tune_retriever if what == "retriever" else tune_reranker)(job, trials, hours)
        text = summary(study)
        page = folder / f"{study.study_name}.md"
        page.write_text(text, encoding="utf-8")
        tracking.log_metrics({"best.valid_ndcg@10": study.best_value}, job.run_id)
        tracking.log_file(page, job.run_id)
        arguments = shlex.join(["--data", data, "--base", base, "--set", f"{overrides} {best}".strip()])
        print(f"\n{text}\nbest, validation NDCG@10 {study.best_value:.4f}; use it with\n  sealr run {arguments}")


def tune_retriever(job: Job, trials: int, hours: float) -> tuple[optuna.Study, Path, str]:
    """The study, its folder, and the overrides of its best trial."""
    config = job.config.retrieve
    reviews = steps.ingest(job)
    labels = steps.label(job, reviews) if reads_feelings(config) else None
    sequences = retriever_sequences(job, read_sequences(job, reviews), config)
    texts = item_profiles(job, config, reviews) if config.content != "none" else None
    content = read_content(texts, config.content, config) if texts else None

    @contextmanager
    def track(title: str, chosen: RetrieveConfig) -> Iterator[OnEpoch]:
        with tracking.stage(title, job.run_id, chosen):
            yield tracking.log_epoch

    felt = retriever_feelings(config, labels, sequences)
    folder = state_dir() / job.name / "tune" / reviews.digest[:16]
    # The name changes with everything that trials share: fixed settings, labels, users and code
    shared = [identity(job, config), labels and labels.digest, code_digest(RETRIEVER), texts and texts.digest]
    name = f"{config.model}-{text_digest(shared)[:8]}"
    study = retriever.tune(config, sequences, trials, folder, name, track, content, felt, hours)
    return study, folder, " ".join(f"retrieve.{name}={value}" for name, value in study.best_params.items())


def tune_reranker(job: Job, trials: int, hours: float) -> tuple[optuna.Study, Path, str]:
    """As `tune_retriever`. A trial runs stages of the job: it resumes, and a later job reuses the best LLM."""
    config = job.config.rerank
    reviews = steps.ingest(job)
    labels = steps.label(job, reviews)
    glad = steps.satisfaction(job, reviews, labels)
    candidates = steps.retrieve(job, reviews, labels)
    folder = state_dir() / job.name / "tune" / candidates.digest[:16]
    judged = [job.config.evaluate.valid_users, job.config.evaluate.seed, labels.digest, code_digest(RERANKER)]
    study = open_study(
        folder, f"fused-{text_digest([to_dict(config), *judged])[:8]}", config.seed, reranker.current(config)
    )
    hard = hard_model(load(candidates.folder)) is not None

    def objective(trial: optuna.Trial) -> float:
        chosen = replace(
            job.config, rerank=reranker.suggest(trial, config, hard), evaluate=replace(job.config.evaluate, users=1)
        )
        one = replace(job, config=chosen)  # only validation counts: one test list is the fewest that the stage accepts
        adapter = steps.finetune(one, reviews, labels, candidates)
        rankings = steps.rerank(one, reviews, labels, candidates, adapter, glad)
        return max(read_json(rankings.path("fusion.json"))["validation_ndcg_at_10"].values())

    search(study, objective, trials, hours)
    return study, folder, reranker.overrides(reranker.suggest(study.best_trial, config, hard))
