"""What operators see: metrics, lines of the log, traces, the description of the calls, and a clean end."""

import json
import logging
import re
import signal
import socket
import sys
import threading

import mlflow
import pytest
import requests
from fastapi.testclient import TestClient

from benchmarks.server import serving
from sealr.serving import logs
from sealr.serving.follower import Follower, ServerOptions
from sealr.serving.openapi import STATUSES
from sealr.serving.request import ApiRequest, Event, Options
from sealr.serving.server import create_app

pytestmark = pytest.mark.usefixtures("in_a_server")
SECRET = "zebra"  # in every text, id and key that calls send
ASK = {
    "dataframe_records": [{"user": "u3"}, {"user": f"user {SECRET}", "history": [{"item": "i01", "text": SECRET * 3}]}],
    "params": {"top_k": 4},
}


def measured(client):
    """Name with labels -> value."""
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}


def test_metrics(client):
    before = measured(client)
    assert before['sealr_model_info{model="models:/sealr@champion",version="local"}'] == 1
    for body in (ASK, ASK, {"dataframe_records": [{"usr": SECRET}]}):
        client.post("/invocations", json=body)
    client.post("/invocations", content=b" " * 5_000_000)
    after = measured(client)
    assert after['sealr_call_seconds_count{status="200"}'] == 2
    assert after['sealr_call_seconds_count{status="400"}'] == 1
    assert after['sealr_refused_calls_total{reason="bad_request"}'] == 1
    assert after['sealr_refused_calls_total{reason="body_too_large"}'] == 1
    assert after['sealr_requests_total{user="known"}'] == after['sealr_requests_total{user="new"}'] == 2
    assert after["sealr_batch_calls_count"] == after["sealr_batch_calls_sum"] == 2  # one after the other
    assert after["sealr_waiting_calls"] == 0
    assert {f'sealr_stage_seconds_count{{stage="{s}"}}' for s in ("wait", "label", "retrieve", "rerank")} <= set(after)
    assert SECRET not in str(after)


def test_a_server_without_a_model_says_so_in_its_metrics():
    with TestClient(create_app(ServerOptions(), Follower(ServerOptions()))) as loading:
        assert loading.post("/invocations", json=ASK).status_code == 503
        found = measured(loading)
        assert found['sealr_refused_calls_total{reason="not_ready"}'] == 1 and "model_info" not in str(found)


@pytest.fixture
def lines(monkeypatch):
    """The lines of `sealr serve --log json`, read back."""
    written = []

    class Kept(logging.Handler):
        def emit(self, record):
            written.append(json.loads(logs.JsonLines().format(record)))

    handler = Kept()
    monkeypatch.setattr(logging, "basicConfig", lambda **_: logging.getLogger("sealr").addHandler(handler))
    logs.setup("json")
    return written


def test_a_line_for_each_call_without_what_it_says(client, follower, lines, monkeypatch):
    answer = client.post("/invocations", json=ASK, headers={"X-Request-ID": "order-7.a"})
    assert answer.headers["X-Request-ID"] == "order-7.a"
    client.post("/invocations", json={"dataframe_records": [{"usr": SECRET}]})
    recommender = follower.served.model.unwrap_python_model().recommender
    monkeypatch.setattr(recommender, "recommend", lambda *_: {}[SECRET])
    assert client.post("/invocations", json=ASK).status_code == 500
    good, refused, error, failed = (line for line in lines if line["time"].endswith("+00:00"))
    assert good["ms"] > 0 and good | {"time": 0, "ms": 0} == {
        "time": 0, "level": "info", "request": "order-7.a", "status": 200, "ms": 0, "rows": 2, "batch": 1,
        "version": "local",
    }  # fmt: skip
    assert (refused["status"], refused["refused"]) == (400, "bad_request")
    assert (error["message"], error["error"]) == ("prediction failed", "KeyError") and "predict" in str(error["at"])
    assert (failed["status"], failed["refused"]) == (500, "model_failed")
    assert SECRET not in json.dumps(lines)


def test_no_form_of_the_log_repeats_the_message_of_an_error():
    for form in (logs.PlainLines(), logs.JsonLines()):
        try:
            raise KeyError(SECRET)
        except KeyError:
            record = logging.LogRecord("sealr.serve", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())
        line = form.format(record)
        assert "it failed" in line and "KeyError" in line and "test_observing.py" in line and SECRET not in line


