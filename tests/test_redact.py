"""Passwords and tokens stay out of logs, tags and printed lines."""

import logging
import os
from dataclasses import replace

import mlflow
import pytest

from sealr import tracking
from sealr.data import download
from sealr.data.manifest import StageResult, run_stage
from sealr.redact import redact, redacted
from sealr.settings import Config, DataConfig, RemoteFile

SECRET = "s3cr3t/p@ss"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"postgresql://sealr:{SECRET}@db.example:5432/mlflow", "postgresql://sealr:***@db.example:5432/mlflow"),
        ("postgresql+psycopg2://u:p@h/d", "postgresql+psycopg2://u:***@h/d"),
        ("http://ann:secret@mlflow.example/#/runs/1", "http://ann:***@mlflow.example/#/runs/1"),
        ("see https://token@host/x and ftp://a:b@c", "see https://***@host/x and ftp://a:***@c"),
        ("https://host/f.gz?X-Amz-Signature=abc&part=1", "https://host/f.gz?X-Amz-Signature=***&part=1"),
        ("https://host/f?part=1&access_token=abc'", "https://host/f?part=1&access_token=***'"),
        ("redis://:secret@host", "redis://:***@host"),
    ],
)
def test_credentials_are_hidden(text, expected):
    assert redact(text) == expected and redact(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///mlflow.db",
        "http://127.0.0.1:5000/#/runs",
        "models:/sealr@champion",
        "ann@example.com",
        "",
        "a://b c@d",
    ],
)
def test_what_holds_no_secret_stays(text):
    assert redact(text) == text


def test_nested_values():
    assert redacted({"a": ["http://u:p@h", 1, None], "b": {"c": "x"}}) == {
        "a": ["http://u:***@h", 1, None],
        "b": {"c": "x"},
    }


def test_the_tracking_address_is_shown_without_its_password(monkeypatch):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"postgresql://sealr:{SECRET}@db.example/mlflow")
    assert tracking.address() == "postgresql://sealr:***@db.example/mlflow"


def test_a_servers_password_leaves_its_address(monkeypatch):
    """MLflow repeats the address in its errors, which reach logs and tags."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # restored after the test
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:p%40ss@127.0.0.1:5000/mlflow")
    tracking.setup()
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000/mlflow"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("ann", "p@ss")
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_what_a_run_keeps_holds_no_secret(tmp_path, monkeypatch):
    store = tmp_path / "mlflow"
    store.mkdir()
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    monkeypatch.chdir(store)
    # A given run, because the job would take the experiment of this process
    given = mlflow.MlflowClient(f"sqlite:///{store}/mlflow.db").create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", given.info.run_id)
    config = Config(
        DataConfig("toy", reviews=RemoteFile("reviews.json", url=f"https://ann:{SECRET}@data.example/reviews.json"))
    )

    def work(folder):
        (folder / "reviews.parquet").touch()
        return StageResult({"reviews": 1}, {})

    shop = replace(config.data, reviews=RemoteFile(f"postgresql://ann:{SECRET}@db.example/shop", query="select 1"))
    with tracking.job("test", config) as run_id, tracking.stage("ingest", run_id, config.data):
        made = run_stage("ingest", "toy", config.data, {}, ("config.py",), work)
        tracking.log_manifest(made)
        tracking.log_input(tracking.dataset_of(made, shop), run_id)  # MLflow itself resolves no databases
        link = tracking.link(run_id)
        (found,) = mlflow.get_run(mlflow.active_run().info.run_id).inputs.dataset_inputs
        assert "postgresql://ann:***@db.example/shop" in found.dataset.source
    mlflow.set_tracking_uri(None)
    kept = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert b"data.example" in kept and SECRET.encode() not in kept and SECRET not in link


@pytest.mark.parametrize("secret", [SECRET, "s3cr3t"])
def test_downloads_log_no_secret(tmp_path, caplog, secret):
    remote = RemoteFile("reviews.json", url=f"http://ann:{secret}@127.0.0.1:9/reviews.json?token={secret}")
    with caplog.at_level(logging.DEBUG, "sealr"), pytest.raises(download.MissingFile) as caught:
        download.fetch(remote, tmp_path, tries=2, wait=0)
    said = caplog.text + str(caught.value)
    assert "ann:***@127.0.0.1:9/reviews.json?token=***" in said and "s3cr3t" not in said and "p@ss" not in said
