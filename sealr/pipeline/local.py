"""A model without a registry: the chain up to the candidates, a packed folder, and the retriever's own metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from sealr import tracking
from sealr.data.manifest import Manifest, StageResult, run_stage
from sealr.data.tables import read_json
from sealr.evaluate.evaluate import EVERYBODY
from sealr.evaluate.metrics import ndcg, summary
from sealr.evaluate.statistics import bootstrap_mean
from sealr.pipeline import stages
from sealr.pipeline.inputs import read_feelings, read_sequences, retriever_sequences
from sealr.pipeline.job import Job
from sealr.pipeline.retrievers import reads_feelings
from sealr.serving.packing import histories, pack


def through_retrieval(job: Job) -> dict[str, Manifest]:
    """Runs the stages up to the candidates; labels the reviews only if the retriever reads feelings."""
    made = {"reviews": stages.ingest(job)}
    if reads_feelings(job.config.retrieve):
        made["labels"] = stages.label(job, made["reviews"])
    return made | {"candidates": stages.retrieve(job, made["reviews"], made.get("labels"))}


def packed(job: Job, made: Mapping[str, Manifest]) -> Path:
    """The folder that a registered model would serve from. Without an adapter it holds the retriever alone."""

    def work(folder: Path) -> StageResult:
        sequences = read_sequences(made["reviews"])
        felt = np.full((len(sequences.flat), 2), np.nan, dtype=np.float32)
        if "labels" in made:
            felt = read_feelings(made["labels"], sequences)
        weight = read_json(made["rankings"].path("fusion.json"))["weight"] if "rankings" in made else 0.0
        adapter = made["adapter"].folder if "adapter" in made else None
        items, known = made["reviews"].path("items.parquet"), histories(sequences, felt)
        pack(folder / "model", job.config, weight, made["candidates"].folder, adapter, items, known)
        return StageResult({"users": len(sequences)}, {"fusion_weight": weight})

    with job.stage("pack", {}):
        code = ("data", "serving", "pipeline/local.py")
        manifest = run_stage("pack", job.name, job.config, made, code, work)
        tracking.log_manifest(manifest)
    return manifest.folder / "model"


def retriever_metrics(job: Job, made: Mapping[str, Manifest]) -> pd.DataFrame:
    """One row: the retriever's metrics over all test users, with the 95 % interval of its NDCG@10."""
    sequences = retriever_sequences(job, read_sequences(made["reviews"]), job.config.retrieve)
    ranks = np.load(made["candidates"].path("test_ranks.npy"), allow_pickle=False)
    ranks = ranks[~np.isin(sequences.split("test").users, list(sequences.whole))]
    _, low, high = bootstrap_mean(ndcg(ranks, 10), job.config.evaluate.bootstrap, job.config.evaluate.seed)
    row = {"protocol": "full", "system": EVERYBODY, "users": len(ranks)} | summary(ranks)
    return pd.DataFrame([row | {"low": low, "high": high}])