def test_a_plain_log_has_no_line_for_a_call(client, lines):
    logs.setup("plain")
    client.post("/invocations", json=ASK)
    assert lines == []


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ä", "a,b"])
def test_a_request_id_that_is_no_plain_one_is_replaced(client, given):
    answer = client.post("/invocations", json=ASK, headers={"X-Request-ID": given.encode()})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_traces_tell_times_and_not_what_calls_say(follower, tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment("traced")
    with TestClient(create_app(ServerOptions(trace=True), follower)) as client:
        client.post("/invocations", json=ASK, headers={"X-Request-ID": "order-7"})
        client.post("/invocations", json={"dataframe_records": [{"usr": SECRET}]})
    mlflow.flush_trace_async_logging()
    bad, good = sorted(mlflow.search_traces(return_type="list"), key=lambda t: len(t.data.spans))
    mlflow.set_tracking_uri(None)
    names = [span.name for span in good.data.spans]
    # A call can be read and wait within one tick of the clock
    assert sorted(names[:3]) == ["call", "read", "wait"] and names[3:] == ["label", "retrieve", "rerank"]
    assert good.info.tags["sealr.request"] == "order-7" and good.data.spans[0].attributes["rows"] == 2
    assert [str(t.info.state).rpartition(".")[2] for t in (good, bad)] == ["OK", "ERROR"]
    began, ended = good.data.spans[0].start_time_ns, good.data.spans[0].end_time_ns
    assert all(began <= s.start_time_ns <= s.end_time_ns <= ended for s in good.data.spans)
    told = good.to_json() + bad.to_json()
    assert not [word for word in (SECRET, "u3", "i01") if f'"{word}' in told or word in told.split()]
    assert SECRET not in told


def test_without_the_option_no_trace_is_logged(client, monkeypatch):
    monkeypatch.setattr("sealr.serving.server.trace", lambda *_: pytest.fail("a trace"))
    assert client.post("/invocations", json=ASK).status_code == 200


def test_the_description_names_what_the_server_reads_and_answers(client):
    document = client.get("/openapi.json").json()
    parts = {name: part["properties"] for name, part in document["components"]["schemas"].items()}
    assert set(parts["Request"]) == set(ApiRequest.model_fields) and set(parts["Params"]) == set(Options.model_fields)
    assert set(parts["Request"]["history"]["items"]["properties"]) == set(Event.model_fields)
    for name, field in Options.model_fields.items():
        assert field.default is None or name == "exclude_seen" or parts["Params"][name]["default"] == field.default
    call = document["paths"]["/invocations"]["post"]
    assert set(call["responses"]) == {"200", *map(str, STATUSES)}
    answer = client.post("/invocations", json=call["requestBody"]["content"]["application/json"]["example"]).json()
    assert set(answer["predictions"][0]) == set(parts["Answer"])
    assert all(
        client.get(path).status_code in (200, 503) for path, found in document["paths"].items() if "get" in found
    )


def test_the_page_of_calls_loads_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    assert not re.findall(r"https?://|<script|<link|<img|@import|url\(", page)
    assert all(f"<code>{name}</code>" in page for name in (*ApiRequest.model_fields, *Options.model_fields, "scores"))


@pytest.mark.slow
def test_a_server_that_is_stopped_answers_the_calls_that_it_has(model_folder, tmp_path):
    heavy = {"dataframe_records": [{"history": [{"item": f"i{n:02d}"} for n in range(10)] * 20}] * 4}
    answers = []
    with serving(str(model_folder), tmp_path / "log", options=("--workers", "1", "--log", "json")) as server:

        def call():
            body = heavy | {"params": {"explain": True}}
            answers.append(requests.post(f"{server.url}/invocations", json=body, timeout=60))

        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        while "sealr_waiting_calls 0" in requests.get(f"{server.url}/metrics", timeout=60).text:
            assert any(thread.is_alive() for thread in threads)
        with socket.create_connection(("127.0.0.1", server.port)) as other:
            other.sendall(b"no HTTP\r\n\r\n")  # the web server's own lines have the same form
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        for thread in threads:
            thread.join()
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.url}/health", timeout=5)
    assert [answer.status_code for answer in answers] == [200] * 6
    written = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sum(line.get("status") == 200 for line in written) == 6
    assert "Invalid HTTP request received." in [line.get("message") for line in written]
