"""Builds a labeller folder: weights, labeller.json, MODEL_CARD.md and training.log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sealr.data.manifest import file_digest
from sealr.data.tables import EMOTIONS, write_json
from sealr.emotion import network as net
from sealr.emotion.labeller import Labeller
from sealr.emotion.training.card import write_card
from sealr.emotion.training.evaluate import SPLITS, logit, sigmoid, tune_temperature, tune_thresholds
from sealr.emotion.training.goemotions import read_split
from sealr.emotion.training.train import CHECKPOINT, Epoch, TrainArguments, fit
from sealr.settings import LabelConfig

log = logging.getLogger(__name__)
LOG = "training.log"


def build(
    data: Path, out: Path, arguments: TrainArguments, on_epoch: Callable[[Epoch], None] | None = None
) -> dict[str, Any]:
    """Trains a labeller into ``out`` and returns the values of labeller.json.

    The same call continues an interrupted build; after a finished one it starts anew. Raises EmotionDataError, and
    CheckpointError if ``out`` has a checkpoint of other arguments.
    """
    for split in ("train", *SPLITS):
        read_split(data, split)  # a mistake in a file is reported before anything is written
    with _log_file(out):
        trained = fit(data, out, arguments, on_epoch)
        card = finish(data, out, asdict(arguments), trained)
        for name, digest in card["sha256"].items():
            log.info("%s: SHA-256 %s", name, digest)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return card


def finish(data: Path, out: Path, arguments: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """Chooses temperature and thresholds on dev, and writes labeller.json and MODEL_CARD.md.

    All figures come from the written files. The test set is only read for the report.
    """
    card: dict[str, Any] = {
        "base": arguments["base"],
        "labels": list(EMOTIONS),
        "temperature": 1.0,
        "thresholds": dict.fromkeys(EMOTIONS, 0.5),
        "training": arguments | trained,
        "sha256": {name: file_digest(out / name) for name in net.FILES},
    }
    write_json(card, out / net.CARD)
    texts, gold = read_split(data, "dev")
    labeller = Labeller.from_config(LabelConfig(model=str(out)), precision="float32")
    logits = logit(np.nan_to_num(labeller.probabilities(texts)))
    card["temperature"] = tune_temperature(logits, gold)
    thresholds = tune_thresholds(sigmoid(logits / card["temperature"]), gold)
    card["thresholds"] = dict(zip(EMOTIONS, thresholds.tolist(), strict=True))
    write_card(card, data, out)
    return card


@contextmanager
def _log_file(out: Path) -> Iterator[None]:
    """Copies log messages to training.log, which a continued build appends to and a new one replaces."""
    out.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(out / LOG, "a" if (out / CHECKPOINT).exists() else "w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("sealr")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
