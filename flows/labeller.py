"""Trains and evaluates a labeller with a record in MLflow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sealr import tracking
from sealr.data.manifest import state_dir
from sealr.data.tables import EMOTIONS, read_json
from sealr.emotion.backends import EMBEDDED
from sealr.emotion.training.build import build
from sealr.emotion.training.evaluate import report
from sealr.emotion.training.train import Epoch, TrainArguments
from sealr.settings import Config, DataConfig, LabelConfig

LOGGED = ("macro_f1", "micro_f1", "argmax_accuracy", "calibration_error_top", "calibration_error_all")


def train_labeller(data: Path, out: Path, arguments: TrainArguments | None = None) -> dict[str, Any]:
    """Builds a labeller in ``out`` from GoEmotions files in ``data``; returns the values of labeller.json.

    MLflow gets the arguments, the losses of each epoch, the figures on dev and test, and the files.
    """
    arguments = arguments or TrainArguments()
    with (
        tracking.job("train-labeller", _config(out)) as run_id,
        tracking.stage("train-labeller", run_id, asdict(arguments)),
    ):
        card = build(data, out, arguments, _log_epoch)
        thresholds = {f"threshold.{e}": card["thresholds"][e] for e in EMOTIONS}
        more = {"temperature": card["temperature"], "seconds": card["training"]["seconds"]}
        tracking.log_metrics(metrics(card["figures"]) | thresholds | more)
        tracking.log_folder(out, "labeller")
    return card


def evaluate_labeller(data: Path, labeller: Path = EMBEDDED) -> str:
    """Figures of a labeller folder as text. MLflow gets the figures and a confusion plot per split."""
    with tracking.job("evaluate-labeller", _config(labeller)) as run_id:
        folder = state_dir() / "labeller-figures"
        text = report(data, labeller, folder)
        tracking.log_metrics(metrics(read_json(folder / "figures.json")), run_id)
        tracking.log_folder(folder, "labeller")
    return text


def metrics(figures: dict[str, dict]) -> dict[str, float]:
    """Flat names such as test.macro_f1, test.sentiment.negative.f1 and test_int8.macro_f1."""
    flat = {}
    for split, values in figures.items():
        name = split.replace(", ", "_")
        flat |= {f"{name}.{key}": values[key] for key in LOGGED}
        flat |= {f"{name}.{key}.uncalibrated": value for key, value in values["uncalibrated"].items()}
        for kind, parts in (("emotion", "per_class"), ("group", "groups"), ("sentiment", "sentiments")):
            flat |= {f"{name}.{kind}.{k.lower().replace(' ', '_')}.f1": v["f1"] for k, v in values[parts].items()}
    return flat


def _config(folder: Path) -> Config:
    return Config(DataConfig("goemotions"), LabelConfig(model=str(folder)))


def _log_epoch(epoch: Epoch) -> None:
    tracking.log_epoch(int(epoch["epoch"]), {k: v for k, v in epoch.items() if k != "epoch"})
