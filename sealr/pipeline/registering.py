"""What follows the metrics: the drift check against the champion, and the model's way into the registry."""

from __future__ import annotations

import logging
from pathlib import Path

from sealr.pipeline.job import Job
from sealr.pipeline.inputs import user_split
from sealr.pipeline.retrievers import parts_of
from sealr import tracking
from sealr.data.manifest import Manifest, StageResult, run_stage, text_digest
from sealr.data.sequences import build
from sealr.data.tables import read_json, read_table
from sealr.registry import drift as drifting
from sealr.registry import gate, promote
from sealr.registry.package import register_model
from sealr.registry.promote import Registration
from sealr.rerank.requests import sentiment_values
from sealr.settings import Config

log = logging.getLogger(__name__)


def is_placebo(config: Config) -> bool:
    """Whether the re-ranker, the retriever or a part of it learns from shuffled feelings."""
    return any(part.sentiment == "shuffled" for part in (config.rerank, config.retrieve, *parts_of(config.retrieve)))


def drift(job: Job, reviews: Manifest, labels: Manifest) -> tuple[str, str]:
    """Compares the data with the champion's. Returns what drifted as a sentence, empty where nothing did, and a report."""
    config = job.config.registry
    with job.stage("drift", config):
        champion = promote.champion(config.name)
        if champion is None:
            log.info("drift: there is no champion to compare with")
            return "", ""
        old = gate.read_statistics(promote.uri(config.name, champion))
        if old is None:
            return f"version {champion} carries no statistics of its data, so drift cannot be checked", ""
        new = drifting.describe(
            read_table(reviews.path("reviews.parquet"), "reviews"), read_table(labels.path("labels.parquet"), "labels")
        )

        def work(folder: Path) -> StageResult:
            return drifting.report(old, new, config, champion, folder)

        settings = {"registry": config, "champion": champion, "old": text_digest(vars(old))}
        manifest = run_stage("drift", job.name, settings, {"reviews": reviews, "labels": labels}, ("registry/drift.py",), work)
        tracking.log_manifest(manifest, {"drift.json": "", "drift.md": "", "drift.png": "plots"})
        report = manifest.path("drift.md").read_text(encoding="utf-8")
        return drifting.sentence(read_json(manifest.path("drift.json"))), report


def register(job: Job, made: dict[str, Manifest], drifted: str = "") -> Registration | None:
    """Packs one model, registers it, and makes it champion when the gate lets it. Placebos are not registered.

    drifted: what `drift` said; with registry.drift.hold it holds the promotion.
    """
    if is_placebo(job.config):
        return None
    with job.stage("register", job.config.registry):
        reviews = read_table(made["reviews"].path("reviews.parquet"), "reviews")
        labels = read_table(made["labels"].path("labels.parquet"), "labels")
        sequences = build(reviews)
        users, valid = user_split(job, sequences), read_json(made["rankings"].path("fusion.json"))["validation_users"]
        seen = text_digest([made["reviews"].digest, valid])[:16]
        table = read_table(made["rankings"].path("rankings.parquet"), "rankings")
        evidence = gate.evidence(table, valid, sequences, seen, [*users.train, *users.valid])
        hold = f"the data have drifted ({drifted})" if drifted and job.config.registry.drift.hold else ""
        sentiments, expected = sentiment_values(labels, sequences)
        return register_model(
            job.config, sequences, sentiments, expected, evidence, drifting.describe(reviews, labels), made, hold
        )
