"""What a team learns of runs: messages from real servers and of killed processes, and logs."""

import base64
import hashlib
import hmac
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest
import requests
from filelock import FileLock

from tests.e2e.jobs import BIN, environment, free_port, run, serve
from tests.flows.receiver import receiver

pytestmark = pytest.mark.slow
SECRET = "a secret of both sides"


def prefect(project, *arguments):
    env = environment(project) | {"PREFECT_API_URL": os.environ["PREFECT_API_URL"]}
    done = subprocess.run([str(BIN / "prefect"), *arguments], env=env, cwd=project, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def until(condition, what, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
    return found


def test_a_killed_run_is_told_by_the_process_that_started_it(project, prefect_server):
    state, log = Path(environment(project)["SEALR_HOME"]), project / "deployments.log"
    (state / "tiny").mkdir(parents=True)
    arguments = [sys.executable, "-m", "sealr", "deployments", "--data", str(project / "tiny.yaml")]
    with receiver() as received, FileLock(state / "tiny" / "job.lock"), open(log, "w") as file:  # so the run waits
        server = subprocess.Popen(
            [*arguments, "--base", str(project / "toy.yaml"), "--webhook", received.url],
            env=environment(project), cwd=project, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
        try:
            until(lambda: "deployments are being served" in log.read_text() or server.poll(), "no deployments")
            assert server.poll() is None, log.read_text()
            prefect(project, "deployment", "run", "ingest/ingest")
            until(lambda: "another scheduled job works on data set tiny" in log.read_text(), "the run does not wait")
            (child,) = psutil.Process(server.pid).children()
            os.kill(child.pid, signal.SIGKILL)
            (told,) = received.wait(1, 120)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)
    assert (told["flow"], told["state"]) == ("ingest", "Crashed")
    assert "-9" in told["why"] and "/runs/flow-run/" in told["link"]
    assert received.url not in log.read_text()


def test_a_run_by_hand_leaves_its_log_on_the_server(project, prefect_server):
    code, _, errors = run(project, name="ingest")
    assert not code, errors
    found = requests.post(f"{os.environ['PREFECT_API_URL']}/logs/filter", json={"limit": 200}, timeout=30).json()
    said = [(line["name"], line["message"]) for line in found]
    assert [message for name, message in said if name == "sealr.flows" and message.startswith("ingest on tiny")]
    assert {name for name, _ in said} >= {"sealr.data.manifest", "sealr.data.validate"}


def test_an_alias_that_moves_is_told_by_mlflows_server(tmp_path, monkeypatch):
    url = f"http://127.0.0.1:{(port := free_port())}"
    env = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",  # for a test: MLflow's default is https and public addresses
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    }
    arguments = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    monkeypatch.chdir(tmp_path)
    with receiver() as received:
        for _ in serve(arguments, f"{url}/health", tmp_path / "server.log", env, tmp_path):
            client = mlflow.MlflowClient(url)
            client.create_webhook("champions", received.url, ["model_version_alias.created"], secret=SECRET)
            client.create_registered_model("sealr")
            made = client.create_run("0").info
            client.set_terminated(made.run_id)
            for _ in range(2):
                client.create_model_version("sealr", f"{made.artifact_uri}/model", made.run_id)
            for version in ("1", "2"):
                done = [sys.executable, "-m", "sealr", "promote", version, "--reason", "a test"]
                assert not subprocess.run(done, env=os.environ | {"MLFLOW_TRACKING_URI": url}).returncode
            received.wait(2)
    assert [told["data"] for told in received] == [
        {"name": "sealr", "alias": "champion", "version": version} for version in ("1", "2")
    ]
    first = received[0]
    signed = b".".join(first["_headers"][f"X-MLflow-{name}"].encode() for name in ("Delivery-Id", "Timestamp"))
    digest = hmac.new(SECRET.encode(), signed + b"." + first["_raw"], hashlib.sha256).digest()
    assert first["_headers"]["X-MLflow-Signature"] == f"v1,{base64.b64encode(digest).decode()}"
