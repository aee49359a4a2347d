"""Training a retriever as one stage, so that every job and comparison that needs the same one finds it done."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sealr import tracking
from sealr.config import to_dict
from sealr.content.profiles import Profiles, build_profiles, profiled_rows
from sealr.content.readers import Reader
from sealr.content.readers import identity as reader_identity
from sealr.content.vectors import text_vectors, vector_parts
from sealr.data.manifest import CHECKPOINT, Manifest, StageResult, run_stage, state_dir
from sealr.data.sequences import Sequences
from sealr.data.tables import read_json, read_table, write_json
from sealr.evaluate.metrics import coverage
from sealr.pipeline.inputs import job_sequences, read_feelings, read_sequences, retriever_sequences, split_settings
from sealr.pipeline.job import Job
from sealr.retrieve.candidates import ranks_and_lists, target_ranks
from sealr.retrieve.fusion import fuse
from sealr.retrieve.models.fusion import built_on, parts_of, reads_feelings, teacher_of
from sealr.retrieve.taught import Teacher, find_sharpness
from sealr.retrieve.timely import timely_ranks
from sealr.retrieve.train import load, train
from sealr.settings import Content, RetrieveConfig

AFTER_TRAINING = {name: getattr(RetrieveConfig(), name) for name in ("index", "n_retrieved")}
SHARED_CODE = (
    "trainer.py",
    "pipeline/inputs.py",
    "pipeline/retrievers.py",
    "data/sequences.py",
    "emotion/feelings.py",
    "evaluate/metrics.py",
    *(
        f"retrieve/{name}.py"
        for name in ("train", "batches", "loss", "start", "taught", "candidates", "index", "retriever")
    ),
    *(f"retrieve/models/{name}.py" for name in ("__init__", "base", "embedding", "layers", "neighbours", "popularity")),
    "retrieve/models/fusion.py",
)
FUSION_CODE = ("retrieve/fusion.py", "evaluate/crossfit.py", "evaluate/statistics.py")


@dataclass(frozen=True)
class Twin:
    """What validation chose for the evaluated retriever.

    epochs: of it or of each part. weights: of the parts. teacher, sharpness: of a network with a teacher.
    """

    epochs: tuple[int, ...]
    weights: tuple[float, ...] = ()
    teacher: Twin | None = None
    sharpness: float = 0.0

    @classmethod
    def read(cls, trained: Manifest) -> Twin:
        return cls.of(read_json(trained.path("retriever.json")))

    @classmethod
    def of(cls, values: dict[str, Any]) -> Twin:
        """From the values of ``retriever.json``."""
        teacher, sharpness = values.get("teacher"), values.get("sharpness", 0.0)
        return cls(tuple(values["epochs"]), tuple(values.get("weights", ())), teacher and cls.of(teacher), sharpness)

    def part(self, number: int) -> Twin:
        return Twin(self.epochs[number : number + 1])


def train_retriever(
    job: Job,
    config: RetrieveConfig,
    reviews: Manifest,
    labels: Manifest | None,
    name: str = "",
    twin: Twin | None = None,
) -> Manifest:
    """Trains the retriever of ``config``, its parts or its teacher first, and ranks everybody's valid and test targets.

    labels: needed where the retriever or one of its parts reads sentiments. name: of the MLflow run. twin: what a refit
    takes over; it ranks no targets, because it has learned them. Raises ValueError when labels are needed and missing.
    """
    config = replace(config, **AFTER_TRAINING)
    parts = [
        train_retriever(job, part, reviews, labels, twin=twin and twin.part(number))
        for number, part in enumerate(parts_of(config))
    ]
    teaching = teacher_of(config)
    teacher = train_retriever(job, teaching, reviews, labels, "teacher", twin and twin.teacher) if teaching else None
    name = name or config.model
    with tracking.stage(f"{job.named('retriever')} {name}", job.run_id, config):
        inputs = {"reviews": reviews} | {f"part{i}": part for i, part in enumerate(parts)}
        if teacher:
            inputs["teacher"] = teacher
        if reads_feelings(config):
            if labels is None:
                raise ValueError(
                    f"retriever {name} reads sentiments, but this job has no labels: set retrieve.sentiment=none"
                )
            inputs["labels"] = labels
        if config.content != "none":
            inputs["content"] = item_profiles(job, config, reviews)

        def work(folder: Path) -> StageResult:
            sequences = read_sequences(job, reviews)
            learned = retriever_sequences(job, sequences, config)
            felt = retriever_feelings(config, labels, sequences)
            content = read_content(inputs["content"], config.content, config) if "content" in inputs else None
            stop = twin.epochs[0] if twin else None
            if parts:
                weights = list(twin.weights) if twin else None
                trained = fuse(config, [load(part.folder) for part in parts], learned, folder, felt, weights)
            else:
                lessons = _teacher(teacher, learned, twin)
                trained = train(config, learned, folder, tracking.log_epoch, content, felt, stop, lessons)
            if teacher and lessons:
                _note_teacher(folder, teacher, lessons)
            ranked = {} if twin else _write_ranks(folder, sequences, felt)
            return StageResult(trained.rows, trained.metrics | ranked)

        models = sorted({each.model for each in (config, *built_on(config))} - {"fusion"})
        own = (*(f"retrieve/models/{model}.py" for model in models), *(FUSION_CODE if parts else ()))
        code = (*SHARED_CODE, *split_code(config), *own)
        settings = identity(job, config) | ({"twin": asdict(twin)} if twin else {})
        manifest = run_stage(job.named("retriever"), job.name, settings, inputs, code, work)
        tracking.log_manifest(manifest, {"retriever.json": "", "history.json": ""})
        return manifest


def _teacher(trained: Manifest | None, sequences: Sequences, twin: Twin | None) -> Teacher | None:
    """The trained fusion as a teacher, as sharp as the twin's."""
    if trained is None:
        return None
    retriever = load(trained.folder)
    return Teacher(retriever, twin.sharpness if twin else find_sharpness(retriever, sequences))


