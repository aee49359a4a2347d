"""Training retrievers, one stage each, so that every flow that wants the same one finds it done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sealr.pipeline.job import Job
from sealr.pipeline.inputs import read_sequences, retriever_sequences, split_settings
from sealr import tracking, weights
from sealr.config import to_dict
from sealr.data.manifest import Manifest, StageResult, run_stage
from sealr.data.sequences import Sequences
from sealr.data.tables import read_table
from sealr.emotion.network import BASE
from sealr.evaluate.metrics import coverage
from sealr.retrieve.candidates import target_ranks, top_lists
from sealr.retrieve.content import embed_items
from sealr.retrieve.feelings import feelings
from sealr.retrieve.fusion import fuse
from sealr.retrieve.models.fusion import part_configs
from sealr.retrieve.train import load, train
from sealr.settings import RetrieveConfig

SHARED = (
    "data/sequences.py",
    "evaluate/metrics.py",
    *(f"retrieve/{name}.py" for name in ("train", "batches", "loss", "start", "candidates", "feelings", "index", "retriever")),
    *(f"retrieve/models/{name}.py" for name in ("__init__", "base", "layers", "neighbours", "popularity", "fusion")),
)


def train_retriever(job: Job, config: RetrieveConfig, reviews: Manifest, labels: Manifest | None, name: str = "") -> Manifest:
    """The retriever of one configuration, the parts of a fusion first, with its targets' ranks on valid and test.

    labels: needed where the configuration, or that of a part, reads sentiments. name: of the MLflow run.
    """
    parts = [train_retriever(job, part, reviews, labels) for part in parts_of(config)]
    name = name or config.model
    with tracking.stage(f"retriever {name}", job.run_id, config):
        inputs = {"reviews": reviews} | {f"part{i}": part for i, part in enumerate(parts)}
        if reads_feelings(config):
            if labels is None:
                raise ValueError(f"retriever {name} reads sentiments, but there are no labels")
            inputs["labels"] = labels
        if config.content:
            inputs["content"] = item_content(job, reviews)

        def work(folder: Path) -> StageResult:
            sequences = read_sequences(reviews)
            learned = retriever_sequences(job, reviews, config)
            felt = labelled_feelings(config, labels, sequences)
            content = torch.from_numpy(np.load(inputs["content"].path("content.npy"))) if config.content else None
            if parts:
                trained = fuse(config, [load(part.folder) for part in parts], learned, folder, felt)
            else:
                trained = train(config, learned, folder, tracking.log_epoch, content, felt)
            return StageResult(trained.rows, trained.metrics | _ranks(folder, sequences, felt))

        code = (*SHARED, *drawing(config), f"retrieve/{'fusion' if parts else f'models/{config.model}'}.py")
        manifest = run_stage("retriever", job.name, identity(job, config), inputs, code, work)
        tracking.log_manifest(manifest, {"retriever.json": "", "history.json": ""})
        return manifest


def identity(job: Job, config: RetrieveConfig) -> dict[str, Any]:
    """What a retriever depends on: its settings, and where it learns from tuning users, how those are drawn."""
    return to_dict(config) | drawn(job, config)


def drawn(job: Job, config: RetrieveConfig) -> dict[str, Any]:
    """How tuning users are drawn, where the retriever learns from them."""
    return {"drawn": split_settings(job)} if config.tuning_users == "whole" else {}


def drawing(config: RetrieveConfig) -> tuple[str, ...]:
    """The module that draws them, where it matters: part of the code that a stage depends on."""
    return ("evaluate/protocols.py",) if config.tuning_users == "whole" else ()


def parts_of(config: RetrieveConfig) -> list[RetrieveConfig]:
    """Configurations of a fusion's parts; none for any other model."""
    return part_configs(config) if config.model == "fusion" else []


def reads_feelings(config: RetrieveConfig) -> bool:
    """Whether a retriever, or a part of it, needs the labels."""
    return any(part.sentiment != "none" for part in (config, *parts_of(config)))


def labelled_feelings(config: RetrieveConfig, labels: Manifest | None, sequences: Sequences) -> np.ndarray | None:
    """What ``config`` wants to read of the labels, see ``feelings``; None where it reads none."""
    if labels is None or not reads_feelings(config):
        return None
    mode = next(part.sentiment for part in (config, *parts_of(config)) if part.sentiment != "none")
    return feelings(read_table(labels.path("labels.parquet"), "labels"), sequences, mode, config.seed)


def item_content(job: Job, reviews: Manifest) -> Manifest:
    """Text embeddings of the catalogue, once for each items table."""

    def work(folder: Path) -> StageResult:
        sequences = read_sequences(reviews)
        embedded = embed_items(read_table(reviews.path("items.parquet"), "items"), sequences.items)
        np.save(folder / "content.npy", embedded.numpy())
        return StageResult({"items": sequences.n_items, "without_text": int((embedded[1:].abs().sum(1) == 0).sum())})

    settings = {"base": weights.digest(BASE)}
    return run_stage("content", job.name, settings, {"reviews": reviews}, ("retrieve/content.py", "emotion/network.py"), work)


def _ranks(folder: Path, sequences: Sequences, felt: np.ndarray | None) -> dict[str, float]:
    """Writes {valid,test}_ranks.npy, and test_ranks_kept.npy with seen items kept as candidates."""
    retriever = load(folder)
    for split in ("valid", "test"):
        np.save(folder / f"{split}_ranks.npy", target_ranks(retriever, sequences, split, retriever.config.exclude_seen, felt))
    np.save(folder / "test_ranks_kept.npy", target_ranks(retriever, sequences, "test", False, felt))
    lists = top_lists(retriever, sequences, "test", 10, retriever.config.exclude_seen, felt)
    return {"coverage@10": coverage(lists, sequences.n_items)}
