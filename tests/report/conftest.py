import mlflow
import pytest

from tests.report.finished import FinishedJob


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A state folder and a tracking database of finished jobs."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEALR_HOME", str(folder / "state"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.chdir(folder)  # MLflow puts artifacts beside
        yield folder
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def job(site):
    return FinishedJob()


@pytest.fixture(scope="session")
def hostile(site):
    return FinishedJob(hostile=True)
