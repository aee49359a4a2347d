"""Search for retriever settings that maximise validation NDCG@10."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import Trial
from torch import Tensor

from sealr.config import flatten, from_dict, merged, to_dict
from sealr.data.sequences import Sequences
from sealr.retrieve.train import train
from sealr.settings import RetrieveConfig
from sealr.study import open_study, search
from sealr.trainer import OnEpoch

log = logging.getLogger(__name__)
BATCH_SIZES = (64, 128, 256)
SEARCHED = (
    "lr",
    "dropout",
    "layers",
    "batch_size",
    "bsarec.alpha",
    "bsarec.cutoff",
    "ease.l2",
    "cooccurrence.decay",
    "transition.decay",
    "transition.l2",
)


def searchable(config: RetrieveConfig) -> bool:
    """Whether a model has settings to search. A fusion has none of its own: its parts have."""
    return config.model not in ("popularity", "fusion")


def suggest(trial: Trial, config: RetrieveConfig) -> RetrieveConfig:
    """The configuration of a trial: ``config`` with new values of the searched settings."""
    changes: dict[str, Any]
    if not searchable(config):
        raise ValueError(f"retrieve.model {config.model} has no settings to search")
    if config.model == "ease":
        changes = {"ease": {"l2": trial.suggest_float("ease.l2", 10, 5000, log=True)}}
    elif config.model == "transition":
        decay = trial.suggest_float("transition.decay", 0.1, 1.0)
        changes = {"transition": {"decay": decay, "l2": trial.suggest_float("transition.l2", 1, 5000, log=True)}}
    elif config.model == "cooccurrence":
        changes = {"cooccurrence": {"decay": trial.suggest_float("cooccurrence.decay", 0.1, 1.0)}}
    else:
        changes = {
            "lr": trial.suggest_float("lr", 3e-4, 4e-3, log=True),
            "dropout": trial.suggest_float("dropout", 0.2, 0.7, step=0.1),
            "batch_size": trial.suggest_categorical("batch_size", BATCH_SIZES),
        }
        if config.model != "caser":  # it has no layers to stack
            changes["layers"] = trial.suggest_int("layers", 1, 3)
        if config.model == "bsarec":
            alpha = trial.suggest_float("bsarec.alpha", 0.1, 0.9, step=0.2)
            changes["bsarec"] = {"alpha": alpha, "cutoff": trial.suggest_int("bsarec.cutoff", 1, 9, step=2)}
    return from_dict(RetrieveConfig, merged(to_dict(config), changes))


def current(config: RetrieveConfig) -> dict[str, Any]:
    """The values of ``config`` under the names that `suggest` uses, for the first trial.

    A batch size outside BATCH_SIZES is left out, so Optuna draws one; numbers outside their range are tried as they
    are.
    """
    values = {name: value for name, value in flatten(to_dict(config)).items() if name in SEARCHED}
    return {name: value for name, value in values.items() if name != "batch_size" or value in BATCH_SIZES}


def tune(
    config: RetrieveConfig,
    sequences: Sequences,
    trials: int,
    folder: Path,
    name: str,
    track: Callable[[str, RetrieveConfig], AbstractContextManager[OnEpoch]],
    content: Tensor | None = None,
    feelings: np.ndarray | None = None,
    hours: float = 0.0,
    storage: str = "",
) -> optuna.Study:
    """A study with ``trials`` finished trials, or as many as ``hours`` allow. Earlier calls with this name count.

    folder: gets the checkpoints of running trials and, without a ``storage``, ``study.db`` (`open_study`).
    track(title, config): opens a trial's record and returns what to call after each epoch. An interrupted trial is
    repeated and resumes from its checkpoint.
    """
    study = open_study(folder, name, config.seed, current(config), config.eval_every, storage)

    def objective(trial: Trial) -> float:
        chosen = suggest(trial, config)
        place = trial.user_attrs.get("folder", f"{name}-trial-{trial.number}")
        trial.set_user_attr("folder", place)
        with track(f"trial {trial.number}", chosen) as logged:

            def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
                logged(epoch, metrics)
                if "ndcg@10" in metrics:
                    trial.report(metrics["ndcg@10"], epoch)
                    if trial.should_prune():
                        raise optuna.TrialPruned(f"after epoch {epoch}")

            try:
                value = train(chosen, sequences, folder / place, on_epoch, content, feelings).metrics["valid_ndcg@10"]
            except (optuna.TrialPruned, FloatingPointError):
                shutil.rmtree(folder / place, ignore_errors=True)
                raise
        log.info("trial %d: NDCG@10 %.4f with %s", trial.number, value, trial.params)
        shutil.rmtree(folder / place, ignore_errors=True)
        return value

    return search(study, objective, trials, hours)


def best(study: optuna.Study) -> dict[str, Any]:
    """The values of the best trial, nested as a part of a fusion holds them."""
    changes: dict[str, Any] = {}
    for name, value in study.best_params.items():
        section, _, field = name.rpartition(".")
        changes = merged(changes, {section: {field: value}} if section else {field: value})
    return changes
