"""Search for settings on validation: ``mlflow run . -e tune -P data=s3rec-beauty -P set="retrieve.model=bsarec"``, and with
``-P what=reranker`` those of the LLM. A study goes on where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import optuna
import torch
import typer
from prefect import flow

from sealr.flows import steps
from sealr.pipeline.job import Job
from sealr.pipeline.inputs import read_sequences, retriever_sequences
from sealr.flows.job import Base, Data, Overrides, open_job, run, turn
from sealr.pipeline.retrievers import identity, item_content, reads_feelings, retriever_feelings
from sealr import tracking
from sealr.config import to_dict
from sealr.data.manifest import code_digest, state_dir, text_digest
from sealr.data.tables import read_json
from sealr.rerank import tune as reranker
from sealr.rerank.scoring.train import hard_model
from sealr.retrieve import tune as retriever
from sealr.retrieve.train import OnEpoch, load
from sealr.settings import RetrieveConfig
from sealr.study import open_study, search, summary

# The code that a trial's value depends on; candidates of the second search have their retriever's in their own key
RETRIEVER = ("data/sequences.py", "evaluate/metrics.py", "evaluate/protocols.py", "retrieve")
RERANKER = (*RETRIEVER, "evaluate/statistics.py", "emotion/sentiment.py", "rerank")


class What(StrEnum):
    retriever = "retriever"
    reranker = "reranker"


Trials = Annotated[int, typer.Option(min=1, help="Trials the study shall have; those of earlier runs count.")]
Hours = Annotated[float, typer.Option(min=0, help="No trial begins after these hours; 0: no limit.")]
Searched = Annotated[What, typer.Option(help="Whose settings: the retriever's, or the scoring LLM's.")]


@flow(name="tune", flow_run_name="tune-{what}-{data}")
def tune(
    what: What = What.retriever,
    data: str = "demo",
    base: str = "smollm2-135m",
    trials: int = 20,
    hours: float = 0.0,
    overrides: str = "",
) -> None:
    """Optuna on the validation NDCG@10; every trial is a nested MLflow run."""
    with (
        open_job("tune", data, base, overrides) as job,
        turn(state_dir() / job.name / "tune.lock", f"another search works on data set {job.name}"),
    ):
        study, folder, best = (tune_retriever if what == What.retriever else tune_reranker)(job, trials, hours)
        text = summary(study)
        page = folder / f"{study.study_name}.md"
        page.write_text(text, encoding="utf-8")
        tracking.log_metrics({"best.valid_ndcg@10": study.best_value}, job.run_id)
        tracking.log_file(page, job.run_id)
        print(f"\n{text}\nbest, validation NDCG@10 {study.best_value:.4f}; use it with\n  --set '{best}'")


def tune_retriever(job: Job, trials: int, hours: float) -> tuple[optuna.Study, Path, str]:
    """The study, its folder, and the overrides of its best trial."""
    config = job.config.retrieve
    reviews = steps.ingest(job)
    labels = steps.label(job, reviews) if reads_feelings(config) else None
    sequences = retriever_sequences(job, read_sequences(reviews), config)
    content = torch.from_numpy(np.load(item_content(job, reviews).path("content.npy"))) if config.content else None

    @contextmanager
    def track(title: str, chosen: RetrieveConfig) -> Iterator[OnEpoch]:
        with tracking.stage(title, job.run_id, chosen):
            yield tracking.log_epoch

    felt = retriever_feelings(config, labels, sequences)
    folder = state_dir() / job.name / "tune" / reviews.digest[:16]
    # Other fixed settings, labels, users or code are another study
    name = f"{config.model}-{text_digest([identity(job, config), labels and labels.digest, code_digest(RETRIEVER)])[:8]}"
    study = retriever.tune(config, sequences, trials, folder, name, track, content, felt, hours)
    return study, folder, " ".join(f"retrieve.{name}={value}" for name, value in study.best_params.items())


def tune_reranker(job: Job, trials: int, hours: float) -> tuple[optuna.Study, Path, str]:
    """As `tune_retriever`. A trial is the stages of the job under other settings: it resumes, and a job finds the best LLM done."""
    config = job.config.rerank
    reviews = steps.ingest(job)
    labels = steps.label(job, reviews)
    candidates = steps.retrieve(job, reviews, labels)
    folder = state_dir() / job.name / "tune" / candidates.digest[:16]
    judged = [job.config.evaluate.valid_users, job.config.evaluate.seed, labels.digest, code_digest(RERANKER)]
    study = open_study(folder, f"fused-{text_digest([to_dict(config), *judged])[:8]}", config.seed, reranker.current(config))
    hard = hard_model(load(candidates.folder)) is not None

    def objective(trial: optuna.Trial) -> float:
        chosen = replace(job.config, rerank=reranker.suggest(trial, config, hard), evaluate=replace(job.config.evaluate, users=1))
        one = replace(job, config=chosen)  # only validation counts: no more test lists than the stage cannot do without
        adapter = steps.finetune(one, reviews, labels, candidates)
        rankings = steps.rerank(one, reviews, labels, candidates, adapter)
        return max(read_json(rankings.path("fusion.json"))["validation_ndcg_at_10"].values())

    search(study, objective, trials, hours)
    return study, folder, reranker.overrides(reranker.suggest(study.best_trial, config, hard))


def main(
    what: Searched = What.retriever,
    data: Data = "demo",
    base: Base = "smollm2-135m",
    trials: Trials = 20,
    hours: Hours = 0.0,
    overrides: Overrides = "",
) -> None:
    """Search for settings on validation."""
    run(tune, what=what, data=data, base=base, trials=trials, hours=hours, overrides=overrides)


if __name__ == "__main__":
    typer.run(main)
