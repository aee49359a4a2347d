"""Forgetting a user: what is searched, which stage folders go, and the command on a real tracking database."""

import shutil

import mlflow
import pandas as pd
import pytest

from sealr import tracking
from sealr.cli import main
from sealr.data.manifest import StageResult, run_stage, state_dir
from sealr.data.privacy import forgotten
from sealr.pipeline.forget import affected, gather, others
from sealr.settings import Config, DataConfig

SHARED = "A long sentence that two users of this shop have written alike, word for word."
OWN = "Only this user has ever written about the squeaking hinge of the lid."


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def site(empty, tmp_path, monkeypatch):
    shutil.copy(empty, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("SEALR_SALT", raising=False)
    (tmp_path / "shop.yaml").write_text("data: {name: shop, source: columns, reviews: {path: r.csv}}")
    yield tmp_path
    mlflow.set_tracking_uri(None)


def stage(name, data="shop", inputs=None, **files):
    def work(folder):
        for file, content in files.items():
            if isinstance(content, pd.DataFrame):
                content.to_parquet(folder / f"{file}.parquet")
            else:
                (folder / f"{file}.log").write_text(content)
        return StageResult()

    return run_stage(name, data, {"files": [*files]}, inputs or {}, ("data/prune.py",), work)


def reviews(*rows):
    return pd.DataFrame(rows, columns=["user", "text"])


def make_stages():
    read = stage("ingest", reviews=reviews(("user-17", OWN), ("user-17", SHARED), ("user-18", SHARED), ("user-17", "")))
    without = stage("ingest", reviews=reviews(("user-18", SHARED)), k_core="3")
    labels = stage("label", inputs={"reviews": read}, labels=reviews(("user-18", ""))[["user"]])
    model = stage("retriever", inputs={"labels": labels}, weights="trained on all")
    other = stage("label", inputs={"reviews": without}, labels=reviews(("user-18", "")))
    return read, without, labels, model, other


def test_only_texts_that_nobody_else_wrote_are_searched(site):
    make_stages()
    stage("ingest", data="other", reviews=reviews(("user-17", "hi"), ("x", "He quotes: Only this user has ever said")))
    traces = gather("user-17", "shop")
    assert traces.texts == {OWN} and traces.phrases == (OWN[:40].rpartition(" ")[0],)
    assert traces.ids[0] == "user-17" and len(traces.ids[1]) == 32
    stage("ingest", data="third", reviews=reviews(("x", f"He quotes: {OWN}")))
    assert gather("user-17", "shop").phrases == () and others("user-17", "shop") == ("other",)
    stage("ingest", data="fourth", reviews=reviews(("user-17", OWN)))
    assert gather("user-17", "shop").texts == frozenset()  # the same id elsewhere is somebody else


def test_what_was_made_from_the_user_goes_with_the_user(site):
    read, without, labels, model, other = make_stages()
    half = state_dir() / "shop" / "rerank" / "0123"
    half.mkdir(parents=True)
    half.with_suffix(".lock").touch()
    (state_dir() / "shop" / "tune" / "4567").mkdir(parents=True)  # a study: settings, no stage
    gone = [folder.path for folder in affected(state_dir() / "shop", {read.path("reviews.parquet")})]
    assert set(gone) == {half, read.folder, labels.folder, model.folder} and gone[-1] == read.folder


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["forget", *arguments])
    return end.value.code, *capsys.readouterr()


def test_the_command_counts_before_and_after_and_spares_the_others(site, capsys):
    read, without, labels, model, other = make_stages()
    with tracking.job("finetune", Config(DataConfig("shop"))) as run_id:
        (site / "report.html").write_text("user-17 gains most")
        tracking.log_file(site / "report.html", run_id)
    code, out, err = command(capsys, "user-17", "--data", "shop.yaml")
    assert code == 0, out + err
    lines = [line for line in out.splitlines() if line.startswith(("shop/", "artifacts"))]
    rows = {line.rsplit(maxsplit=2)[0]: line.split()[-2:] for line in lines}
    assert rows == {"shop/ingest": ["4", "0"], "artifacts of MLflow runs": ["1", "0"]}
    assert [m.folder.exists() for m in (read, without, labels, model, other)] == [False, True, False, False, True]
    assert "Your own data (r.csv)" in out and "sealr run --data shop.yaml" in out and "user-17" not in out
    assert len(forgotten("shop")) == 1
    assert command(capsys, "user-17", "--data", "shop.yaml")[0] == 0


def test_an_unknown_user_changes_nothing(site, capsys):
    made = make_stages()
    stage("ingest", data="other", reviews=reviews(("user-19", "hi")))
    code, _, err = command(capsys, "user-19", "--data", "shop.yaml")
    assert code == 2 and "no trace of this user of shop" in err and "other has a user of this id" in err
    assert all(m.folder.exists() for m in made) and not forgotten("shop")


def test_what_cannot_be_removed_is_a_failure(site, capsys):
    make_stages()
    (state_dir() / "notes.txt").write_text("user-17 called")
    code, out, _ = command(capsys, "user-17", "--data", "shop.yaml")
    assert code == 1 and "1 findings are left in notes.txt" in out
