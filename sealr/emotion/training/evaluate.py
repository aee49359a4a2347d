"""How good a labeller is on GoEmotions, from its shipped files.

``python -m sealr.emotion.training.evaluate --data <folder> [--labeller <folder>] [--out <folder>]`` recomputes the figures of the
model card, prints them and writes them with a confusion plot. The same functions tune thresholds and temperature when a labeller is trained, on the dev set only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from sealr.data.manifest import state_dir
from sealr.data.tables import EMOTIONS, read_json, write_json
from sealr.emotion.backends import EMBEDDED
from sealr.emotion.label import Labeller
from sealr.emotion.network import CARD
from sealr.emotion.plots import confusion, confusion_plot
from sealr.emotion.quantise import supported
from sealr.emotion.sentiment import CLASS_NAMES, SENTIMENT_MAP
from sealr.emotion.training.train import read_split
from sealr.settings import LabelConfig

GRID = np.round(np.arange(0.02, 0.96, 0.01), 2)  # thresholds tried
BINS = 15  # of the calibration error
# the taxonomy of the GoEmotions paper (Demszky et al. 2020, its sentiment mapping); what is left is neutral
GROUPS: dict[str, tuple[str, ...]] = {
    "positive": ("admiration", "amusement", "approval", "caring", "desire", "excitement", "gratitude", "joy", "love", "optimism", "pride", "relief"),
    "negative": ("anger", "annoyance", "disappointment", "disapproval", "disgust", "embarrassment", "fear", "grief", "nervousness", "remorse", "sadness"),
    "ambiguous": ("confusion", "curiosity", "realization", "surprise"),
    "neutral": ("neutral",),
}  # fmt: skip


def figures(probabilities: np.ndarray, gold: np.ndarray, thresholds: np.ndarray) -> dict[str, Any]:
    """Macro and micro F1, precision and recall, per emotion, per group and per sentiment, and calibration errors.

    probabilities, gold: (N, 28). An emotion is predicted where its probability reaches its threshold. A group or a
    sentiment is predicted, or true, where any of its emotions is.
    """
    predicted, true = probabilities >= thresholds, gold > 0
    per_class = {e: _f1(predicted[:, i], true[:, i]) | {"threshold": float(thresholds[i])} for i, e in enumerate(EMOTIONS)}
    any_of = {name: [EMOTIONS.index(e) for e in members] for name, members in GROUPS.items()}
    sentiments = {name: [i for i, e in enumerate(EMOTIONS) if SENTIMENT_MAP[e] == c] for c, name in CLASS_NAMES.items()}
    top = probabilities.argmax(1)
    return {
        "texts": len(gold),
        "macro_f1": float(np.mean([v["f1"] for v in per_class.values()])),
        "macro_precision": float(np.mean([v["precision"] for v in per_class.values()])),
        "macro_recall": float(np.mean([v["recall"] for v in per_class.values()])),
        "micro_f1": _f1(predicted.ravel(), true.ravel())["f1"],
        "argmax_accuracy": float(true[np.arange(len(top)), top].mean()),  # the paper's rule: the top emotion is a true one
        "per_class": per_class,
        "groups": {name: _f1(predicted[:, i].any(1), true[:, i].any(1)) for name, i in any_of.items()},
        "sentiments": {name: _f1(predicted[:, i].any(1), true[:, i].any(1)) for name, i in sentiments.items()},
        "calibration_error_top": calibration_error(probabilities.max(1), true[np.arange(len(top)), top]),
        "calibration_error_all": calibration_error(probabilities.ravel(), true.ravel()),
    }


def _f1(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    hits, guesses, support = int((predicted & true).sum()), int(predicted.sum()), int(true.sum())
    return {
        "precision": hits / guesses if guesses else 0.0,
        "recall": hits / support if support else 0.0,
        "f1": 2 * hits / (guesses + support) if guesses + support else 0.0,
        "support": support,
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
    """The temperature with the least cross-entropy."""

    def loss(t: float) -> float:
        z = logits / t
        return float((np.logaddexp(0, z) - gold * z).mean())

    return float(min(np.round(np.geomspace(0.5, 2.0, 139), 4), key=loss))


def tune_thresholds(probabilities: np.ndarray, gold: np.ndarray, smooth: int = 5) -> np.ndarray:
    """(28,) thresholds with the best F1. The F1 curve is smoothed first: rare emotions have a dozen examples."""
    best = []
    for i in range(gold.shape[1]):
        curve = np.array([_f1(probabilities[:, i] >= t, gold[:, i] > 0)["f1"] for t in GRID])
        padded = np.pad(curve, smooth // 2, mode="edge")
        best.append(GRID[np.convolve(padded, np.ones(smooth) / smooth, mode="valid").argmax()])
    return np.array(best)


def evaluate(
    data: Path, labeller_folder: Path, splits: tuple[str, ...] = ("dev", "test"), out: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Figures of a labeller folder on GoEmotions splits, with the folder's thresholds.

    By split, in single precision and, as "<split>, int8", in 8 bits where this machine has them. out: a folder for
    figures.json and a confusion plot of each split, drawn from the precision that `auto` would take.
    """
    card = read_json(labeller_folder / CARD)
    thresholds = np.array([card["thresholds"][e] for e in EMOTIONS])
    result = {}
    for precision in ("float32", "int8") if supported() else ("float32",):
        labeller = Labeller.from_config(LabelConfig(model=str(labeller_folder), precision=precision))
        for split in splits:
            texts, gold = read_split(data / f"{split}.tsv.gz")
            # a text with nothing to read has no prediction
            probabilities = np.nan_to_num(labeller.probabilities(texts))
            name = split if precision == "float32" else f"{split}, {precision}"
            result[name] = figures(probabilities, gold, thresholds)
            plain = sigmoid(logit(probabilities) * card["temperature"])
            result[name]["uncalibrated"] = {
                "calibration_error_top": calibration_error(plain.max(1), gold[np.arange(len(gold)), plain.argmax(1)] > 0),
                "calibration_error_all": calibration_error(plain.ravel(), gold.ravel() > 0),
            }
            if out and precision == (card.get("precision", "float32") if supported() else "float32"):
                confusion_plot(confusion(probabilities, gold), gold.sum(0), out / f"confusion_{split}.png")
    if out:
        write_json(result, out / "figures.json")
    return result


