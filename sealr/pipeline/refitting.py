"""Training what is served, after the metrics: on everybody's whole history, with what validation chose.

The evaluated model, here called the twin, has never learned from anybody's two newest reviews: they are its validation
and test targets. They say more about a user than all others. So settings, epochs and weights of the twin train a second
model, which chooses nothing and holds nothing out. All figures stay those of the twin, because nothing is left to
measure the second model on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from sealr.data.manifest import REFIT, Manifest
from sealr.data.tables import read_json
from sealr.pipeline.gladness import satisfaction
from sealr.pipeline.job import Job
from sealr.pipeline.registering import is_placebo
from sealr.pipeline.retrievers import Twin, item_profiles, train_retriever
from sealr.pipeline.stages import finetune
from sealr.retrieve.cold import reads_content
from sealr.retrieve.train import load

log = logging.getLogger(__name__)


def refit(job: Job, made: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """The manifests of an evaluated job and, under names that begin with REFIT, those of what is served.

    What validation switched off is not refitted: texts, satisfaction, the LLM. Nor are placebos. The LLM learns from
    the fine-tuning users and their validation users, so that ``rerank.finetune_share`` still limits its cost.
    """
    if is_placebo(job.config):
        return dict(made)
    log.info("refit: training what is served on everybody's whole history, with the epochs and weights chosen above")
    whole, reviews, candidates = replace(job, refit=True), made["reviews"], made["candidates"]
    config = load(candidates.folder).config  # the job's, without texts if they did not help
    chosen = read_json(made["rankings"].path("fusion.json")) if "rankings" in made else {}
    again = {"retriever": train_retriever(whole, config, reviews, made.get("labels"), twin=Twin.read(candidates))}
    if chosen.get("satisfaction_weight"):
        again["satisfaction"] = satisfaction(whole, reviews, made["labels"])
    if chosen.get("weight"):
        epochs = int(made["adapter"].metrics["best_epoch"])
        again["adapter"] = finetune(whole, reviews, made["labels"], candidates, again["retriever"], epochs)
    if reads_content(config):  # `sealr items add` reads new items as these were read
        again["content"] = item_profiles(whole, config, reviews)
    return dict(made) | {REFIT + name: manifest for name, manifest in again.items()}
