"""Finishes a trained labeller: temperature and thresholds from dev, figures, labeller.json and MODEL_CARD.md."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from sealr.data.manifest import file_digest
from sealr.data.tables import EMOTIONS, atomic_path, write_json
from sealr.emotion import network as net
from sealr.emotion.training.evaluate import evaluate, logit, overall_table, parts_table, sigmoid, tune_temperature, tune_thresholds
from sealr.emotion.label import Labeller
from sealr.emotion.training.train import read_split
from sealr.settings import LabelConfig

log = logging.getLogger(__name__)
COST = 0.005  # macro-F1 on dev that 8 bits may cost and be the default
RARE = ("grief", "relief", "pride", "nervousness")  # fewer than 25 texts in the test set


def finish(data: Path, out: Path, arguments: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """Writes labeller.json and MODEL_CARD.md from the adapter and head in ``out``; returns the former's values.

    All figures come from the files as written, through the Labeller. The test set is read last, for the report only.
    """
    card: dict[str, Any] = {
        "base": arguments.get("base", net.BASE), "labels": list(EMOTIONS), "temperature": 1.0, "thresholds": dict.fromkeys(EMOTIONS, 0.5),
        "max_length": arguments["max_length"], "seed": arguments["seed"], "training": arguments | trained,
        "adapter": arguments["rank"] > 0,
        "sha256": {n: file_digest(out / n) for n in (net.ADAPTER, net.HEAD, "adapter_config.json") if (out / n).exists()},
    }  # fmt: skip
    write_json(card, out / net.CARD)
    texts, gold = read_split(data / "dev.tsv.gz")
    labeller = Labeller.from_config(LabelConfig(model=str(out), precision="float32"))
    logits = logit(np.nan_to_num(labeller.probabilities(texts)))
    card["temperature"] = tune_temperature(logits, gold)
    card["thresholds"] = dict(zip(EMOTIONS, tune_thresholds(sigmoid(logits / card["temperature"]), gold).tolist(), strict=True))
    write_card(card, data, out)
    return card


def write_card(card: dict[str, Any], data: Path, out: Path) -> None:
    """Figures of the files in ``out``, the precision that dev allows, labeller.json and MODEL_CARD.md."""
    write_json(card, out / net.CARD)
    card["figures"] = evaluate(data, out)
    dev = card["figures"]["dev"]["macro_f1"]
    fast = card["figures"].get("dev, int8", {"macro_f1": 0.0})["macro_f1"]
    card["precision"] = "int8" if dev - fast < COST else "float32"
    write_json(card, out / net.CARD)
    with atomic_path(out / "MODEL_CARD.md") as temporary:
        temporary.write_text(model_card(card), encoding="utf-8")
    log.info("%s", overall_table(card["figures"]))


def model_card(card: dict[str, Any]) -> str:
    """The model card as Markdown."""
    training, test = card["training"], card["figures"]["test"]
    how = f"with a LoRA\nadapter of rank {training['rank']} on all linear layers," if training["rank"] else "as it is, with"
    holds = "the adapter (half precision) and\nthe head" if training["rank"] else "the head"
    options = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in training.items() if k not in ("base", "history", "seconds"))
    history = "\n".join(
        f"| {h['epoch']} | {h['train_loss']:.4f} | {h['dev_loss']:.4f} | {h['dev_loss_averaged']:.4f} |"
        for h in training["history"]
    )
    files = "\n".join(f"| {name} | `{digest}` |" for name, digest in card["sha256"].items())
    return f"""# Embedded emotion labeller

Gives a text a probability for each of the 28 GoEmotions emotions. It is `{card["base"]}` (Apache-2.0) {how} mean pooling and a linear head. This folder holds {holds}; the base model is resolved by `sealr/weights.py`. It is the default wherever the hub model
`SamLowe/roberta-base-go_emotions`, the one of the paper, cannot be had.

## Data
GoEmotions (Demszky et al. 2020; Apache-2.0): Reddit comments, the published train, dev and test split
(43,410 / 5,426 / 5,427). Trained on train; epoch, averaged or plain weights, temperature and thresholds chosen on dev; test
was used only for the tables below. 37 test texts also occur in train, as published; they are kept.

## Figures
Recomputed from these files by `python -m sealr.emotion.training.evaluate --data <folder with goemotions>`.

{overall_table(card["figures"])}

Calibration error: expected calibration error over 15 bins of equal width; temperature {card["temperature"]}. The default on x86
is {card["precision"]}: chosen on dev, where 8 bits may cost at most {COST} macro-F1. The tables below are of float32.

Test, by group (true or predicted where any of its emotions is):

{parts_table(test["groups"], "group")}

Test, by the paper's five sentiments (same rule):

{parts_table(test["sentiments"], "sentiment")}

Test, by emotion, with thresholds from dev:

{parts_table(test["per_class"], "emotion")}

## Training
`python -m sealr.emotion.training.train --data <folder with goemotions> --out <folder> {options}`

{training["seconds"] / 60:.0f} minutes of wall time on two shared CPU cores. Mean binary cross-entropy:

| epoch | train | dev | dev, averaged weights |
|---|---|---|---|
{history}

## Files
A build leaves its log, `training.log`, beside this file (not shipped). The same command with the same versions, CPU and number of threads gives
the same bytes:

| file | SHA-256 |
|---|---|
{files}

## Limits
* Reddit comments are short, informal and English; product reviews are longer and another domain. No review was annotated, so
  accuracy on reviews is not known; the label stage reports the correlation of the expected sentiment with star ratings.
* Grief, relief, pride and nervousness have 6, 11, 16 and 23 test texts: their figures have wide bounds, and so does their part
  of macro-F1 (without these four it is {np.mean([v["f1"] for e, v in test["per_class"].items() if e not in RARE]):.4f} on test). One training seed.
* The annotators of GoEmotions disagree often; irony and mentions of others' feelings are labelled as if they were the writer's.
* Other languages get a label, and it means little.
* The paper's argmax rule uses the most probable emotion and no thresholds; `neutral` wins often under it.
"""
