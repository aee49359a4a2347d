"""The stages after the metrics: the drift check against the champion, and registration."""

from __future__ import annotations

import logging
from pathlib import Path

from sealr import tracking
from sealr.data.manifest import Manifest, StageResult, run_stage, text_digest
from sealr.data.tables import read_json, read_table
from sealr.pipeline.gladness import read_stars
from sealr.pipeline.inputs import read_feelings, read_sequences
from sealr.pipeline.job import Job
from sealr.registry import drift as drifting
from sealr.registry import gate, promote
from sealr.registry.headline import headline
from sealr.registry.package import register_model
from sealr.retrieve.models.fusion import parts_of
from sealr.serving.packing import histories, served
from sealr.settings import Config

log = logging.getLogger(__name__)


def is_placebo(config: Config) -> bool:
    """Whether a part of the system is a control: shuffled feelings or texts, or an LLM of random weights."""
    retrievers = (config.retrieve, *parts_of(config.retrieve))
    choices = {config.rerank.sentiment, config.rerank.scoring.content}
    choices |= {choice for part in retrievers for choice in (part.sentiment, part.content)}
    return "shuffled" in choices or config.satisfaction.shuffled or config.rerank.init == "random"


def drift(job: Job, reviews: Manifest, labels: Manifest) -> tuple[str, str]:
    """Compares the data with the champion's. Returns a sentence, empty without drift, and the report as Markdown."""
    config = job.config.registry
    with job.stage("drift", config):
        champion = promote.champion(config.name)
        if champion is None:
            log.info("drift: there is no champion to compare with")
            return "", ""
        old = gate.read_note(promote.uri(config.name, champion), gate.STATISTICS, drifting.Statistics)
        if old is None:
            return f"version {champion} carries no statistics of its data, so drift cannot be checked", ""
        new = _statistics(reviews, labels)

        def work(folder: Path) -> StageResult:
            return drifting.report(old, new, config.drift, champion, folder)

        settings = {"drift": config.drift, "champion": champion, "old": text_digest(vars(old))}
        code = ("registry/drift.py", "pipeline/registering.py")
        manifest = run_stage("drift", job.name, settings, {"reviews": reviews, "labels": labels}, code, work)
        tracking.log_manifest(manifest, {"drift.json": "", "drift.md": "", "drift.png": "plots"})
        report = manifest.path("drift.md").read_text(encoding="utf-8")
        return drifting.sentence(read_json(manifest.path("drift.json"))), report


def register(job: Job, made: dict[str, Manifest], drifted: str = "") -> promote.Registration | None:
    """Registers the model, and makes it champion if the gate allows. None for placebos, which are not registered.

    The evidence is that of the evaluated model, and the model is the refitted one (`sealr.pipeline.refitting`).
    drifted: the sentence of `drift`; with ``registry.drift.hold`` it holds the promotion.
    """
    if is_placebo(job.config):
        return None
    with job.stage("register", job.config.registry):
        reviews, labels = made["reviews"], made["labels"]
        sequences = read_sequences(job, reviews)
        judges = read_json(made["rankings"].path("fusion.json"))["gate_users"]
        rankings = read_table(made["rankings"].path("rankings.parquet"), "rankings")
        share, exclude_seen = job.config.evaluate.gate_share, job.config.retrieve.exclude_seen
        evidence = gate.evidence(rankings, judges, sequences, reviews.digest[:16], share, exclude_seen)
        hold = f"the data have drifted ({drifted})" if drifted and job.config.registry.drift.hold else ""
        felt, statistics = read_feelings(labels, sequences), _statistics(reviews, labels)
        known = histories(sequences, felt, read_stars(served(made)))
        stars = read_stars(made)
        made_version = register_model(job.config, sequences, felt, stars, known, evidence, statistics, made, hold)
        figures = headline(read_json(made["results"].path("results.json")))
        uri = promote.uri(made_version.name, made_version.version)
        tracking.link_model(job.run_id, uri, figures, tracking.dataset_of(reviews, job.config.data))
        return made_version


def _statistics(reviews: Manifest, labels: Manifest) -> drifting.Statistics:
    table = read_table(reviews.path("reviews.parquet"), "reviews", ("user", "item", "timestamp"))
    return drifting.describe(table, read_table(labels.path("labels.parquet"), "labels", ("emotion", "sentiment")))
