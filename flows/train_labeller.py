"""Trains the embedded labeller with a record in MLflow: ``mlflow run . -e train-labeller``."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path

from sealr.flows.labeller import metrics
from sealr import tracking
from sealr.data.tables import EMOTIONS
from sealr.emotion.backends import EMBEDDED
from sealr.emotion.training.train import Epoch, TrainArguments, add_options, build
from sealr.settings import Config, DataConfig, LabelConfig


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sealr.flows.train_labeller", description="Trains the embedded labeller on GoEmotions, logged to MLflow."
    )
    parser.add_argument("--goemotions", type=Path, required=True, help="folder with train.tsv.gz, dev.tsv.gz, test.tsv.gz")
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="folder for the labeller; the shipped one if not given")
    add_options(parser)
    values = vars(parser.parse_args(argv))
    data, out = values.pop("goemotions"), values.pop("out")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = TrainArguments(**values)
    config = Config(DataConfig("goemotions"), LabelConfig(model=str(out)))
    with (
        tracking.job("train-labeller", config) as run_id,
        tracking.stage("train-labeller", run_id, asdict(arguments)),
    ):
        card = build(data, out, arguments, _log_epoch)
        thresholds = {f"threshold.{e}": card["thresholds"][e] for e in EMOTIONS}
        seconds = {"temperature": card["temperature"], "seconds": card["training"]["seconds"]}
        tracking.log_metrics(metrics(card["figures"]) | thresholds | seconds)
        tracking.log_folder(out, "labeller")


def _log_epoch(epoch: Epoch) -> None:
    tracking.log_epoch(int(epoch["epoch"]), {k: v for k, v in epoch.items() if k != "epoch"})


if __name__ == "__main__":
    main()
