"""Search space of the scoring ranker's settings. A trial's value is the validation NDCG@10 of retriever and LLM, fused under the weight
that is best there.

Not the LLM's own: what ranks better alone need not add more to the retriever. The evaluation is stricter and takes weight 0 unless the
gain is clear of 0; as a value that would make all trials below that alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optuna.trial import Trial

from sealr.config import ConfigError
from sealr.settings import RerankConfig

RANKS = (4, 8, 16, 32)  # of LoRA
DEPTHS = (1, 2, 4, 6, 12)  # layers of the LLM
POOLS = (0, 2, 5)  # what a target is compared with: the retriever's best, so many pools of them, or with 0 the whole catalogue


def suggest(trial: Trial, config: RerankConfig, hard: bool = True) -> RerankConfig:
    """The settings of one trial: ``config`` with the searched fields replaced. Raises ConfigError for other rankers.

    hard: whether there is a retriever that hard negatives can come from.
    """
    if config.ranker != "scoring":
        raise ConfigError(f"tune searches the settings of rerank.ranker scoring, not of {config.ranker}")
    rank = trial.suggest_categorical("lora.r", RANKS)
    pools = trial.suggest_categorical("scoring.pools", POOLS if hard else POOLS[:1])
    scoring = replace(
        config.scoring,
        dropout=trial.suggest_float("scoring.dropout", 0.1, 0.6, step=0.1),
        negative_source="hard" if pools else "full",
        n_hard_negatives=pools * config.n_reranked or config.scoring.n_hard_negatives,
    )
    return replace(
        config,
        lr=trial.suggest_float("lr", 1e-4, 3e-3, log=True),
        layers=trial.suggest_categorical("layers", DEPTHS),
        lora=replace(config.lora, r=rank),
        scoring=scoring,
    )


def current(config: RerankConfig) -> dict[str, Any]:
    """The values of ``config`` under the names that `suggest` uses; a choice that it does not know is drawn at random instead,
    and a number outside of its range is tried as it is."""
    values: dict[str, Any] = {"lr": config.lr, "scoring.dropout": config.scoring.dropout}
    pools = config.scoring.n_hard_negatives / config.n_reranked if config.scoring.negative_source == "hard" else 0
    choices = {"lora.r": (config.lora.r, RANKS), "layers": (config.layers, DEPTHS), "scoring.pools": (pools, POOLS)}
    # allowed[...]: Optuna wants the choice itself, and 2.0 pools are 2
    return values | {name: allowed[allowed.index(value)] for name, (value, allowed) in choices.items() if value in allowed}


def overrides(chosen: RerankConfig) -> str:
    """What to set to get a trial's settings."""
    scoring = chosen.scoring
    values = {"lr": chosen.lr, "layers": chosen.layers, "lora.r": chosen.lora.r, "scoring.dropout": scoring.dropout}
    values |= {"scoring.negative_source": scoring.negative_source} | ({"scoring.n_hard_negatives": scoring.n_hard_negatives} if scoring.negative_source == "hard" else {})
    return " ".join(f"rerank.{name}={value}" for name, value in values.items())
