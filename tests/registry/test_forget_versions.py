"""Registered versions that hold a user: rewritten, replaced and deleted."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from sealr import tracked
from sealr.data.privacy import salted
from sealr.data.tables import read_json, write_json
from sealr.data.traces import Traces
from sealr.registry import forget, gate, promote
from sealr.serving.packing import HISTORIES, find
from tests.registry.test_promote import empty, showed, store  # noqa: F401  (fixtures)
from tests.serving.toy_model import toy_registration


def make_version(folder, data="demo"):
    (folder / "v").mkdir(exist_ok=True)
    with mlflow.start_run() as run:
        return promote.create("sealr", (folder / "v").as_uri(), run.info.run_id, {promote.DATA: data})


def test_a_version_takes_over_aliases_history_and_comparisons(store):  # noqa: F811
    one, two, three = (make_version(store) for _ in range(3))
    promote.promote_manually("sealr", one, "first")
    promote.promote_manually("sealr", two, "second")
    client = mlflow.MlflowClient()
    client.set_model_version_tag("sealr", three, promote.GATE + "against", one)
    four, five = make_version(store), make_version(store)
    promote.take_over("sealr", one, four)
    assert promote.champion("sealr") == two
    assert client.get_model_version("sealr", three).tags[promote.GATE + "against"] == four
    promote.take_over("sealr", two, five)
    assert promote.champion("sealr") == five
    assert promote.rollback("sealr", "a test") == (four, five)  # the place of version 1, which served before


def test_a_user_is_removed_from_histories_and_evidence_and_nobody_else(tmp_path):
    table = pd.DataFrame({"user": ["ann", "bob"], "items": [[1], [2, 3]], "stars": [[5.0], [1.0, 2.0]]})
    table.to_parquet(tmp_path / HISTORIES)
    evidence = gate.Evidence("data", 0.25, ["bob", "ann"], [1, 2], [3, 4], {"ann": 5, "bob": 6})
    write_json(vars(evidence), tmp_path / gate.EVIDENCE)
    forget.without_user(tmp_path, tmp_path, ("ann", "0123"))
    kept = pd.read_parquet(tmp_path / HISTORIES)
    assert kept["user"].tolist() == ["bob"] and kept["items"][0].tolist() == [2, 3]
    left = gate.Evidence(**read_json(tmp_path / gate.EVIDENCE))
    assert left == replace(evidence, users=["bob"], ranks=[1], popularity=[3], learned={"bob": 6})


@pytest.mark.slow
@pytest.mark.parametrize("users", ["plain", "salted"])
def test_a_registered_model_is_rewritten_without_training(parts, tmp_path, monkeypatch, users):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    registry = replace(parts.config.registry, users=users)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        with mlflow.start_run(experiment_id="0", tags={promote.DATA: "toy"}) as first:
            toy_registration(replace(parts, config=replace(parts.config, registry=registry)), tmp_path / "state")
        traces = Traces(("u3", salted()("u3")))
        before = forget.survey(traces, "toy")
        assert before["models:/sealr/1"] >= 1
        answers = mlflow.pyfunc.load_model("models:/sealr/1").predict(pd.DataFrame({"user": ["u4"]}))

        assert forget.forget(traces, "toy") == {"models:/sealr/1": "models:/sealr/2"}
        assert not any(forget.survey(traces, "toy").values())
        client = mlflow.MlflowClient()
        (version,) = client.search_model_versions("name = 'sealr'")
        assert client.get_run(version.run_id).data.tags[tracked.ORIGIN] == first.info.run_id  # for its report
        assert version.tags[forget.REWRITES] == "1" and version.description.startswith("Rewrites version 1")
        assert {k: int(v) for k, v in client.get_registered_model("sealr").aliases.items()} == {
            "champion": 2,
            "challenger": 2,
        }
        assert len(client.search_logged_models(["0"])) + len(client.search_logged_models(["1"])) == 1
        model = mlflow.pyfunc.load_model("models:/sealr@champion")
        assert model.predict(pd.DataFrame({"user": ["u4"]}))["items"].tolist() == answers["items"].tolist()
        assert "not known" in model.predict(pd.DataFrame({"user": ["u3"]}))["warnings"][0][0]
        packed = find(Path(mlflow.artifacts.download_artifacts("models:/sealr/2", dst_path=str(tmp_path / "two"))))
        assert len(pd.read_parquet(packed / HISTORIES)) == 23
        assert ("u4" in set(pd.read_parquet(packed / HISTORIES)["user"])) == (users == "plain")
    finally:
        mlflow.set_tracking_uri(None)
