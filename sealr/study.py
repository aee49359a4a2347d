"""Hyperparameter searches with Optuna: TPE with pruning, resumable. Your own settings are tried first.

A study lives in a SQLite file, or in a database that several workers share: then each takes the next trial until
together they have finished as many as asked for.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sealr.redact import redact

log = logging.getLogger(__name__)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
HEARTBEAT = 60  # seconds between a shared trial's signs of life; after twice as many, it is someone else's
PAUSE = 2.0  # seconds between looks at the trials of other workers


class StorageError(ValueError):
    """The database of a shared study cannot be used; the message says why."""


def open_storage(url: str) -> RDBStorage:
    """The database of studies that several workers share; its tables are made if need be. Raises StorageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats are
            again = RetryHeartbeatStaleTrialCallback()  # with the same values and attributes
            return RDBStorage(url, heartbeat_interval=HEARTBEAT, heartbeat_stale_trial_callback=again)
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StorageError(
            f"--storage {redact(url)} cannot be used: {redact(cause)}; it is a database as SQLAlchemy writes it, such "
            "as postgresql://user:password@host/optuna"
        ) from None


def open_study(
    folder: Path, name: str, seed: int, first: dict[str, Any], warmup: int = 0, storage: str = ""
) -> optuna.Study:
    """The study ``name``, which maximises; a new one starts with the values ``first``.

    storage: the database that workers share; without it, ``folder/study.db`` holds the study of one process. A trial
    that was interrupted is queued again with its values and ``user_attrs``: in a file at the next call, in a shared
    database when its worker has given no sign of life for a while. warmup: epochs before any trial is pruned.
    Raises StorageError.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of each trial that fails; `search` says what matters
    folder.mkdir(parents=True, exist_ok=True)
    place = open_storage(storage) if storage else f"sqlite:///{folder / 'study.db'}"
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warmup)
    try:
        study = optuna.create_study(study_name=name, storage=place, direction="maximize", pruner=pruner)
        study.enqueue_trial(first)  # by the worker that made the study, so that it is tried once
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=place, pruner=pruner)
    # A new process needs a new seed: the sampler starts over and would repeat the first draws. Workers that start
    # together must not draw alike, so theirs are not fixed
    before = study.get_trials(deepcopy=False)
    fixed = None if storage else seed + 1_000_003 * sum(t.state != TrialState.WAITING for t in before)
    study.sampler = optuna.samplers.TPESampler(seed=fixed, multivariate=True)
    for trial in [t for t in before if t.state == TrialState.RUNNING and not storage]:
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    return study


def search(study: optuna.Study, objective: Callable[[Trial], float], trials: int, hours: float = 0.0) -> optuna.Study:
    """Runs trials until ``trials`` have finished, or until this call has used its hours (0: no limit).

    Trials of other workers count: this call waits for their ends, and takes over those that stop. A trial that
    diverges (FloatingPointError) counts as pruned.
    """

    def attempt(trial: Trial) -> float:
        if sum(t.number < trial.number for t in _live(study)) >= trials:
            raise _Surplus
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
        if hours and time.monotonic() >= end:
            log.info("the search has used its %g hours; %d trials are left", hours, missing)
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            fail_stale_trials(study)
        if len(_live(study)) < trials:
            study.optimize(attempt, n_trials=1, catch=(_Surplus,), show_progress_bar=False)
        else:
            time.sleep(PAUSE)
    return study


class _Surplus(Exception):
    """Another worker took the last trial a moment earlier. Optuna records the trial as failed, so it does not count."""


def _live(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that have finished or that a worker is at."""
    return study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING))


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
