"""Search for settings on the validation users. A study continues where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from prefect import flow
from pydantic import SecretStr

from sealr import tracking
from sealr.config import merged, override, shell_quote, to_dict
from sealr.data.manifest import Manifest, code_digest, state_dir, text_digest
from sealr.data.tables import read_json
from sealr.flows import steps
from sealr.flows.alarm import HOOKS
from sealr.flows.job import hold_lock, open_job
from sealr.pipeline.inputs import read_sequences, retriever_sequences
from sealr.pipeline.job import Job
from sealr.pipeline.retrievers import identity, item_profiles, read_content, retriever_feelings, train_retriever
from sealr.redact import redact
from sealr.rerank import tune as reranker
from sealr.rerank.scoring.train import hard_model
from sealr.retrieve import tune as retriever
from sealr.retrieve.models.fusion import parts_of, reads_feelings
from sealr.retrieve.train import OnEpoch, load
from sealr.settings import RetrieveConfig
from sealr.study import open_study, search, summary

# Code that a trial's value depends on: changed code starts a new study. A reranker's folder names its candidates
RETRIEVER = ("data/sequences.py", "evaluate/metrics.py", "evaluate/protocols.py", "retrieve", "trainer.py")
RERANKER = (*RETRIEVER, "evaluate/statistics.py", "emotion/sentiment.py", "rerank")


@dataclass(frozen=True)
class Found:
    """What a search found: its studies, the folder of their pages, overrides of the best settings, their NDCG@10."""

    studies: list[optuna.Study]
    folder: Path
    best: list[str]
    value: float
    note: str = ""


@flow(name="tune", flow_run_name="tune-{what}-{data}", **HOOKS)
def tune(
    what: str = "retriever",
    data: str = "demo",
    base: str = "smollm2-135m",
    trials: int = 20,
    hours: float = 0.0,
    overrides: str = "",
    storage: SecretStr | None = None,
) -> None:
    """Optuna on the validation NDCG@10. Every trial is a nested MLflow run.

    what: "retriever" or "reranker". trials: of each study; those of earlier runs count. hours: no trial starts later;
    0: no limit. storage: a database that several workers share, which may hold a password; None: a file.
    """
    shared = storage.get_secret_value() if storage else ""
    with open_job("tune", data, base, overrides) as job:
        alone = hold_lock(state_dir() / job.name / "tune.lock", f"another search works on data set {job.name}")
        with nullcontext() if shared else alone:
            find = tune_retriever if what == "retriever" else tune_reranker
            found = find(job, trials, hours, shared)
        print()
        for study in found.studies:
            text = summary(study)
            page = found.folder / f"{study.study_name}.md"
            page.write_text(text, encoding="utf-8")
            tracking.log_file(page, job.run_id)
            print(f"{study.study_name}\n{text}")
        tracking.log_metrics({"best.valid_ndcg@10": found.value}, job.run_id)
        settings = shell_quote(" ".join(filter(None, [overrides, *found.best])))
        command = f"sealr run --data {shell_quote(data)} --base {shell_quote(base)} --set {settings}"
        print(f"{found.note}best, validation NDCG@10 {found.value:.4f}; use it with\n  {command}")
        address = redact(shared) or f"sqlite:///{found.folder / 'study.db'}"
        print(f"all trials as a page (docs/guide.md): optuna-dashboard {shell_quote(address)}")


def tune_retriever(job: Job, trials: int, hours: float, storage: str) -> Found:
    """Searches the settings of the retriever, or of each part of a fusion in turn with an equal share of the hours."""
    config = job.config.retrieve
    reviews = steps.ingest(job)
    labels = steps.label(job, reviews) if reads_feelings(config) else None
    folder = state_dir() / job.name / "tune" / reviews.digest[:16]
    parts = parts_of(config)
    searched = {n: part for n, part in enumerate(parts or [config]) if retriever.searchable(part)}
    studies = {
        n: _tune_model(job, part, reviews, labels, trials, hours / len(searched), folder, storage)
        for n, part in searched.items()
    }
    if not parts:
        best = [override(f"retrieve.{name}", value) for name, value in studies[0].best_params.items()]
        return Found([studies[0]], folder, best, studies[0].best_value)
    changes = {n: retriever.best(study) for n, study in studies.items()}
    tuned = [merged(values, changes.get(n, {})) for n, values in enumerate(config.parts)]
    before, after = (
        train_retriever(job, replace(config, parts=tuple(values)), reviews, labels).metrics["valid_ndcg@10"]
        for values in (config.parts, tuned)
    )
    note = f"fusion, validation NDCG@10: {after:.4f} with the best of each part, {before:.4f} with the parts as given\n"
    better = [override("retrieve.parts", tuned)] if after > before else []
    return Found(list(studies.values()), folder, better, max(before, after), note)


def _tune_model(
    job: Job,
    config: RetrieveConfig,
    reviews: Manifest,
    labels: Manifest | None,
    trials: int,
    hours: float,
    folder: Path,
    storage: str,
) -> optuna.Study:
    """The study of one model. Its name changes with everything that trials share: data, fixed settings and code."""
    sequences = retriever_sequences(job, read_sequences(job, reviews), config)
    texts = item_profiles(job, config, reviews) if config.content != "none" else None
    content = read_content(texts, config.content, config) if texts else None
    felt = retriever_feelings(config, labels, sequences)

    @contextmanager
    def track(title: str, chosen: RetrieveConfig) -> Iterator[OnEpoch]:
        with tracking.stage(f"{config.model} {title}", job.run_id, chosen):
            yield tracking.log_epoch

    read: list[Any] = [reviews.digest, labels and labels.digest, texts and texts.digest]
    name = f"{config.model}-{text_digest([identity(job, config), *read, code_digest(RETRIEVER)])[:8]}"
    return retriever.tune(config, sequences, trials, folder, name, track, content, felt, hours, storage)


def tune_reranker(job: Job, trials: int, hours: float, storage: str) -> Found:
    """Searches the settings of the LLM. A trial runs stages of the job: it resumes, and a later job reuses the best."""
    config = job.config.rerank
    reviews = steps.ingest(job)
    labels = steps.label(job, reviews)
    glad = steps.satisfaction(job, reviews, labels)
    candidates = steps.retrieve(job, reviews, labels)
    folder = state_dir() / job.name / "tune" / candidates.digest[:16]
    judged = [job.config.evaluate.valid_users, job.config.evaluate.seed, labels.digest, code_digest(RERANKER)]
    name = f"fused-{text_digest([to_dict(config), candidates.digest, *judged])[:8]}"
    study = open_study(folder, name, config.seed, reranker.current(config), storage=storage)
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
    best = reranker.overrides(reranker.suggest(study.best_trial, config, hard))
    return Found([study], folder, [best], study.best_value)
