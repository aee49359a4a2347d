"""Writes the card of a labeller: labeller.json for the code, MODEL_CARD.md for people."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sealr.data.tables import atomic_path, write_json
from sealr.emotion.network import CARD
from sealr.emotion.training.evaluate import evaluate, overall_table, parts_table
from sealr.emotion.training.train import TrainArguments

log = logging.getLogger(__name__)
COST = 0.005  # macro-F1 on dev that int8 may cost and still be the default
RARE = ("grief", "relief", "pride", "nervousness")  # fewer than 25 texts in the test set


def write_card(card: dict[str, Any], data: Path, out: Path) -> None:
    """Adds figures and default precision to ``card`` and writes labeller.json and MODEL_CARD.md.

    card: the other values of labeller.json, among them temperature and thresholds. out: the labeller folder.
    """
    write_json(card, out / CARD)
    figures = evaluate(data, out)
    fast = figures.get("dev, int8", {"macro_f1": 0.0})["macro_f1"]
    card["figures"], card["precision"] = figures, "int8" if figures["dev"]["macro_f1"] - fast < COST else "float32"
    write_json(card, out / CARD)
    with atomic_path(out / "MODEL_CARD.md") as temporary:
        temporary.write_text(model_card(card), encoding="utf-8")
    log.info("%s", overall_table(figures))


def model_card(card: dict[str, Any]) -> str:
    """The model card as Markdown."""
    training, test = card["training"], card["figures"]["test"]
    changed = asdict(TrainArguments()).items() - {
        (k, v) for k, v in training.items() if k not in ("history", "seconds")
    }
    options = "".join(f" --{k.replace('_', '-')} {training[k]}" for k, _ in sorted(changed) if k != "base")
    history = "\n".join(
        f"| {h['epoch']} | {h['train_loss']:.4f} | {h['dev_loss']:.4f} | {h['dev_loss_averaged']:.4f} |"
        for h in training["history"]
    )
    files = "\n".join(f"| {name} | `{digest}` |" for name, digest in card["sha256"].items())
    frequent = np.mean([v["f1"] for e, v in test["per_class"].items() if e not in RARE])
    return f"""# Embedded emotion labeller

Computes a probability for each of the 28 GoEmotions emotions of a text. The model is
`{card["base"]}` (Apache-2.0) with a LoRA adapter of rank {training["rank"]} on all linear
layers, mean pooling and a linear head. This folder has the adapter (half precision) and the head; `sealr/weights.py`
finds the base model. It is the default wherever the paper's model, `SamLowe/roberta-base-go_emotions`, is unavailable.

## Data
GoEmotions (Demszky et al. 2020; Apache-2.0): Reddit comments in the published train, dev and test split
(43,410 / 5,426 / 5,427). Weights are trained on train. Epoch, averaged or plain weights, temperature and thresholds
are chosen on dev. Test is only used for the figures below. 37 test texts also occur in train, as published.

## Figures
`sealr evaluate-labeller --goemotions FOLDER` recomputes them from these files.

{overall_table(card["figures"])}

Calibration error: expected calibration error over 15 bins of equal width; temperature {card["temperature"]}.
The default precision on CPUs with VNNI is {card["precision"]}: int8 is the default if it costs less than {COST}
macro-F1 on dev, otherwise float32. int8 is calibrated with `calibration.txt`, which contains texts from train. The
tables below are for float32.

Test, by group (a group is predicted or true if any of its emotions is):

{parts_table(test["groups"], "group")}

Test, by the paper's five sentiments (same rule):

{parts_table(test["sentiments"], "sentiment")}

Test, by emotion, with thresholds from dev:

{parts_table(test["per_class"], "emotion")}

## Training
`sealr train-labeller --goemotions FOLDER --out FOLDER{options}`

{training["seconds"] / 60:.0f} minutes on two CPU cores. Mean binary cross-entropy:

| epoch | train | dev | dev, averaged weights |
|---|---|---|---|
{history}

## Files
The same command with the same versions, CPU and number of threads gives the same bytes:

| file | SHA-256 |
|---|---|
{files}

## Limits
* Reddit comments are short, informal English; product reviews are longer and of another domain. No review is annotated,
  so accuracy on reviews is unknown. The label stage reports how the expected sentiment correlates with star ratings.
* Grief, relief, pride and nervousness have 6, 11, 16 and 23 test texts, so their figures are uncertain. Macro-F1
  without these four is {frequent:.4f} on test. There is one training seed.
* The annotators of GoEmotions often disagree. Irony, and mentions of other people's feelings, are labelled as if they
  were the writer's feelings.
* Texts in other languages get a label that means little.
* The paper's argmax rule takes the most probable emotion without thresholds; `neutral` often wins.
"""
