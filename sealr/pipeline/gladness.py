"""The stage that learns how glad users will be of items, and what re-ranking reads of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sealr import tracking
from sealr.content.readers import identity as reader_identity
from sealr.content.vectors import text_vectors
from sealr.data.manifest import CHECKPOINT, Manifest, StageResult, run_stage, state_dir
from sealr.data.sequences import build
from sealr.data.tables import read_table
from sealr.pipeline.job import Job
from sealr.retrieve.models.fusion import parts_of
from sealr.satisfaction.learn import PLOT, REPORT, Forecast, learn
from sealr.settings import Config


def satisfaction(job: Job, reviews: Manifest, labels: Manifest) -> Manifest:
    """Learns the forecast of satisfaction (not in the paper), and judges it on the validation and test targets."""
    config, reading = job.config.satisfaction, job.config.content
    with job.stage("satisfaction", config):
        reads = reads_reviews(job.config)

        def work(folder: Path) -> StageResult:
            table = read_table(reviews.path("reviews.parquet"), "reviews")
            vectors = None
            if reads:
                cache = state_dir() / "vector-cache" if reading.cache else folder / CHECKPOINT
                vectors = text_vectors(build(table).values(table, "text").tolist(), reading, cache)
            labelled = read_table(labels.path("labels.parquet"), "labels")
            return learn(table, labelled, config, vectors, folder, job.config.evaluate.gate_share)

        settings = {
            "gate_share": job.config.evaluate.gate_share,
            "satisfaction": config,
            "reader": reader_identity(reading) if reads else "",
        }
        code = ("data", "satisfaction", "content", "emotion/feelings.py", "evaluate", "pipeline/gladness.py")
        manifest = run_stage("satisfaction", job.name, settings, {"reviews": reviews, "labels": labels}, code, work)
        tracking.log_manifest(manifest, {REPORT: "", PLOT: "plots"})
        return manifest


def read_forecast(made: Manifest) -> Forecast | None:
    """What `satisfaction` made; None where there was nothing to learn from."""
    return Forecast.load(made.folder) if made.rows["reviews"] else None


def read_stars(made: Mapping[str, Manifest]) -> np.ndarray | None:
    """(interactions,) stars of all reviews among the stages of a job; None without a forecast."""
    forecast = read_forecast(made["satisfaction"]) if "satisfaction" in made else None
    return forecast.stars if forecast else None


def reads_reviews(config: Config) -> bool:
    """Whether retrievers or the LLM read review texts. Only then the forecast reads them, too: it takes long."""
    scoring = config.rerank.scoring.content if config.rerank.ranker == "scoring" else "none"
    choices = {scoring, *(part.content for part in (config.retrieve, *parts_of(config.retrieve)))}
    return bool(choices & {"reviews", "both", "shuffled"})
