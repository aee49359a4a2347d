"""Search space of the scoring ranker.

The value of a trial is the validation NDCG@10 of retriever and LLM, fused with the weight that is best there: an LLM
that ranks better alone need not add more to the retriever. The evaluation uses weight 0 unless the gain is clear of 0;
as the value of a trial, that would make all weak trials equal.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Any

from optuna.trial import Trial

from sealr.config import ConfigError
from sealr.settings import RerankConfig

CHOICES = {
    "lora.r": (4, 8, 16, 32),
    "scoring.pools": (0, 2, 5),  # hard negatives as a multiple of rerank.n_reranked; 0: the whole catalogue
    "layers": (1, 2, 4, 6, 12),
}


def suggest(trial: Trial, config: RerankConfig, hard: bool = True) -> RerankConfig:
    """``config`` with the trial's values. Raises ConfigError for other rankers.

    hard: whether a retriever can supply hard negatives.
    """
    if config.ranker != "scoring":
        raise ConfigError(f"tune searches settings of rerank.ranker=scoring, not of {config.ranker}")
    rank = trial.suggest_categorical("lora.r", CHOICES["lora.r"])
    pools = trial.suggest_categorical("scoring.pools", CHOICES["scoring.pools"] if hard else (0,))
    scoring = replace(
        config.scoring,
        dropout=trial.suggest_float("scoring.dropout", 0.1, 0.6, step=0.1),
        negative_source="hard" if pools else "full",
        n_hard_negatives=pools * config.n_reranked or config.scoring.n_hard_negatives,
    )
    lr = trial.suggest_float("lr", 1e-4, 3e-3, log=True)
    layers = trial.suggest_categorical("layers", CHOICES["layers"])
    return replace(config, lr=lr, layers=layers, lora=replace(config.lora, r=rank), scoring=scoring)


def current(config: RerankConfig) -> dict[str, Any]:
    """``config`` as a trial. A value that is not among the choices is left out, so Optuna draws it."""
    scoring = config.scoring
    pools = scoring.n_hard_negatives / config.n_reranked if scoring.negative_source == "hard" else 0
    values = {"lora.r": config.lora.r, "scoring.pools": pools, "layers": config.layers}
    known = {name: choice for name, value in values.items() for choice in CHOICES[name] if choice == value}
    return {"lr": config.lr, "scoring.dropout": scoring.dropout} | known


def overrides(chosen: RerankConfig) -> str:
    """The overrides that give a trial's settings."""
    names = ["lr", "layers", "lora.r", "scoring.dropout", "scoring.negative_source"]
    names += ["scoring.n_hard_negatives"] if chosen.scoring.negative_source == "hard" else []
    return " ".join(f"rerank.{name}={attrgetter(name)(chosen)}" for name in names)
