"""Training and evaluating a labeller leave figures, plots and files in MLflow."""

import mlflow
import pytest

from sealr.emotion.training.train import TrainArguments
from sealr.flows.labeller import evaluate_labeller, train_labeller
from tests import toys
from tests.emotion.test_training import write_split


@pytest.fixture
def client(tmp_path, monkeypatch):
    """GoEmotions splits of four texts in tmp_path, and a tracking store of its own."""
    for split in ("train", "dev", "test"):
        write_split(tmp_path / f"{split}.tsv.gz", ["love it", "sad", "so angry", "fine"], ["18", "25", "2", "27"])
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(None)


def runs(client):
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


def test_figures_and_plots_are_logged(client, tmp_path):
    folder = toys.toy_embedded(tmp_path / "labeller", toys.toy_encoder(tmp_path / "base"))
    assert "macro-F1" in evaluate_labeller(tmp_path, folder)
    (run,) = runs(client)
    assert {"test.macro_f1", "test.sentiment.strong_negative.f1", "dev.calibration_error_top.uncalibrated"} <= set(
        run.data.metrics
    )
    names = {f.path for f in client.list_artifacts(run.info.run_id, "labeller")}
    assert names == {"labeller/figures.json", "labeller/confusion_dev.png", "labeller/confusion_test.png"}


def test_a_training_is_logged_with_its_epochs_and_files(client, tmp_path):
    base = toys.toy_encoder(tmp_path / "base")
    train_labeller(tmp_path, tmp_path / "out", TrainArguments(base=str(base), epochs=2, rank=2, batch=2))
    child, parent = sorted(runs(client), key=lambda run: "mlflow.parentRunId" not in run.data.tags)
    assert (
        child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        and parent.data.tags["sealr.job"] == "train-labeller"
    )
    assert child.data.params["epochs"] == "2" and child.data.params["rank"] == "2"
    assert {"dev.macro_f1", "test.macro_f1", "temperature", "threshold.joy", "seconds"} <= set(child.data.metrics)
    assert [m.step for m in client.get_metric_history(child.info.run_id, "dev_loss")] == [1, 2]
    names = {f.path.removeprefix("labeller/") for f in client.list_artifacts(child.info.run_id, "labeller")}
    assert {"adapter_model.safetensors", "head.safetensors", "labeller.json", "MODEL_CARD.md", "training.log"} <= names
