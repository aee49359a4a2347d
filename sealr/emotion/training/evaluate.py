"""Figures of a labeller on GoEmotions, computed from its files, and the tuning of temperature and thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sealr.data.tables import EMOTIONS, read_json, write_json
from sealr.emotion.engines import int8_available
from sealr.emotion.labeller import Labeller
from sealr.emotion.network import CARD
from sealr.emotion.sentiment import CLASS_NAMES, SENTIMENT_MAP
from sealr.emotion.training.goemotions import read_split
from sealr.settings import LabelConfig

SPLITS = ("dev", "test")
GRID = np.round(np.arange(0.02, 0.96, 0.01), 2)  # candidate thresholds
SMOOTH = 5  # thresholds over which an F1 curve is averaged: rare emotions have a dozen examples
BINS = 15  # of the calibration error
# Taxonomy of Demszky et al. 2020 (its sentiment mapping); the rest is neutral
GROUPS: dict[str, tuple[str, ...]] = {
    "positive": (
        "admiration", "amusement", "approval", "caring", "desire", "excitement", "gratitude", "joy", "love", "optimism",
        "pride", "relief",
    ),
    "negative": (
        "anger", "annoyance", "disappointment", "disapproval", "disgust", "embarrassment", "fear", "grief",
        "nervousness", "remorse", "sadness",
    ),
    "ambiguous": ("confusion", "curiosity", "realization", "surprise"),
    "neutral": ("neutral",),
}  # fmt: skip
ROWS = {
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "argmax_accuracy": "argmax emotion is a true one",
    "calibration_error_top": "calibration error, top emotion",
    "calibration_error_all": "calibration error, all emotions",
}
Figures = dict[str, Any]


def evaluate(
    data: Path, labeller_folder: Path, splits: tuple[str, ...] = SPLITS, out: Path | None = None
) -> dict[str, Figures]:
    """Figures of a labeller folder by split, with the folder's thresholds.

    ``"dev"`` is float32; ``"dev, int8"`` is int8, if this machine has it. out: a folder for figures.json and a
    confusion plot per split, drawn for the precision that ``auto`` means.
    """
    card = read_json(labeller_folder / CARD)
    thresholds = np.array([card["thresholds"][e] for e in EMOTIONS])
    config = LabelConfig(model=str(labeller_folder))
    result = {}
    for precision in ("float32", "int8") if int8_available() else ("float32",):
        labeller = Labeller.from_config(config, precision=precision)
        for split in splits:
            texts, gold = read_split(data, split)
            probabilities = np.nan_to_num(labeller.probabilities(texts))  # a text with nothing to read predicts nothing
            values = figures(probabilities, gold, thresholds)
            plain = sigmoid(logit(probabilities) * card["temperature"])
            result[split if precision == "float32" else f"{split}, int8"] = values | {
                "uncalibrated": calibration_errors(plain, gold)
            }
            if out and precision == (card.get("precision", "float32") if int8_available() else "float32"):
                from sealr.emotion.plots import confusion, confusion_plot  # matplotlib is not needed otherwise

                confusion_plot(confusion(probabilities, gold), gold.sum(0), out / f"confusion_{split}.png")
    if out:
        write_json(result, out / "figures.json")
    return result


def report(data: Path, labeller_folder: Path, out: Path) -> str:
    """All tables of `evaluate` as text, and a warning where labeller.json has other figures. Files go to ``out``."""
    result = evaluate(data, labeller_folder, out=out)
    parts = [overall_table(result)]
    for key, title in (("per_class", "emotion, test"), ("groups", "group, test"), ("sentiments", "sentiment, test")):
        parts.append(parts_table(result["test"][key], title))
    stored = read_json(labeller_folder / CARD).get("figures", {})
    for split in sorted(set(stored) & set(result)):
        then, now = stored[split]["macro_f1"], result[split]["macro_f1"]
        if abs(then - now) > 5e-4:
            parts.append(f"warning: {CARD} says macro-F1 {then:.4f} on {split}; these files give {now:.4f}")
    return "\n\n".join([*parts, f"files: {out}"])


def figures(probabilities: np.ndarray, gold: np.ndarray, thresholds: np.ndarray) -> Figures:
    """F1, precision and recall, overall and per emotion, group and sentiment; calibration errors.

    probabilities, gold: (N, 28). An emotion is predicted if its probability reaches its threshold. A group or a
    sentiment is predicted, or true, if any of its emotions is.
    """
    predicted, true = np.asarray(probabilities >= thresholds), np.asarray(gold > 0)
    per_class = {
        e: _f1(predicted[:, i], true[:, i]) | {"threshold": float(thresholds[i])} for i, e in enumerate(EMOTIONS)
    }
    groups = {name: [EMOTIONS.index(e) for e in members] for name, members in GROUPS.items()}
    sentiments = {name: [i for i, e in enumerate(EMOTIONS) if SENTIMENT_MAP[e] == c] for c, name in CLASS_NAMES.items()}
    top_is_true = true[np.arange(len(gold)), probabilities.argmax(1)]  # the paper's rule
    return {
        "texts": len(gold),
        "macro_f1": float(np.mean([v["f1"] for v in per_class.values()])),
        "macro_precision": float(np.mean([v["precision"] for v in per_class.values()])),
        "macro_recall": float(np.mean([v["recall"] for v in per_class.values()])),
        "micro_f1": _f1(predicted.ravel(), true.ravel())["f1"],
        "argmax_accuracy": float(top_is_true.mean()),
        "per_class": per_class,
        "groups": {name: _f1(predicted[:, i].max(1), true[:, i].max(1)) for name, i in groups.items()},
        "sentiments": {name: _f1(predicted[:, i].max(1), true[:, i].max(1)) for name, i in sentiments.items()},
    } | calibration_errors(probabilities, gold)


def _f1(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    hits, guesses, support = int((predicted & true).sum()), int(predicted.sum()), int(true.sum())
    return {
        "precision": hits / guesses if guesses else 0.0,
        "recall": hits / support if support else 0.0,
        "f1": 2 * hits / (guesses + support) if guesses + support else 0.0,
        "support": support,
    }


def calibration_errors(probabilities: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Of the most probable emotion, and of all emotions."""
    true = gold > 0
    top = true[np.arange(len(gold)), probabilities.argmax(1)]
    return {
        "calibration_error_top": calibration_error(probabilities.max(1), top),
        "calibration_error_all": calibration_error(probabilities.ravel(), true.ravel()),
    }


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error: |confidence - accuracy| over bins of equal width, weighted by their sizes."""
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    size = np.bincount(index, minlength=BINS)
    gap = np.abs(np.bincount(index, confidence, BINS) - np.bincount(index, correct.astype(float), BINS))
    return float(gap[size > 0].sum() / max(1, len(confidence)))


def logit(probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def tune_temperature(logits: np.ndarray, gold: np.ndarray) -> float:
    """The temperature with the smallest cross-entropy."""

    def loss(t: float) -> float:
        z = logits / t
        return float((np.logaddexp(0, z) - gold * z).mean())

    return float(min(np.round(np.geomspace(0.5, 2.0, 139), 4), key=loss))


def tune_thresholds(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """(28,) thresholds with the best smoothed F1."""
    best = []
    for i in range(gold.shape[1]):
        curve = np.array([_f1(probabilities[:, i] >= t, gold[:, i] > 0)["f1"] for t in GRID])
        padded = np.pad(curve, SMOOTH // 2, mode="edge")
        best.append(GRID[np.convolve(padded, np.ones(SMOOTH) / SMOOTH, mode="valid").argmax()])
    return np.array(best)


def overall_table(result: dict[str, Figures]) -> str:
    """Markdown: a row per figure, a column per split."""
    lines = [f"| | {' | '.join(result)} |", "|---|" + "---|" * len(result)]
    for key, title in ROWS.items():
        cells = []
        for values in result.values():
            plain = values.get("uncalibrated", {}).get(key)
            cells.append(f"{values[key]:.4f}" + (f" (before temperature: {plain:.4f})" if plain is not None else ""))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parts_table(values: dict[str, dict[str, float]], title: str) -> str:
    """Markdown: precision, recall, F1 and support of emotions, groups or sentiments."""
    lines = [f"| {title} | precision | recall | F1 | texts |", "|---|---|---|---|---|"]
    for name, v in values.items():
        lines.append(f"| {name} | {v['precision']:.3f} | {v['recall']:.3f} | {v['f1']:.3f} | {v['support']} |")
    return "\n".join(lines)
