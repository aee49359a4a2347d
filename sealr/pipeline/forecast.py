"""How long each stage of a job will take, from short measurements on this machine.

Measured are what costs most: labelling and reading some of the texts, and a few epochs of each neural retriever with
some of the users. The LLM's part is `sealr.rerank.plan`. The rest is small and counted with constants. Seconds are CPU
time per thread: what a job takes while nothing else needs the machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sealr.content.readers import Reader
from sealr.data.sequences import Sequences
from sealr.emotion.labeller import Labeller
from sealr.pipeline.gladness import reads_reviews
from sealr.pipeline.inputs import evaluated_users, gate_users, weight_users
from sealr.pipeline.job import Job
from sealr.pipeline.registering import is_placebo
from sealr.pipeline.texts import reading_parts
from sealr.rerank.plan import Plan, Rates, busy_seconds
from sealr.retrieve.models import build
from sealr.retrieve.models.fusion import built_on, parts_of, teacher_of
from sealr.retrieve.retriever import Retriever, device, popularity
from sealr.retrieve.taught import Teacher
from sealr.retrieve.train import train
from sealr.settings import VECTOR_MODELS, Config, ContentConfig, LabelConfig, RetrieveConfig

TEXTS, USERS = 96, 400  # that are measured
WARM_UP = 16  # texts
WIDTH = 384  # of the vectors of texts
# The best epoch of 69 trainings on the demo and Musical Instruments was 12 to 108, with a median of 60
BEST_EPOCH = 60
RANKINGS = 4  # of all users after a training: targets of two splits, once with seen items, and lists
LIST = 0.6  # seconds to write a list, relative to a step's seconds for a prompt (docs/scale.md)
# CPU seconds that no measurement covers: libraries, Prefect and MLflow; a table's checks; an MLflow run; the LLM's
# weights. They are those of a small job on Musical Instruments (docs/scale.md)
START, CHECKS, RUN, EVALUATION, REGISTRATION, LLM_LOAD = 15.0, 1.5, 0.3, 4.0, 5.0, 4.0


@dataclass(frozen=True)
class Expected:
    """A stage of a job. basis: what its seconds follow from."""

    stage: str
    seconds: float
    basis: str


@dataclass(frozen=True)
class TextRates:
    """Seconds to load a model, and to read a text."""

    load: float
    text: float


def forecast(
    config: Config, reviews: pd.DataFrame, sequences: Sequences, ingest: float, llm: Plan, refit: Plan, rates: Rates
) -> list[Expected]:
    """The stages of a job that starts from nothing, in their order.

    ingest: seconds that reading the files took. llm, refit: plans of the two fine-tunings.
    """
    job, sequences = Job(config, ""), sequences.with_gate(config.evaluate.gate_share)
    texts = reviews["text"][reviews["text"].str.strip() != ""].unique().tolist()
    stages = [
        Expected("start", START, "libraries, Prefect and MLflow"),
        Expected("ingest", ingest + 2 * CHECKS, f"{len(reviews):,} reviews, read by this command"),
    ]
    labels = labelling(texts, config.label)
    stages.append(_of_texts("label", texts, labels, "label"))
    reads = reads_reviews(config)
    reading = read_texts(texts, config.content) if reads or reading_parts(config.retrieve) else TextRates(0, 0)
    if config.satisfaction.model != "none":
        stages.append(_of_texts("satisfaction", texts if reads else [], reading, "read"))
    parts = [each for each in (*built_on(config.retrieve), config.retrieve) if each.model != "fusion"]
    named = [(f"{part.model}, taught" if part.teacher else part.model, part) for part in parts]
    epochs = {name: epoch_seconds(part, sequences, rates) for name, part in named}
    trained: list[tuple[str, RetrieveConfig]] = list(named)
    if first := reading_parts(config.retrieve)[:1]:
        again = [(name, part) for name, part in named if part == first[0] or first[0].teacher]  # its teacher, too
        trained += [(f"{name}, {kind}", part) for kind in ("content none", "content shuffled") for name, part in again]
        stages.append(Expected("content", reading.load + RUN, f"vectors of {sequences.n_items:,} items"))
    stages += [_training(f"retriever {name}", part, epochs[name.partition(", content")[0]]) for name, part in trained]
    ranking = max(epochs.values()) * RANKINGS
    stages.append(Expected("candidates", ranking + CHECKS, f"{config.retrieve.n_retrieved} items per user and split"))
    stages.append(Expected("finetune", LLM_LOAD + 3600 * llm.hours, f"at most {config.rerank.epochs} epochs (below)"))
    lists = sum(len(users(job, sequences)) for users in (weight_users, gate_users))
    lists += len(evaluated_users(job, sequences)[: config.evaluate.users or None])
    a_list = llm.check_seconds if config.rerank.ranker == "scoring" else LIST * llm.step_seconds
    a_list /= config.rerank.batch_size
    stages.append(Expected("rerank", LLM_LOAD + lists * a_list, f"{lists:,} lists"))
    stages.append(Expected("evaluate", EVALUATION, "metrics and intervals"))
    if is_placebo(config):
        return stages  # controls are neither refitted nor registered
    stages += [_training(f"refit-retriever {name}", part, epochs[name], refit=True) for name, part in named]
    if config.satisfaction.model != "none":
        stages.append(Expected("refit-satisfaction", RUN, "if satisfaction gets a weight; texts are kept"))
    stages.append(Expected("refit-finetune", LLM_LOAD + 3600 * refit.hours, "if the LLM gets a weight"))
    return [*stages, Expected("register", REGISTRATION, "the model, its card and the report")]


def labelling(texts: list[str], config: LabelConfig) -> TextRates:
    """Loads the labeller, which is fetched first if it is missing, and labels some texts."""
    started = busy_seconds()
    labeller = Labeller.from_config(config)
    return _read_some(texts, started, lambda some: labeller.predict_texts(labeller.clean(some)[1]))


def read_texts(texts: list[str], config: ContentConfig) -> TextRates:
    """As `labelling`, for the reader of texts."""
    started = busy_seconds()
    return _read_some(texts, started, Reader(config).vectors)


def _read_some(texts: list[str], started: float, read: Callable[[list[str]], object]) -> TextRates:
    """Times some texts after a few others, because the first ones take longer. started: when loading began."""
    drawn = np.random.default_rng(0).permutation(len(texts))[: WARM_UP + TEXTS]
    some = [texts[i] for i in drawn]
    read(some[:WARM_UP])
    loaded = busy_seconds()
    read(some[WARM_UP:])
    return TextRates(loaded - started, (busy_seconds() - loaded) / max(1, len(some) - WARM_UP))


def epoch_seconds(config: RetrieveConfig, sequences: Sequences, rates: Rates) -> float:
    """Seconds of an epoch with its share of the validations; of the whole training for a model that is counted."""
    if config.model in ("ease", "transition"):
        return 2 * sequences.n_items**3 / rates.flops + 1.0  # an inverse, or a solution
    if config.model not in VECTOR_MODELS:
        return 1.0
    users, gap = min(USERS, len(sequences)), min(config.eval_every, 2)
    end = int(sequences.offsets[users])
    some = Sequences(sequences.users[:users], sequences.items, sequences.flat[:end], sequences.offsets[: users + 1])
    content = torch.randn(sequences.n_items + 1, WIDTH) if config.content != "none" else None
    felt = np.full((end, 2), 2.0, dtype=np.float32) if config.sentiment != "none" else None
    marks: list[float] = []

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        marks.append(busy_seconds())

    short = replace(config, epochs=1 + gap, eval_every=gap, patience=gap)
    teacher = _untrained(config, some)
    with tempfile.TemporaryDirectory() as folder:
        train(short, some, Path(folder), on_epoch, content, felt, teacher=teacher)
    return (marks[-1] - marks[0]) / (len(marks) - 1) * len(sequences) / users  # the first epoch warms up


def _untrained(config: RetrieveConfig, sequences: Sequences) -> Teacher | None:
    """A teacher that knows nothing but takes as long as another."""
    fused = teacher_of(config)
    if fused is None:
        return None
    contents = [
        torch.randn(sequences.n_items + 1, WIDTH) if part.content != "none" else None for part in parts_of(fused)
    ]
    model: Any = build(fused, sequences.n_items, contents).to(device()).eval()
    model.weights.fill_(1.0)
    return Teacher(Retriever(fused, sequences.items, model, popularity(sequences)), 1.0)


def expected_epochs(config: RetrieveConfig, refit: bool = False) -> int:
    """Epochs of a training that early stopping ends. A refit needs only those up to the best."""
    return min(config.epochs, BEST_EPOCH + (0 if refit else config.patience * config.eval_every))


def _training(stage: str, config: RetrieveConfig, epoch: float, refit: bool = False) -> Expected:
    if config.model not in VECTOR_MODELS:
        return Expected(stage, epoch + RUN, "counted")
    epochs = expected_epochs(config, refit)
    rankings = 0 if refit else RANKINGS
    return Expected(stage, epoch * (epochs + rankings) + RUN, f"{epochs} of at most {config.epochs} epochs")


def _of_texts(stage: str, texts: list[str], rates: TextRates, what: str) -> Expected:
    basis = f"{len(texts):,} texts to {what}, {1000 * rates.text:.0f} ms each" if texts else "no texts"
    return Expected(stage, rates.load + len(texts) * rates.text + CHECKS, basis)


def table(stages: list[Expected]) -> str:
    """The stages with their seconds and the total, for a terminal."""
    total = sum(stage.seconds for stage in stages)
    rows = [*stages, Expected("total", total, f"{total / 60:.1f} minutes from nothing; unchanged stages are skipped")]
    width = max(len(row.stage) for row in rows)
    return "\n".join(f"{row.stage:{width}}  {row.seconds:9,.1f} s  {row.basis}" for row in rows)
