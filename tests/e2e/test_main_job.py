"""The main job from end to end: real Prefect, real MLflow, real servers; a toy LLM and a toy labeller for speed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.e2e.jobs import BIN, command, environment, free_port, run, serve


def metrics(project, home):
    """Metrics, but for times, of the last finished run of every stage."""
    found = {}
    for path in sorted((project / home / "tiny").glob("*/*/manifest.json"), key=lambda p: p.stat().st_mtime):
        values = json.loads(path.read_text())
        found[values["stage"]] = (
            {k: v for k, v in values["metrics"].items() if "second" not in k and not k.startswith("cache.")},
            values["rows"],
        )
    return found


HEADLINE = {"HR_at_10", "NDCG_at_10", "HR_at_10_retriever", "NDCG_at_10_retriever", "NDCG_at_10_gain"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(project, prefect_server):
    """The finished job, in the parts that killed jobs are compared with: other batches round differently."""
    code, out, err = run(project, module="tests.e2e.small_steps")
    assert code == 0, err
    by_hand = ["promote", "1", "--name", "sealr", "--reason", "the toy has too few users for the gate"]
    subprocess.run([sys.executable, "-m", "sealr", *by_hand], env=environment(project), cwd=project, check=True)
    return out, err


def test_it_ends_with_table_model_and_next_commands(finished):
    out, _ = finished
    assert "| injected" in out and "| chance" in out
    assert "registered model sealr, version 1, now @challenger: there are" in out
    assert "fused minus retriever" in out and "### " not in out and "all tables: " in out
    assert "gate users, and fewer than 30 decide nothing" in out and "`sealr promote 1 --name sealr" in out
    assert "mlflow ui" in out and "sealr serve --model models:/sealr@challenger" in out


def test_no_framework_warnings_reach_the_user(finished):
    _, err = finished
    assert "Warning" not in err, err


def test_a_second_run_reuses_every_stage(project, finished):
    code, out, err = run(project)
    assert code == 0, err
    for stage in (
        *("ingest", "label", "satisfaction", "retrieve", "finetune", "rerank", "evaluate"),
        *("refit-retriever", "register"),
    ):
        assert f"{stage}: unchanged" in err
    assert "version 1, now @challenger and @champion: it was champion already" in out


def test_mlflow_has_a_parent_run_and_a_child_per_stage(project, finished):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project}/state.db")
    runs = client.search_runs(
        [client.get_experiment_by_name("sealr").experiment_id], order_by=["attributes.start_time ASC"]
    )
    parent = next(r for r in runs if r.data.tags.get("sealr.job") == "finetune")
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert [r.data.tags["sealr.stage"] for r in children] == [
        "ingest",
        "label",
        "satisfaction",
        "retriever sasrec",
        "retrieve",
        "finetune",
        "rerank",
        "evaluate",
        "refit-retriever sasrec",
        "register",
    ]
    assert all(r.info.status == "FINISHED" for r in [parent, *children])
    by_stage = {r.data.tags["sealr.stage"]: r for r in children}
    assert by_stage["ingest"].data.metrics["rows.read"] == by_stage["ingest"].data.metrics["rows.reviews"] > 300
    assert by_stage["ingest"].inputs.dataset_inputs[0].dataset.name == "tiny.reviews"
    assert len(client.get_metric_history(by_stage["finetune"].info.run_id, "valid_loss")) >= 2
    assert {a.path for a in client.list_artifacts(by_stage["ingest"].info.run_id)} >= {"manifest.json", "data_docs"}
    assert parent.data.tags["prefect.flow_run_id"] and parent.data.metrics.keys() >= HEADLINE
    assert not [name for name in parent.data.metrics if "@" in name or "full" in name]  # the rest is in `measure`
    assert parent.inputs.dataset_inputs[0].dataset.name == "tiny.reviews" and parent.outputs.model_outputs
    assert "test users took next" in parent.data.tags["mlflow.note.content"]
    page = client.get_logged_model(parent.outputs.model_outputs[0].model_id)
    assert {metric.key for metric in page.metrics} >= HEADLINE and "mlflow.modelVersions" in page.tags


def test_prefect_has_the_log_of_a_job_that_was_started_by_hand(project, prefect_server):
    code, _, err = run(project, home="logged", name="ingest")
    assert code == 0, err
    wanted = {"sort": "TIMESTAMP_DESC", "limit": 200}  # of all flow runs
    lines = requests.post(f"{os.environ['PREFECT_API_URL']}/logs/filter", json=wanted, timeout=60).json()
    assert any(line["message"].startswith("ingest: working in ") and "logged" in line["message"] for line in lines)


def test_the_registered_model_has_signature_example_and_no_pickle(project, finished):
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{project}/state.db")
    path = Path(mlflow.artifacts.download_artifacts("models:/sealr@champion", dst_path=str(project / "downloaded")))
    mlflow.set_tracking_uri(None)
    model = mlflow.models.Model.load(path)
    lists = {"include_items", "exclude_items", "categories"}
    assert {c.name for c in model.signature.inputs} == {"user", "history", "available_only", *lists}
    names = {"top_k", "exclude_seen", "explain", "satisfaction_weight", "available_only", *lists}
    assert {p.name for p in model.signature.params} == names
    assert model.saved_input_example_info
    assert not [p for p in path.rglob("*") if p.suffix in (".pkl", ".pt", ".bin", ".pickle", ".joblib")]
    weights = {"sasrec.safetensors", "adapter_model.safetensors", "soft_tokens.safetensors"}
    assert {p.name for p in (path / "artifacts").rglob("*.safetensors")} == weights


def test_the_settings_of_the_llm_are_searched_by_what_the_fusion_gains(project, finished):
    shutil.copytree(project / "state", project / "searched")  # data, labels and retriever are those of the job
    arguments = ["--what", "reranker", "--trials", "1", "--set", "rerank.layers=1"]
    code, out, err = run(project, *arguments, home="searched", name="tune")
    assert code == 0, err
    value = float(re.search(r"best, validation NDCG@10 ([0-9.]+)", out)[1])
    found = max((project / "searched" / "tiny" / "rerank").glob("*/fusion.json"), key=lambda path: path.stat().st_mtime)
    fusion = json.loads(found.read_text())
    assert value == round(max(fusion["validation_ndcg_at_10"].values()), 4) and len(fusion["test_users"]) == 1
    assert "rerank.layers=1" in out
    code, _, err = run(project, *arguments, home="searched", name="tune")
    assert "finetune: " not in err and code == 0  # the study has its trial


KILLS = [
    ("label", "checkpoint/*.sqlite"),
    ("retriever", "checkpoint/retriever.pt"),
    ("finetune", "checkpoint/finetune.pt"),
    ("refit-retriever", "checkpoint/retriever.pt"),
]


def test_sigkill_in_four_stages_then_the_same_command_ends_the_same(project, finished):
    for stage, sign in KILLS:
        victim = subprocess.Popen(
            command(project, module="tests.e2e.small_steps"),
            env=environment(project, "killed"),
            cwd=project,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        folder = project / "killed" / "tiny" / stage
        while victim.poll() is None and not list(folder.glob(f"*/{sign}")):
            time.sleep(0.005)
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
        assert list(folder.glob(f"*/{sign}")) and not list(folder.glob("*/manifest.json")), (
            f"{stage} was not killed in the middle"
        )
    code, _, err = run(project, home="killed", module="tests.e2e.small_steps")
    assert code == 0, err
    assert (
        "ingest: unchanged" in err
        and "label: unchanged" in err
        and "retrieve: unchanged" in err
        and "finetune: unchanged" in err
        and "refit-retriever: resuming" in err
    )
    assert metrics(project, "killed") == metrics(project, "state")


@pytest.fixture(scope="module")
def server(project, finished):
    """The registered champion behind `mlflow models serve`."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    arguments = [
        str(BIN / "mlflow"),
        "models",
        "serve",
        "-m",
        "models:/sealr@champion",
        "--env-manager",
        "local",
        "-p",
        str(port),
    ]
    for _ in serve(arguments, url + "/ping", project / "serve.log", environment(project), project):
        yield url


