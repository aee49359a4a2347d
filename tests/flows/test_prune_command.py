"""`sealr prune` on a real tracking database and real stage folders."""

import mlflow
import pytest

from sealr import tracking
from sealr.cli import main
from sealr.data.manifest import StageResult, run_stage
from sealr.registry import promote
from sealr.settings import Config, DataConfig


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    yield tmp_path
    mlflow.set_tracking_uri(None)


def job(data, size):
    """A job of one stage; returns its manifest."""

    def work(folder):
        (folder / "out.txt").write_text(f"{data} {size}")
        return StageResult()

    with tracking.job("ingest", Config(DataConfig(data))) as run_id, tracking.stage("ingest", run_id, {}):
        made = run_stage("ingest", data, {"size": size}, {}, ("data/prune.py",), work)
        tracking.log_manifest(made)
        return made


def test_the_last_jobs_of_each_data_set_and_registered_versions_keep_their_folders(site, capsys):
    def prune(*options):
        with pytest.raises(SystemExit) as end:
            main(["prune", *options])
        assert end.value.code == 0
        return capsys.readouterr().out

    made = [job("demo", size) for size in (1, 2, 3, 4)]
    other = job("other", 1)
    with mlflow.start_run() as run:
        promote.create("sealr", "file:///nowhere", run.info.run_id, {promote.STAGES: f"{made[0].key} k"})
    assert "1 folder," in (said := prune("--keep", "2")) and made[1].key in said and "--delete" in said
    assert made[1].folder.exists()
    assert made[1].key in prune("--keep", "2", "--delete")
    assert [m.folder.exists() for m in made] == [True, False, True, True] and other.folder.exists()
    assert "0 folders" in prune("--keep", "2", "--delete")
    assert job("demo", 2).folder.exists()  # what was removed is made again


def test_without_the_tracking_server_nothing_is_called_unused(site, monkeypatch, capsys):
    made = job("demo", 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SystemExit) as end:
        main(["prune", "--delete"])
    assert end.value.code == 2 and made.folder.exists()
    assert "MLFLOW_TRACKING_URI" in capsys.readouterr().err
