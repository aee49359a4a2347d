"""A report is logged to the job's run, found again, and never in the way of a job."""

import shutil
from pathlib import Path

import mlflow
import pytest

from sealr import tracked, tracking
from sealr.cli import main
from sealr.report import make
from sealr.report.sources import ReportError, find
from tests.report.finished import FinishedJob

pytestmark = pytest.mark.slow


def command(capsys, *arguments):
    """Exit code, output and errors of `sealr report`."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["report", *arguments])
    said = capsys.readouterr()
    return end.value.code, said.out.strip(), said.err.strip()


@pytest.fixture(autouse=True)
def no_browser(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


def test_the_report_of_the_last_job_is_made_once_and_found_again(site, capsys):
    job = FinishedJob("ingest")
    assert tracked.find_artifact(job.run_id, make.FILE) is None
    code, first, _ = command(capsys)
    assert code == 0 and job.run_id in first and Path(first).read_text().startswith("<!doctype html>")
    Path(first).write_text("as it was logged")
    (stage, *_) = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.`mlflow.parentRunId` = '{job.run_id}'", output_format="list"
    )
    for arguments in ((), (job.run_id,), (stage.info.run_id,)):
        assert command(capsys, *arguments)[1] == first
    assert Path(first).read_text() == "as it was logged"
    assert command(capsys, "--again")[0] == 0 and Path(first).read_text().startswith("<!doctype html>")


def test_files_that_another_release_wrote_are_one_sentence(monkeypatch):
    monkeypatch.setattr(tracked, "job_of", lambda run: run)
    monkeypatch.setattr(tracked, "find_artifact", lambda *_: None)
    monkeypatch.setattr(make, "make_report", lambda run: {}["sections"])
    with pytest.raises(ReportError, match=r"run 0123 cannot be read \(KeyError: 'sections'\); if another release ran"):
        make.open_report("0123")


def test_a_version_changed_without_training_has_the_report_of_its_job(site, capsys):
    """`sealr items add` and `sealr forget` log a model from a run of their own, also one after the other."""
    job = FinishedJob("ingest")
    _, first, _ = command(capsys, job.run_id)
    with mlflow.start_run(tags={tracked.ORIGIN: job.run_id}) as added:
        pass
    with mlflow.start_run(tags={tracked.ORIGIN: added.info.run_id}) as forgot:
        pass
    assert [command(capsys, run.info.run_id)[:2] for run in (added, forgot)] == [(0, first)] * 2
    with mlflow.start_run(tags={tracked.ORIGIN: "0123"}) as orphan:
        pass
    code, _, said = command(capsys, orphan.info.run_id)
    assert code == 2 and f"no MLflow run 0123: it was deleted, but led to run {orphan.info.run_id}" in said


def test_a_browser_opens_it_where_there_is_a_screen(site, capsys, monkeypatch):
    job, opened = FinishedJob("ingest"), []
    monkeypatch.setattr("webbrowser.open", opened.append)
    _, path, _ = command(capsys, job.run_id)
    assert not opened
    monkeypatch.setenv("DISPLAY", ":0")
    command(capsys, job.run_id)
    assert opened == [Path(path).as_uri()]


def test_a_job_outlives_its_report(site, monkeypatch, caplog):
    job = FinishedJob("ingest")

    def broken(sources):
        raise KeyError("a defect")

    monkeypatch.setattr(make, "render", broken)
    make.report(job.run_id)
    assert "there is no report (KeyError: 'a defect')" in caplog.text and job.run_id in caplog.text


def test_stages_come_with_their_costs(job):
    stages = find(job.run_id).stages
    assert [stage.kind for stage in stages] == [
        "ingest", "label", "satisfaction", "content", "retriever", "retrieve", "finetune", "rerank", "evaluate",
    ]  # fmt: skip
    assert all(10 < stage.megabytes < 1e5 for stage in stages if stage.kind != "content")


def test_mistakes_are_sentences(site, capsys):
    benchmark = FinishedJob("ingest", "benchmark-table2")
    code, _, said = command(capsys, benchmark.run_id)
    assert code == 2 and "is a benchmark-table2, which has no report" in said
    code, _, said = command(capsys, "no-such-run")
    assert code == 2 and "no-such-run" in said and "Traceback" not in said
    code, _, said = command(capsys, benchmark.run_id, "--model", "models:/sealr@champion")
    assert code == 2 and "not both" in said
    code, _, said = command(capsys, "--model", "sealr")
    assert code == 2 and "models:/NAME@ALIAS" in said
    with mlflow.start_run() as other:
        pass
    code, _, said = command(capsys, other.info.run_id)
    assert code == 2 and "is no job of sealr: give the id of the run of a job" in said


def test_a_folder_that_is_gone(site, capsys):
    job = FinishedJob("ingest", hostile=True)
    kept = job.made["ingest"].folder.with_name("elsewhere")
    shutil.move(job.made["ingest"].folder, kept)
    code, _, said = command(capsys, job.run_id)
    shutil.move(kept, job.made["ingest"].folder)
    assert code == 2 and f"stage ingest has no folder {job.made['ingest'].key} in {site / 'state'}" in said
    assert "run the job again" in said


def test_without_jobs(site, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
        code, _, said = command(capsys)
    tracking.setup()
    assert code == 2 and "there is no job yet" in said and "sealr run" in said
