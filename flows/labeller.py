"""The labeller's figures in MLflow: ``mlflow run . -e evaluate-labeller``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sealr import tracking
from sealr.data.manifest import state_dir
from sealr.data.tables import read_json
from sealr.emotion.backends import EMBEDDED
from sealr.emotion.training.evaluate import report
from sealr.settings import Config, DataConfig, LabelConfig

LOGGED = ("macro_f1", "micro_f1", "argmax_accuracy", "calibration_error_top", "calibration_error_all")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sealr.flows.labeller", description="Logs a labeller's figures on GoEmotions.")
    parser.add_argument("--goemotions", type=Path, required=True, help="folder with dev.tsv.gz and test.tsv.gz")
    parser.add_argument("--labeller", type=Path, default=EMBEDDED, help="a labeller folder; the shipped one if not given")
    arguments = parser.parse_args(argv)
    config = Config(DataConfig("goemotions"), LabelConfig(model=str(arguments.labeller)))
    with tracking.job("evaluate-labeller", config) as run_id:
        folder = state_dir() / "labeller-figures"
        text = report(arguments.goemotions, arguments.labeller, folder)
        tracking.log_metrics(metrics(read_json(folder / "figures.json")), run_id)
        tracking.log_folder(folder, "labeller")
    print(text)


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


if __name__ == "__main__":
    main()