def _note_teacher(folder: Path, trained: Manifest, teacher: Teacher) -> None:
    """Keeps in ``retriever.json`` what a refit takes over of the teacher."""
    taught = read_json(trained.path("retriever.json"))
    kept = {name: taught[name] for name in ("epochs", "weights")}
    values = read_json(folder / "retriever.json") | {"teacher": kept, "sharpness": teacher.sharpness}
    write_json(values, folder / "retriever.json")


def timely(job: Job, config: RetrieveConfig, reviews: Manifest, trained: Manifest, labels: Manifest | None) -> Manifest:
    """``test_ranks.npy`` of a trained retriever where items are known only by reviews older than the target."""

    def work(folder: Path) -> StageResult:
        table, sequences = read_table(reviews.path("reviews.parquet"), "reviews"), read_sequences(job, reviews)
        times, texts = sequences.values(table, "timestamp"), sequences.values(table, "text")
        rows = profiled_rows(retriever_sequences(job, sequences, config), times, texts, job.config.content.max_reviews)
        cache = state_dir() / "vector-cache" if job.config.content.cache else folder / CHECKPOINT
        vectors = text_vectors(texts[rows].tolist(), job.config.content, cache)
        felt, profiles = retriever_feelings(config, labels, sequences), Profiles.load(inputs["content"].folder)
        ranks = timely_ranks(load(trained.folder), sequences, profiles, rows, vectors, times, felt)
        np.save(folder / "test_ranks.npy", ranks)
        return StageResult({"users": len(ranks)})

    inputs = {"reviews": reviews, "retriever": trained, "content": item_profiles(job, config, reviews)}
    code = (*SHARED_CODE, "content", "retrieve/timely.py", *split_code(config))
    return run_stage("timely", job.name, identity(job, config), inputs, code, work)


def identity(job: Job, config: RetrieveConfig) -> dict[str, Any]:
    """The settings that a trained retriever depends on."""
    return to_dict(config) | split_key(job, config) | {"gate_share": job.config.evaluate.gate_share}


def split_key(job: Job, config: RetrieveConfig) -> dict[str, Any]:
    """The settings of the split by time, and of the user split, where a retriever depends on them."""
    time = {"split": "time"} if job.config.evaluate.split == "time" else {}
    return time | ({"user_split": split_settings(job)} if config.tuning_users == "whole" else {})


def split_code(config: RetrieveConfig) -> tuple[str, ...]:
    """The module that splits the users, where the retriever depends on the split."""
    return ("evaluate/protocols.py",) if config.tuning_users == "whole" else ()


def retriever_feelings(config: RetrieveConfig, labels: Manifest | None, sequences: Sequences) -> np.ndarray | None:
    """(interactions, 2) feelings as ``retrieve.sentiment`` says; None where the retriever reads none."""
    if labels is None or not reads_feelings(config):
        return None
    mode = next(part.sentiment for part in (config, *parts_of(config)) if part.sentiment != "none")
    return read_feelings(labels, sequences, config.seed if mode == "shuffled" else None)


def item_profiles(job: Job, config: RetrieveConfig, reviews: Manifest) -> Manifest:
    """What texts say about the items, made once for all retrievers and rankers that learn from the same reviews."""
    reading = job.config.content
    settings = {"reader": reader_identity(reading), "max_reviews": reading.max_reviews} | split_key(job, config)

    def work(folder: Path) -> StageResult:
        table = read_table(reviews.path("reviews.parquet"), "reviews")
        sequences = job_sequences(job, table)
        learned = retriever_sequences(job, sequences, config)
        cache = state_dir() / "vector-cache" if reading.cache else folder / CHECKPOINT
        profiles = build_profiles(
            read_table(reviews.path("items.parquet"), "items"),
            sequences.values(table, "text"),
            sequences.values(table, "timestamp"),
            learned,
            reading.max_reviews,
            partial(vector_parts, reader=Reader(reading), cache=cache),
        )
        profiles.save(folder)
        without = {f"without_{kind}": int((t[1:] == 0).all(1).sum()) for kind, t in profiles.vectors.items()}
        return StageResult({"items": sequences.n_items} | without)

    code = ("content", "data/cache.py", "data/sequences.py", "pipeline/retrievers.py", *split_code(config))
    return run_stage(job.named("content"), job.name, settings, {"reviews": reviews}, code, work)


def read_content(profiles: Manifest, choice: Content, config: RetrieveConfig) -> Tensor:
    """(n_items + 1, C) content vectors of length ``retrieve.content_scale``."""
    return Profiles.load(profiles.folder).table(choice, config.content_scale, config.seed)


def _write_ranks(folder: Path, sequences: Sequences, felt: np.ndarray | None) -> dict[str, float]:
    """Writes {valid,test}_ranks.npy, and test_ranks_kept.npy with the items of the history kept as candidates."""
    retriever = load(folder)
    valid = target_ranks(retriever, sequences, "valid", retriever.config.exclude_seen, felt)
    np.save(folder / "valid_ranks.npy", valid)
    ranks, kept, lists = ranks_and_lists(retriever, sequences, "test", 10, felt)
    np.save(folder / "test_ranks.npy", ranks)
    np.save(folder / "test_ranks_kept.npy", kept)
    return {"coverage@10": coverage(lists, sequences.n_items)}
