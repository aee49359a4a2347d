"""Search for retriever settings on validation NDCG@10 with Optuna: TPE, pruning, and a study in SQLite that resumes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import Tensor

from sealr.config import RetrieveConfig
from sealr.data.sequences import Sequences
from sealr.retrieve.train import OnEpoch, train

log = logging.getLogger(__name__)
BATCH_SIZES = (64, 128, 256)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


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
        "layers": trial.suggest_int("layers", 1, 3),
    }
    if config.model == "bsarec":
        alpha, cutoff = trial.suggest_float("bsarec.alpha", 0.1, 0.9, step=0.2), trial.suggest_int("bsarec.cutoff", 1, 9, step=2)
        values["bsarec"] = replace(config.bsarec, alpha=alpha, cutoff=cutoff)
    return replace(config, **values)


def current(config: RetrieveConfig) -> dict[str, object]:
    """The values of ``config`` under the names that `suggest` uses; one outside of its range is drawn at random instead."""
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
) -> optuna.Study:
    """A study with at least ``trials`` finished trials; those of earlier calls on the same folder and name count.

    folder: gets ``study.db`` and, for a trial at work, its checkpoints. track(title, config): opens a trial's record and
    gives what to call after each epoch. A trial that a kill cut off is run again and goes on from its checkpoint.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{folder / 'study.db'}",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=config.seed, multivariate=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=config.eval_every),
    )
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(current(config))  # what there is already is the one to beat
    interrupted = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.RUNNING]
    for trial in interrupted:
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"folder": trial.user_attrs.get("folder", f"trial-{trial.number}")})

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
            except optuna.TrialPruned:
                shutil.rmtree(folder / place, ignore_errors=True)
                raise
        log.info("trial %d: NDCG@10 %.4f with %s", trial.number, value, trial.params)
        shutil.rmtree(folder / place, ignore_errors=True)
        return value

    while (missing := trials - len(finished(study))) > 0:
        study.optimize(objective, n_trials=missing, show_progress_bar=False)
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=FINISHED)


def summary(study: optuna.Study) -> str:
    """Markdown: a row a finished trial, best first."""
    trials = sorted(finished(study), key=lambda t: (t.state != TrialState.COMPLETE, -(t.value or 0)))
    names = list(dict.fromkeys(n for t in trials for n in t.params))
    lines = ["| trial | NDCG@10 (validation) | state | " + " | ".join(names) + " |", "|" + "---|" * (3 + len(names))]
    for t in trials:
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in (t.params.get(n, "-") for n in names)]
        lines.append(f"| {t.number} | {t.value:.4f} | {t.state.name.lower()} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"