def ask(server, records, **params):
    return requests.post(server + "/invocations", json={"dataframe_records": records, "params": params}, timeout=60)


def test_serves_a_known_user_and_a_new_one_labelled_on_the_fly(server):
    new = {
        "history": [
            {"item": "D0001", "text": "I love this, it is wonderful!"},
            {"item": "D0003", "sentiment": -2},
            {"item": "no such item"},
        ]
    }
    answer = ask(server, [{"user": "u0001"}, new], top_k=5)
    assert answer.status_code == 200, answer.text
    assert "NaN" not in answer.text  # which would not be JSON
    known, unknown = answer.json()["predictions"]
    for one in (known, unknown):
        assert len(one["items"]) == len(set(one["items"])) == len(one["scores"]) == len(one["reasons"]) == 5
        assert one["scores"] == sorted(one["scores"], reverse=True)
    assert unknown["warnings"] == ["unknown items ignored: no such item"]
    assert not {"D0001", "D0003"} & set(unknown["items"])


def test_serves_a_cold_start(server):
    answer = ask(server, [{"user": "nobody"}, {"history": []}])
    first, second = answer.json()["predictions"]
    assert first["items"] == second["items"] and len(first["items"]) == 10
    assert "popular" in first["reasons"][0] and "nobody" in first["warnings"][0]


