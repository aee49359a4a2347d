"""`-e evaluate-labeller` leaves figures and plots in MLflow."""

import mlflow

from flows import labeller
from tests import toys
from tests.emotion.test_embedded import write_split


def test_figures_and_plots_are_logged(tmp_path, monkeypatch):
    folder = toys.toy_embedded(tmp_path / "labeller", toys.toy_encoder(tmp_path / "base"))
    for split in ("dev", "test"):
        write_split(tmp_path / f"{split}.tsv.gz", ["love it", "sad", "so angry", "fine"], ["18", "25", "2", "27"])
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    try:
        labeller.main(["--goemotions", str(tmp_path), "--labeller", str(folder)])
        client = mlflow.MlflowClient(uri)
        (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        assert {"test.macro_f1", "test.sentiment.strong_negative.f1", "dev.calibration_error_top.uncalibrated"} <= set(
            run.data.metrics
        )
        names = {f.path for f in client.list_artifacts(run.info.run_id, "labeller")}
        assert names == {"labeller/figures.json", "labeller/confusion_dev.png", "labeller/confusion_test.png"}
    finally:
        mlflow.set_tracking_uri(None)
