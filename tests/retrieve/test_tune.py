from contextlib import contextmanager
from dataclasses import replace

import optuna
import pytest

from sealr.retrieve import tune as tuning
from sealr.settings import EASESettings, RetrieveConfig
from sealr.study import finished, summary


@contextmanager
def track(title, config):
    yield lambda epoch, metrics: None


def test_a_study_counts_earlier_trials_and_takes_up_a_killed_one(cycle, quick, tmp_path):
    config = replace(quick, epochs=2, eval_every=1, lr=1e-3, dropout=0.2)
    study = tuning.tune(config, cycle, 2, tmp_path, "toy", track)
    study.ask({"lr": optuna.distributions.FloatDistribution(3e-4, 4e-3, log=True)})  # as a kill leaves it: running
    assert study.trials[0].params["lr"] == config.lr  # what there is already is tried first
    left = study.trials[-1].params["lr"]
    study = tuning.tune(config, cycle, 3, tmp_path, "toy", track)
    done = finished(study)
    assert len(done) == 3 and done[-1].params["lr"] == left
    assert study.best_value == max(t.value for t in done if t.value is not None)
    assert [p.name for p in tmp_path.iterdir()] == ["study.db"]  # no trial's checkpoints stay
    assert summary(study).count("\n") == 5 and f"{study.best_value:.4f}" in summary(study)


def test_search_spaces():
    trial = optuna.trial.FixedTrial({"ease.l2": 50.0})
    assert tuning.suggest(trial, RetrieveConfig(model="ease")).ease == EASESettings(l2=50.0)
    with pytest.raises(ValueError, match="popularity has no settings to search"):
        tuning.suggest(trial, RetrieveConfig(model="popularity"))