BAD = {
    "not json": (b"{", "application/json"),
    "no known key": (b'{"users": ["u0001"]}', "application/json"),
    "wrong column": (b'{"dataframe_records": [{"usr": "u0001"}]}', "application/json"),
    "history no list": (b'{"dataframe_records": [{"history": "D0001"}]}', "application/json"),
    "history without item": (b'{"dataframe_records": [{"history": [{"text": "hm"}]}]}', "application/json"),
    "sentiment out of range": (
        b'{"dataframe_records": [{"history": [{"item": "D0001", "sentiment": 7}]}]}',
        "application/json",
    ),
    "rating out of range": (
        b'{"dataframe_records": [{"history": [{"item": "D0001", "rating": 7}]}]}',
        "application/json",
    ),
    "satisfaction_weight negative": (
        b'{"dataframe_records": [{"user": "u0001"}], "params": {"satisfaction_weight": -1}}',
        "application/json",
    ),
    "top_k too small": (b'{"dataframe_records": [{"user": "u0001"}], "params": {"top_k": 0}}', "application/json"),
    "top_k no number": (b'{"dataframe_records": [{"user": "u0001"}], "params": {"top_k": "many"}}', "application/json"),
    "empty list": (b'{"dataframe_records": []}', "application/json"),
    "other content type": (b"user=u0001", "application/x-www-form-urlencoded"),
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_requests_get_4xx_and_a_sentence(server, case):
    body, kind = BAD[case]
    answer = requests.post(server + "/invocations", data=body, headers={"Content-Type": kind}, timeout=60)
    assert 400 <= answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text and len(answer.text) > 20
    assert not re.search(r'File \\?"', answer.text)


def test_refresh_on_other_data_scores_the_champion_anew_and_drift_holds_the_promotion(project, finished):
    import mlflow

    drift = "data.demo_users=60 registry.drift.hold=true"
    code, out, err = run(project, "--set", drift, name="refresh")
    assert code == 0, err
    assert "drift from the champion's data: new items" in out and "on the new gate histories" in err
    client = mlflow.MlflowClient(f"sqlite:///{project}/state.db")
    version = client.get_model_version_by_alias("sealr", "challenger")
    assert (str(version.version), str(client.get_model_version_by_alias("sealr", "champion").version)) == ("2", "1")
    tags = {k.removeprefix("sealr.gate."): v for k, v in version.tags.items()}
    assert tags["decision"] == "held" and tags["reason"].startswith("the data have drifted (new items")
    assert "fewer than 30 decide nothing" in tags["reason"] and int(tags["users"]) < 30 and tags["try"] == ""
    assert version.tags["sealr.stages"] and version.description.startswith("# SEALR on tiny")
