"""Hyperparameter searches with Optuna: TPE with pruning, resumable, in SQLite. Your own settings are tried first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

log = logging.getLogger(__name__)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_study(folder: Path, name: str, seed: int, first: dict[str, Any], warmup: int = 0) -> optuna.Study:
    """The study ``name`` in ``folder/study.db``, which maximises; a new one starts with the values ``first``.

    A trial that a kill or Ctrl-C interrupted is queued again with its values and ``user_attrs``. Optuna's own retries
    need a heartbeat: they come late, and not at all after Ctrl-C. warmup: epochs before any trial is pruned.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{folder / 'study.db'}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warmup),
    )
    before = study.get_trials(deepcopy=False)
    # A new process needs a new seed: the sampler starts over and would repeat the first draws
    study.sampler = optuna.samplers.TPESampler(seed=seed + 1_000_003 * len(before), multivariate=True)
    if not before:
        study.enqueue_trial(first)
    for trial in [t for t in before if t.state == TrialState.RUNNING]:
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    return study


def search(study: optuna.Study, objective: Callable[[Trial], float], trials: int, hours: float = 0.0) -> optuna.Study:
    """Runs trials until ``trials`` have finished, or until this call has used its hours (0: no limit).

    A trial that diverges (FloatingPointError) counts as pruned.
    """

    def attempt(trial: Trial) -> float:
        try:
            return objective(trial)
        except FloatingPointError as error:
            log.warning("trial %d: %s", trial.number, error)
            raise optuna.TrialPruned(str(error)) from None
        except KeyboardInterrupt:  # which Optuna records as a failure
            study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
            raise

    end = time.monotonic() + hours * 3600
    while (missing := trials - len(finished(study))) > 0:
        left = end - time.monotonic() if hours else None
        if left is not None and left <= 0:
            log.info("the search has used its %g hours; %d trials are left", hours, missing)
            break
        study.optimize(attempt, n_trials=missing, timeout=left, show_progress_bar=False)
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=FINISHED)


def summary(study: optuna.Study) -> str:
    """Markdown table of finished trials, best first."""
    trials = sorted(finished(study), key=lambda t: (t.state != TrialState.COMPLETE, -(t.value or 0)))
    names = list(dict.fromkeys(n for t in trials for n in t.params))
    lines = ["| trial | NDCG@10 (validation) | state | " + " | ".join(names) + " |", "|" + "---|" * (3 + len(names))]
    for t in trials:
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in (t.params.get(n, "-") for n in names)]
        value = "-" if t.value is None else f"{t.value:.4f}"
        lines.append(f"| {t.number} | {value} | {t.state.name.lower()} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"
