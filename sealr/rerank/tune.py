"""Search space of the scoring ranker's settings. A trial's value is the validation NDCG@10 of the LLM alone.

The fusion's weight is not searched here: it is found on validation for every adapter anew (`sealr.rerank.rankers.tune_weight`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optuna.trial import Trial

from sealr.config import ConfigError
from sealr.settings import RerankConfig

RANKS = (4, 8, 16, 32)  # of LoRA
DEPTHS = (1, 2, 4, 6, 12)  # layers of the LLM
HARD = (0, 50, 200)  # of the retriever's best items that a target is compared with; 0: with the whole catalogue


def suggest(trial: Trial, config: RerankConfig) -> RerankConfig:
    """The settings of one trial: ``config`` with the searched fields replaced. Raises ConfigError for other rankers."""
    if config.ranker != "scoring":
        raise ConfigError(f"tune searches the settings of rerank.ranker scoring, not of {config.ranker}")
    rank = trial.suggest_categorical("lora.r", RANKS)
    hard = trial.suggest_categorical("scoring.hard", HARD)
    scoring = replace(
        config.scoring,
        dropout=trial.suggest_float("scoring.dropout", 0.1, 0.6, step=0.1),
        negatives="hard" if hard else "full",
        hard=hard or config.scoring.hard,
    )
    return replace(
        config,
        lr=trial.suggest_float("lr", 1e-4, 3e-3, log=True),
        layers=trial.suggest_categorical("layers", DEPTHS),
        lora=replace(config.lora, r=rank),
        scoring=scoring,
    )


def current(config: RerankConfig) -> dict[str, Any]:
    """The values of ``config`` under the names that `suggest` uses; one outside of its range is drawn at random instead."""
    values: dict[str, Any] = {"lr": config.lr, "scoring.dropout": config.scoring.dropout}
    hard = config.scoring.hard if config.scoring.negatives == "hard" else 0
    choices = {"lora.r": (config.lora.r, RANKS), "layers": (config.layers, DEPTHS), "scoring.hard": (hard, HARD)}
    return values | {name: value for name, (value, allowed) in choices.items() if value in allowed}


def overrides(found: dict[str, Any]) -> str:
    """What to set to get a trial's settings."""
    values = {f"rerank.{name}": value for name, value in found.items() if name != "scoring.hard"}
    if hard := found["scoring.hard"]:
        values |= {"rerank.scoring.negatives": "hard", "rerank.scoring.hard": hard}
    else:
        values["rerank.scoring.negatives"] = "full"
    return " ".join(f"{name}={value}" for name, value in values.items())
