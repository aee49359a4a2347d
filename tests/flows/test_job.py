"""What surrounds a flow: the lock of scheduled jobs, messages for trouble outside, and an end that does not hang."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import mlflow
import pytest

from sealr.flows import job, progress
from sealr.flows.finetune import finetune

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scheduled(tmp_path, monkeypatch):
    monkeypatch.setenv("SEALR_HOME", str(tmp_path))
    monkeypatch.setattr(job, "deployment", SimpleNamespace(id="some deployment"))


def test_scheduled_jobs_on_one_data_set_take_turns(scheduled, caplog):
    order = []

    def second():
        with job.one_scheduled_job("demo"):
            order.append("second")

    with job.one_scheduled_job("demo"):
        waiting = threading.Thread(target=second)
        waiting.start()
        with job.one_scheduled_job("other"):  # another data set is free
            pass
        deadline = time.monotonic() + 20
        while "another scheduled job works on data set demo" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        order.append("first")
    waiting.join(20)
    assert order == ["first", "second"] and "waiting until it ends" in caplog.text


def test_a_job_by_hand_waits_for_nobody(scheduled, monkeypatch):
    with job.one_scheduled_job("demo"):
        monkeypatch.setattr(job, "deployment", SimpleNamespace(id=None))
        with job.one_scheduled_job("demo"):
            pass


def test_the_two_uis_link_to_each_other(scheduled, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    made = {}
    page = "http://127.0.0.1:4200/runs/flow-run/7"
    monkeypatch.setattr(job, "flow_run", SimpleNamespace(id="7", name="finetune-demo", ui_url=page))
    monkeypatch.setattr(job, "create_markdown_artifact", lambda **given: made.update(given))
    with job.open_job("finetune", "demo", "smollm2-135m", "") as opened:
        tags = mlflow.get_run(opened.run_id).data.tags
        assert f"[finetune-demo]({page})" in tags["mlflow.note.content"] and tags["prefect.url"] == page
        assert opened.run_id in made["markdown"]  # a database has no pages to link to
        monkeypatch.setattr(job.tracking, "address", lambda: "http://127.0.0.1:5000/")
        link = job.tracking.link(opened.run_id)
        assert link.startswith("[MLflow run") and link.endswith(f"/runs/{opened.run_id}?workflowType=machine_learning)")
        assert "(http://127.0.0.1:5000/#/experiments/" in link
        job.tracking.describe(opened.run_id, "It found this.")
        described = mlflow.get_run(opened.run_id).data.tags["mlflow.note.content"]
        assert described.startswith("It found this.\n\nMade by the Prefect flow run [")


def test_trouble_outside_is_a_sentence(scheduled, monkeypatch):
    assert job.external_failure(RuntimeError("a bug of ours")) == ""
    assert "Prefect server" in job.external_failure(httpx.ConnectError("refused"))
    assert "Prefect server" in job.external_failure(RuntimeError("Failed to reach API at http://127.0.0.1:4200/api/"))
    monkeypatch.setattr(job.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert "no space left" in job.external_failure(RuntimeError("PytorchStreamWriter failed writing file data/0"))


ENDS = """
import threading
from sealr.flows.job import force_exit_after
threading.Thread(target=threading.Event().wait).start()  # a thread that never ends
force_exit_after(0.5, 3)
"""


def test_a_process_whose_threads_do_not_end_is_left():
    done = subprocess.run([sys.executable, "-c", ENDS], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3 and done.stderr.endswith(
        "Prefect did not accept the final events; exiting after 0 s.\n"
    )


STOPPED = """
import time
from sealr.flows import set_defaults
set_defaults()
from sealr.flows import temporary_server

with temporary_server.started() as ready:
    from prefect import flow
    from sealr.flows import job

    @flow
    def waits():
        with job.sigterm_by_hand():
            print("server", temporary_server._server.pid, flush=True)
            time.sleep(120)

    ready()
    job.run_flow(waits)
"""


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory):
    """One for all jobs that are stopped: the first start of a server migrates its database."""
    return tmp_path_factory.mktemp("prefect")


@pytest.mark.parametrize(
    ("send", "number"),
    [
        (os.kill, signal.SIGTERM),
        (os.killpg, signal.SIGTERM),
        (os.killpg, signal.SIGINT),
        (os.kill, signal.SIGKILL),
    ],
    ids=["kill", "kill all", "ctrl-c", "kill -9"],
)
def test_a_stopped_job_leaves_no_server_behind(send, number, prefect_home):
    """A signal to the whole group of processes ends the server, too, and the job must not wait for its answers then."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")
    }  # no server: a temporary one is started
    environment |= {"PREFECT_HOME": str(prefect_home), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180"}
    command = [sys.executable, "-u", "-c", STOPPED]
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    server = 0
    try:
        server = int(next(line for line in child.stdout if line.startswith("server")).split()[1])
        send(child.pid, number)
        _, errors = child.communicate(timeout=60)
        if number == signal.SIGKILL:
            assert child.returncode == -number
        else:
            assert child.returncode == 128 + number
            assert errors == "\ninterrupted; the same command continues where this one stopped\n"
        deadline = time.monotonic() + 60
        while alive(server) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not alive(server)
    finally:
        for pid in (child.pid, server):
            if pid and alive(pid):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_bar_counts_the_tasks_of_its_flow_run(monkeypatch):
    shown = []
    monkeypatch.setattr(progress, "create_progress_artifact", lambda **given: shown.append(given["progress"]) or "bar")
    monkeypatch.setattr(progress, "update_progress_artifact", lambda bar, progress: shown.append((bar, progress)))
    progress.start("run", 2)
    for flow_run in ("run", "another", "run", "run"):  # a task too many leaves the bar full
        progress.task_done(None, SimpleNamespace(flow_run_id=flow_run), None)
    assert shown == [0.0, ("bar", 50.0), ("bar", 100.0), ("bar", 100.0)]


def test_the_form_of_a_flow_explains_its_parameters():
    shown = {name: about["description"] for name, about in finetune.parameters.model_dump()["properties"].items()}
    assert "path of a YAML file" in shown["data"] and "retrieve.epochs=20" in shown["overrides"]
