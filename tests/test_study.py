import logging
import subprocess
import sys
import time

import pytest

from sealr.study import StorageError, finished, open_storage, open_study, search, summary


def test_a_search_ends_when_its_time_is_over(tmp_path, caplog):
    def slow(trial):
        time.sleep(0.05)
        return trial.suggest_float("x", 0, 1)

    with caplog.at_level(logging.INFO):
        study = search(open_study(tmp_path, "s", 0, {"x": 0.25}), slow, trials=10**6, hours=0.2 / 3600)
    done = finished(study)
    assert 1 <= len(done) < 100 and done[0].params == {"x": 0.25}
    assert "has used its" in caplog.text
    more = search(open_study(tmp_path, "s", 0, {"x": 0.25}), slow, trials=len(done) + 2)  # resumes
    assert len(finished(more)) == len(done) + 2 and summary(more).count("\n") == len(done) + 4


def test_a_search_that_goes_on_draws_what_it_has_not_drawn(tmp_path):
    def run(trials):
        return search(open_study(tmp_path, "s", 0, {"x": 0.25}), lambda trial: trial.suggest_float("x", 0, 1), trials)

    run(3)
    assert len({t.params["x"] for t in finished(run(6))}) == 6


def test_a_trial_that_diverges_is_put_aside(tmp_path, caplog):
    def objective(trial):
        if trial.suggest_float("x", 0, 1) == 0.25:
            raise FloatingPointError("the training loss is not finite")
        return 0.5

    study = search(open_study(tmp_path, "s", 0, {"x": 0.25}), objective, 3)
    assert [t.state.name for t in finished(study)] == ["PRUNED", "COMPLETE", "COMPLETE"]
    assert "trial 0: the training loss is not finite" in caplog.text and "| 0 | - | pruned | 0.25 |" in summary(study)


def test_a_killed_trial_is_tried_again_with_its_values_and_attributes(tmp_path):
    code = """
import os, sys
from pathlib import Path
from sealr.study import open_study, search

def objective(trial):
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("folder", "trial-0")
    os._exit(9)

search(open_study(Path(sys.argv[1]), "s", 0, {"x": 0.25}), objective, 1)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True).returncode == 9
    found = []

    def objective(trial):
        found.append((trial.suggest_float("x", 0, 1), trial.user_attrs.get("folder")))
        return 0.5

    study = search(open_study(tmp_path, "s", 0, {"x": 0.25}), objective, 2)
    assert found[0] == (0.25, "trial-0") and found[1][1] is None and len(finished(study)) == 2


def test_an_interrupted_trial_is_asked_for_again(tmp_path):
    def objective(trial):
        trial.suggest_float("x", 0, 1)
        if "folder" not in trial.user_attrs:
            trial.set_user_attr("folder", "trial-0")
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        search(open_study(tmp_path, "s", 0, {"x": 0.25}), objective, 1)
    study = search(open_study(tmp_path, "s", 0, {"x": 0.25}), objective, 1)
    assert [(t.params["x"], t.user_attrs["folder"]) for t in finished(study)] == [(0.25, "trial-0")]


WORKER = """
import os, sys, time
from pathlib import Path
from sealr.study import open_study, search

def objective(trial):
    trial.set_user_attr("worker", os.getpid())
    time.sleep(0.3)
    return trial.suggest_float("x", 0, 1)

search(open_study(Path(sys.argv[1]), "s", 0, {"x": 0.25}, storage=sys.argv[2]), objective, 8)
"""


@pytest.mark.slow
def test_two_workers_share_the_trials(tmp_path):
    storage = f"sqlite:///{tmp_path}/shared.db"
    open_storage(storage)  # the tables
    command = [sys.executable, "-c", WORKER, str(tmp_path), storage]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
    done = finished(open_study(tmp_path, "s", 0, {"x": 0.25}, storage=storage))
    assert len(done) == 8 and len({t.params["x"] for t in done}) == 8
    assert [t.params["x"] for t in done].count(0.25) == 1  # what was set already is tried once
    assert len({t.user_attrs["worker"] for t in done}) == 2


def test_a_trial_that_another_worker_is_at_is_neither_repeated_nor_forgotten(tmp_path, monkeypatch):
    storage = f"sqlite:///{tmp_path}/shared.db"
    other = open_study(tmp_path, "s", 0, {"x": 0.25}, storage=storage).ask()
    other.suggest_float("x", 0, 1)

    def pause(seconds):
        study.tell(other.number, 0.125)

    monkeypatch.setattr("sealr.study.time.sleep", pause)
    study = open_study(tmp_path, "s", 0, {"x": 0.25}, storage=storage)
    search(study, lambda trial: trial.suggest_float("x", 0, 1), 3)
    done = finished(study)
    assert [t.number for t in done] == [0, 1, 2] and done[0].value == 0.125 and study.trials[3:] == []


def test_a_trial_beyond_those_asked_for_is_given_back(tmp_path, monkeypatch):
    """As if another worker had taken the last trial between the look and the draw."""
    study = open_study(tmp_path, "s", 0, {"x": 0.25})
    optimize = study.optimize

    def late(attempt, **given):
        if len(study.trials) < 3:
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            study.tell(trial, 0.5)
        optimize(attempt, **given)

    monkeypatch.setattr(study, "optimize", late)
    search(study, lambda trial: trial.suggest_float("x", 0, 1), 3)
    assert len(finished(study)) == 3 and [t.state.name for t in study.trials[3:]] == ["FAIL"]


@pytest.mark.parametrize("url", ["postgresql://ann:s3cr3t@127.0.0.1:9/optuna", "no address", "nosuch://host/x"])
def test_a_storage_that_cannot_be_used_is_a_sentence(url):
    with pytest.raises(StorageError, match="^--storage .* cannot be used: ") as caught:
        open_storage(url)
    assert "s3cr3t" not in str(caught.value)
