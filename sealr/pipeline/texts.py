"""Do the texts of items help this job's retriever? If not, it trains without them, and the report says so.

The first part that reads texts is trained three times: as configured, without texts, and with the texts of other items
(the placebo). All are judged on the validation targets, user by user.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sealr.data.manifest import Manifest
from sealr.evaluate.metrics import ndcg
from sealr.evaluate.statistics import paired_bootstrap, shown
from sealr.pipeline.job import Job
from sealr.pipeline.retrievers import train_retriever
from sealr.retrieve.models.fusion import parts_of
from sealr.settings import VECTOR_MODELS, RetrieveConfig

log = logging.getLogger(__name__)
FILE = "texts.json"


@dataclass(frozen=True)
class Decision:
    """The settings to train with, a sentence for the report, and the figures behind it."""

    config: RetrieveConfig
    words: str = ""
    figures: dict[str, Any] | None = None


def reading_parts(config: RetrieveConfig) -> list[RetrieveConfig]:
    """The neural parts of a retriever that read texts of items, without placebos."""
    neural = [part for part in parts_of(config) or [config] if part.model in VECTOR_MODELS]
    return [part for part in neural if part.content not in ("none", "shuffled")]


def decide(job: Job, reviews: Manifest, labels: Manifest | None) -> Decision:
    """Keeps ``retrieve.content`` if the gain over no texts is clear of 0 and the gain over the placebo is positive."""
    config = job.config.retrieve
    reading = reading_parts(config)
    if not reading:
        return Decision(config)
    part, values = reading[0], {}
    for choice in (part.content, "none", "shuffled"):
        made = train_retriever(job, replace(part, content=choice), reviews, labels, f"{part.model}, content {choice}")
        values[choice] = ndcg(np.load(made.path("valid_ranks.npy"), allow_pickle=False), 10)
    resamples, seed = job.config.evaluate.bootstrap, job.config.evaluate.seed
    gain, control = (paired_bootstrap(values[part.content], values[c], resamples, seed) for c in ("none", "shuffled"))
    helps = gain[1] > 0 and control[0] > 0
    figures: dict[str, Any] = {f"valid_ndcg@10.{choice}": float(v.mean()) for choice, v in values.items()}
    figures |= {"gain": gain, "over_placebo": control, "helps": helps}
    measured = (
        f"validation NDCG@10 of {part.model} {shown(*gain)} over no texts, {shown(*control)} over other items' texts"
    )
    words = f"Texts of items ({part.content}) help the retriever: {measured}."
    if not helps:
        words = f"Texts of items ({part.content}) do not clearly help the retriever, so they are off: {measured}."
        off = tuple(values | {"content": "none"} for values in config.parts)
        config = replace(config, content="none", parts=off)
    log.info(words)
    return Decision(config, words, figures)