def overall_table(result: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row a figure, a column a split."""
    rows = [
        ("macro-F1", "macro_f1"),
        ("micro-F1", "micro_f1"),
        ("macro precision", "macro_precision"),
        ("macro recall", "macro_recall"),
    ]
    rows += [("argmax emotion is a true one", "argmax_accuracy"), ("calibration error, top emotion", "calibration_error_top")]
    rows += [("calibration error, all emotions", "calibration_error_all")]
    lines = [f"| | {' | '.join(result)} |", "|---|" + "---|" * len(result)]
    for title, key in rows:
        cells = []
        for figure in result.values():
            before = f" (before temperature: {figure['uncalibrated'][key]:.4f})" if key in figure.get("uncalibrated", {}) else ""
            cells.append(f"{figure[key]:.4f}{before}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parts_table(values: dict[str, dict[str, float]], title: str) -> str:
    """Markdown: precision, recall, F1 and support of emotions, groups or sentiments."""
    lines = [f"| {title} | precision | recall | F1 | texts |", "|---|---|---|---|---|"]
    lines += [f"| {n} | {v['precision']:.3f} | {v['recall']:.3f} | {v['f1']:.3f} | {v['support']} |" for n, v in values.items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sealr.emotion.training.evaluate", description="Recomputes a labeller's figures on GoEmotions."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with dev.tsv.gz and test.tsv.gz")
    parser.add_argument("--labeller", type=Path, default=EMBEDDED, help="a labeller folder; the shipped one if not given")
    parser.add_argument("--out", type=Path, default=state_dir() / "labeller-figures", help="folder for figures.json and plots")
    arguments = parser.parse_args(argv)
    print(report(arguments.data, arguments.labeller, arguments.out))


def report(data: Path, labeller_folder: Path, out: Path) -> str:
    """`evaluate` with its files in ``out``, as text: all tables, and a warning where the card says something else."""
    result = evaluate(data, labeller_folder, out=out)
    parts = [overall_table(result)]
    for key, title in (("per_class", "emotion, test"), ("groups", "group, test"), ("sentiments", "sentiment, test")):
        parts.append(parts_table(result["test"][key], title))
    stored = read_json(labeller_folder / CARD).get("figures", {})
    for split in sorted(set(stored) & set(result)):
        if abs(stored[split]["macro_f1"] - result[split]["macro_f1"]) > 5e-4:
            parts.append(
                f"warning: {CARD} says macro-F1 {stored[split]['macro_f1']:.4f} on {split}; these files give {result[split]['macro_f1']:.4f}"
            )
    return "\n\n".join([*parts, f"files: {out}"])


if __name__ == "__main__":
    main()
