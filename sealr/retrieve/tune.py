"""Search for retriever settings on validation NDCG@10."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import Trial
from torch import Tensor

from sealr.data.sequences import Sequences
from sealr.retrieve.train import OnEpoch, train
from sealr.settings import RetrieveConfig
from sealr.study import open_study, search

log = logging.getLogger(__name__)
BATCH_SIZES = (64, 128, 256)


def suggest(trial: Trial, config: RetrieveConfig) -> RetrieveConfig:
    """The configuration of one trial: ``config`` with the searched fields replaced."""
    if config.model == "ease":
        return replace(config, ease=replace(config.ease, l2=trial.suggest_float("ease.l2", 10, 5000, log=True)))
    if config.model == "cooccurrence":
        decay = trial.suggest_float("cooccurrence.decay", 0.1, 1.0)
        return replace(config, cooccurrence=replace(config.cooccurrence, decay=decay))
    if config.model in ("popularity", "fusion"):
        raise ValueError(f"retrieve.model {config.model} has no settings to search")
    values = {
        "lr": trial.suggest_float("lr", 3e-4, 4e-3, log=True),
        "dropout": trial.suggest_float("dropout", 0.2, 0.7, step=0.1),
        "batch_size": trial.suggest_categorical("batch_size", BATCH_SIZES),
    }
    if config.model != "caser":  # which has none to stack
        values["layers"] = trial.suggest_int("layers", 1, 3)
    if config.model == "bsarec":
        alpha, cutoff = trial.suggest_float("bsarec.alpha", 0.1, 0.9, step=0.2), trial.suggest_int("bsarec.cutoff", 1, 9, step=2)
        values["bsarec"] = replace(config.bsarec, alpha=alpha, cutoff=cutoff)
    return replace(config, **values)


def current(config: RetrieveConfig) -> dict[str, object]:
    """The values of ``config`` under the names that `suggest` uses; a batch size that it does not know is drawn at random
    instead, and a number outside of its range is tried as it is."""
    values = {"lr": config.lr, "dropout": config.dropout, "layers": config.layers}
    values |= {"batch_size": config.batch_size} if config.batch_size in BATCH_SIZES else {}
    values |= {"bsarec.alpha": config.bsarec.alpha, "bsarec.cutoff": config.bsarec.cutoff}
    values |= {"ease.l2": config.ease.l2, "cooccurrence.decay": config.cooccurrence.decay}
    return values


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
) -> optuna.Study:
    """A study with ``trials`` finished trials, or what ``hours`` allow; those of earlier calls on the same folder and name count.

    folder: gets ``study.db`` and, for a trial at work, its checkpoints. track(title, config): opens a trial's record and
    gives what to call after each epoch. A trial that a kill cut off is run again and goes on from its checkpoint.
    """
    study = open_study(folder, name, config.seed, current(config), warmup=config.eval_every)

    def objective(trial: Trial) -> float:
        chosen = suggest(trial, config)
        place = trial.user_attrs.get("folder", f"trial-{trial.number}")
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
