"""Searches: the parts of a fusion in turn, a command that can be pasted, and a database that workers share."""

import re
import shlex
from types import SimpleNamespace

import mlflow
import pytest
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from sealr.config import load_config
from sealr.flows.tune import tune

FUSION = "retrieve.model=fusion 'retrieve.parts=[{model: sasrec, epochs: 1}, {model: ease}, {model: popularity}]'"
SMALL = f"data.demo_users=40 retrieve.hidden=16 retrieve.content=none {FUSION}"


@pytest.fixture
def project(tmp_path, monkeypatch, prefect):
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    mlflow.set_tracking_uri(None)


def pasted(printed):
    """The configuration of the command that a search prints, as a shell reads it."""
    command = shlex.split(printed[printed.index("sealr run") :].splitlines()[0])
    assert command[:2] == ["sealr", "run"]
    given = dict(zip(command[2::2], command[3::2], strict=True))
    return load_config(given["--data"], given["--base"], given["--set"])


@pytest.mark.slow
def test_the_parts_of_a_fusion_are_searched_and_the_best_are_fused(project, capsys):
    storage = f"sqlite:///{project}/shared.db?token=s3cr3t"
    for _ in range(2):  # the second call finds all trials, and the trained fusions
        tune(data="demo", trials=2, overrides=SMALL, storage=SecretStr(storage))
        out = capsys.readouterr().out
        assert sorted(re.findall(r"^\| (\d+) \|", out, re.M)) == ["0", "0", "1", "1"]  # of sasrec and of ease
        assert "s3cr3t" not in out and f"optuna-dashboard 'sqlite:///{project}/shared.db?token=***'" in out
        found, given = pasted(out), load_config("demo", "smollm2-135m", SMALL)
        assert found.retrieve.model == "fusion" and found.data == given.data
        assert [part["model"] for part in found.retrieve.parts] == ["sasrec", "ease", "popularity"]
        assert found.retrieve.parts[0]["epochs"] == 1
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    assert runs and not any("s3cr3t" in str(run.parameters) for run in runs)
    run = mlflow.last_active_run()
    assert 0 < run.data.metrics["best.valid_ndcg_at_10"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.1, -0.1])
def test_better_parts_are_in_the_command_if_their_fusion_is_better(project, capsys, monkeypatch, gain):
    given = ({"model": "cooccurrence"}, {"model": "ease", "ease": {"l2": 1e9}})

    def train(job, config, reviews, labels):
        return SimpleNamespace(metrics={"valid_ndcg@10": 0.5 + gain * (config.parts != given)})

    monkeypatch.setattr("sealr.flows.tune.train_retriever", train)
    parts = "[{model: cooccurrence}, {model: ease, ease: {l2: 1000000000.0}}]"
    overrides = f"data.demo_users=40 retrieve.content=none retrieve.model=fusion 'retrieve.parts={parts}'"
    tune(data="demo", trials=2, overrides=overrides)
    out = capsys.readouterr().out
    assert f"{0.5 + gain:.4f} with the best of each part, 0.5000 with the parts as given" in out
    first, second = pasted(out).retrieve.parts
    if gain > 0:
        assert second["ease"]["l2"] < 5000 and 0 < first["cooccurrence"]["decay"] <= 1
    else:
        assert (first, second) == given
