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
from sealr.pipeline.gladness import read_stars
from sealr.pipeline.inputs import read_feelings, read_sequences, retriever_sequences
from sealr.pipeline.job import Job
from sealr.retrieve.models.fusion import reads_feelings
from sealr.serving.packing import Weights, histories, pack


def through_retrieval(job: Job) -> dict[str, Manifest]:
    """Runs the stages up to the candidates; labels the reviews only if the retriever reads feelings."""
    made = {"reviews": stages.ingest(job)}
    if reads_feelings(job.config.retrieve):
        made["labels"] = stages.label(job, made["reviews"])
    return made | {"candidates": stages.retrieve(job, made["reviews"], made.get("labels"))}


def packed(job: Job, made: Mapping[str, Manifest]) -> Path:
    """The folder that a registered model would serve from. Without an adapter it holds the retriever alone."""

    def work(folder: Path) -> StageResult:
        sequences = read_sequences(job, made["reviews"])
        felt = np.full((len(sequences.flat), 2), np.nan, dtype=np.float32)
        if "labels" in made:
            felt = read_feelings(made["labels"], sequences)
        fusion = read_json(made["rankings"].path("fusion.json")) if "rankings" in made else {}
        weights = Weights(fusion.get("weight", 0.0), fusion.get("satisfaction_weight", 0.0))
        folders = {name: manifest.folder for name, manifest in made.items()}
        pack(folder / "model", job.config, weights, folders, histories(sequences, felt, read_stars(made)))
        return StageResult({"users": len(sequences)}, {"fusion_weight": weights.llm})

    with job.stage("pack", {}):
        code = ("data", "serving", "pipeline/local.py")
        manifest = run_stage("pack", job.name, job.config, made, code, work)
        tracking.log_manifest(manifest)
    return manifest.folder / "model"


def retriever_metrics(job: Job, made: Mapping[str, Manifest]) -> pd.DataFrame:
    """One row: the retriever's metrics over all test users, with the 95 % interval of its NDCG@10."""
    sequences = retriever_sequences(job, read_sequences(job, made["reviews"]), job.config.retrieve)
    ranks = np.load(made["candidates"].path("test_ranks.npy"), allow_pickle=False)
    ranks = ranks[~np.isin(sequences.split("test").users, list(sequences.whole))]
    _, low, high = bootstrap_mean(ndcg(ranks, 10), job.config.evaluate.bootstrap, job.config.evaluate.seed)
    row = {"protocol": "full", "system": EVERYBODY, "users": len(ranks)} | summary(ranks)
    return pd.DataFrame([row | {"low": low, "high": high}])
