"""The server around a real (toy-sized) MLflow model, and MLflow's own server with the same model."""

import asyncio
import gc
import os
import socket
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import mlflow
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from mlflow.pyfunc import scoring_server

from sealr.registry import promote
from sealr.serving import batching
from sealr.serving import follower as following
from sealr.serving import server as serving
from sealr.serving.follower import Follower, Served, ServerOptions
from sealr.serving.server import AddressError, create_app, serve
from tests.serving import hostile
from tests.serving.answers import assert_same

pytestmark = pytest.mark.usefixtures("in_a_server")
ASK = {
    "dataframe_records": [
        {"user": "u3"},
        {"history": [{"item": "i01", "text": "I love it, it works great"}, {"item": "i04", "sentiment": -2}]},
    ],
    "params": {"top_k": 4},
}


def weighted(value):
    params = b'"params": {"satisfaction_weight": ' + value + b"}"
    return hostile.Call("", b'{"dataframe_records": [{"user": "u3"}], ' + params + b"}")


def rated(value):
    return hostile.Call("", b'{"dataframe_records": [{"history": [{"item": "i01", "rating": ' + value + b"}]}]}")


def send(client, call):
    headers = {} if call.content_type is None else {"Content-Type": call.content_type}
    return client.post("/invocations", content=call.body, headers=headers)


def test_answers_are_those_of_mlflows_own_server(client, follower):
    with TestClient(scoring_server.init(follower.served.model)) as theirs:
        ours, expected = (c.post("/invocations", json=ASK) for c in (client, theirs))
        assert ours.status_code == expected.status_code == 200
        assert ours.json() == expected.json() and "LLM #" in ours.text
        too_many = {"dataframe_records": [{"user": "u3"}] * 65}
        assert theirs.post("/invocations", json=too_many).status_code == 400  # limits hold there too
    os.environ.pop("_MLFLOW_IS_IN_SERVING_ENVIRONMENT")
    assert (
        len(follower.served.model.predict(scoring_server.infer_and_parse_data(too_many))) == 65
    )  # and not in batch jobs


def test_health_and_readiness(client, model_folder):
    assert [client.get(path).status_code for path in ("/ping", "/health", "/version", "/ready")] == [200] * 4
    assert client.get("/ready").json()["version"] == "local"
    with TestClient(create_app(ServerOptions(), Follower(ServerOptions()))) as loading:
        assert loading.get("/health").status_code == 200
        assert (loading.get("/ready").status_code, loading.get("/ready").json()["ready"]) == (503, False)
        answer = loading.post("/invocations", json=ASK)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5") and "being loaded" in answer.text


def test_the_server_loads_by_itself(model_folder):
    with TestClient(create_app(ServerOptions(model=str(model_folder)))) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        assert client.post("/invocations", json=ASK).status_code == 200


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        (hostile.Call("", b"{}", None), 415, "Content-Type: application/json"),
        (hostile.Call("", b"user\nann\n", "text/csv"), 415, "Content-Type: application/json"),
        (hostile.Call("", b" " * 5_000_000), 413, "larger than 4194304 bytes"),
        (hostile.Call("", b"[" * 100_000), 400, "could not be read"),
        (hostile.Call("", b'{"dataframe_records": [{"user": "u1"}], "params": {"top_k": 0}}'), 400, "top_k must be"),
        (hostile.Call("", b'{"dataframe_records": [{"user": "u1"'), 400, "valid JSON"),
        (hostile.Call("", b'{"dataframe_records": [{"exclude_items": ["i01"]}]}'), 400, "needs a 'user'"),
        (weighted(b"-1"), 400, "satisfaction_weight must be a number from 0 to 100, got -1"),
        (weighted(b"1e999"), 400, "satisfaction_weight must be a number from 0 to 100, got inf"),
        (weighted(b'"high"'), 400, "satisfaction_weight"),
        (weighted(b"true"), 400, "satisfaction_weight"),
        (rated(b"6"), 400, "request 0: rating must be a number of stars from 1 to 5, got 6"),
        (rated(b'"5"'), 400, "request 0: rating must be a number of stars from 1 to 5, got '5'"),
        (rated(b"false"), 400, "request 0: rating must be a number of stars from 1 to 5, got False"),
    ],
)
def test_mistakes_get_a_status_and_a_sentence(client, call, status, message):
    answer = send(client, call)
    assert answer.status_code == status and message in answer.json()["message"]


KNOWN = [{"user": "u3"}]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"dataframe_records": [*KNOWN, {"usr": "u1"}]}, "request 1: unknown field 'usr'; did you mean user?"),
        ({"dataframe_records": [{"user": "u3", "colour": None}]}, "request 0: unknown field 'colour'; there are user"),
        ({"dataframe_records": KNOWN, "params": {"topk": 3}}, "unknown parameter 'topk'; did you mean top_k?"),
        ({"dataframe_records": KNOWN, "param": {"top_k": 3}}, "unknown key 'param'; did you mean params?"),
        ({"dataframe_records": [{"history": [{"item": "i01", "txt": "x"}]}]}, "did you mean text?"),
        ({"dataframe_split": {"columns": ["user", "histroy"], "data": [["u3", None]]}}, "did you mean history?"),
        ({"inputs": {"user": ["u3"], "usr": ["u3"]}}, "unknown field 'usr'; did you mean user?"),
        ({"instances": [{"user": "u3", "usr": "u3"}]}, "unknown field 'usr'; did you mean user?"),
        ({"dataframe_records": KNOWN, "params": {"include_items": "i01"}}, "include_items must be a list of item ids"),
        ({"dataframe_records": KNOWN, "params": {"include_items": [[1], [1, 2]]}}, "must be a list of item ids"),
        ({"dataframe_records": KNOWN, "params": {"categories": ["Gardn"]}}, "category 'Gardn'; did you mean Garden?"),
        ({"dataframe_records": KNOWN, "params": {"available_only": True}}, "sealr serve --available FILE"),
    ],
)
def test_unknown_names_and_wrong_filters_are_refused(client, call, message):
    answer = client.post("/invocations", json=call)
    assert answer.status_code == 400 and message in answer.json()["message"]


def test_what_mlflow_itself_refuses_and_what_it_drops(follower):
    """Keys of a history reach the model. MLflow drops unknown fields and parameters before it is called."""
    with TestClient(scoring_server.init(follower.served.model)) as theirs:
        wrong = {"dataframe_records": [{"history": [{"item": "i01", "txt": "x"}]}]}
        answer = theirs.post("/invocations", json=wrong)
        assert answer.status_code == 400 and "did you mean text?" in answer.text
        dropped = theirs.post("/invocations", json={"dataframe_records": [{"user": "u3", "x": 1}], "params": {"y": 1}})
        assert dropped.json() == theirs.post("/invocations", json={"dataframe_records": KNOWN}).json()


@pytest.mark.parametrize("mlflows", [False, True])
def test_filters_over_http(client, follower, mlflows):
    with TestClient(scoring_server.init(follower.served.model)) as theirs:
        used = theirs if mlflows else client

        def items(record, **params):
            answer = used.post("/invocations", json={"dataframe_records": [{"user": "new"} | record], "params": params})
            return set(answer.json()["predictions"][0]["items"])

        assert items({"include_items": ["i02", "i07"]}) == items({}, include_items=["i02", "i07"]) == {"i02", "i07"}
        assert items({"categories": ["Garden"]}) == items({}, categories=["Garden"]) == {"i04", "i05", "i06", "i07"}
        assert items({"exclude_items": ["i05"]}, categories=["Garden"]) == {"i04", "i06", "i07"}
        assert items({"available_only": False}, top_k=12) == items({}, top_k=12, include_items=[]) == set(hostile.ITEMS)
        rows = [{"user": "new", "include_items": ["i02"]}, {"user": "new"}]  # one of several has a filter
        answer = used.post("/invocations", json={"dataframe_records": rows, "params": {"top_k": 12}})
        assert [len(a["items"]) for a in answer.json()["predictions"]] == [1, 12]


def test_the_list_of_available_items_changes_while_the_server_runs(model_folder, tmp_path, monkeypatch):
    path = tmp_path / "available.txt"
    monkeypatch.setenv("SEALR_AVAILABLE", str(path))
    with pytest.raises(ValueError, match="available.txt: No such file"):
        serve(ServerOptions(model=str(model_folder)))
    path.write_text("i02\ni03\n")
    following_it = Follower(ServerOptions(model=str(model_folder)))
    following_it.update()
    with TestClient(create_app(ServerOptions(), following_it)) as client:

        def items(**params):
            answer = client.post("/invocations", json={"dataframe_records": [{"user": "new"}], "params": params})
            return set(answer.json()["predictions"][0]["items"])

        assert items() == items(available_only=True) == {"i02", "i03"} and len(items(available_only=False)) == 10
        path.with_suffix(".new").write_text("i05\n")
        path.with_suffix(".new").rename(path)
        assert items() == {"i05"}


def test_an_older_model_refuses_what_its_signature_lacks(follower, monkeypatch):
    """MLflow would drop the filter, and the answer would hold what must not be sold."""
    meta = follower.served.model.metadata
    without = [p for p in meta.get_params_schema() if p.name != "include_items"]
    monkeypatch.setattr(type(meta), "get_params_schema", lambda self: without)
    with TestClient(create_app(ServerOptions(), follower)) as client:
        call = {"dataframe_records": KNOWN, "params": {"include_items": ["i02"]}}
        assert "unknown parameter 'include_items'" in client.post("/invocations", json=call).text


@pytest.mark.parametrize("value", [b"NaN", b"null", b"1", b"1.0"])
def test_a_missing_weight_and_a_weight_of_1_are_the_same(client, value):
    usual = client.post("/invocations", json={"dataframe_records": [{"user": "u3"}]}).json()
    assert send(client, weighted(value)).json() == usual and "satisfaction #" in str(usual)


@pytest.mark.parametrize("value", [b"NaN", b"null"])
def test_a_missing_rating_is_none(client, value):
    usual = client.post("/invocations", json={"dataframe_records": [{"history": [{"item": "i01"}]}]}).json()
    assert send(client, rated(value)).json() == usual


def test_weights_of_satisfaction_side_by_side(client):
    """0: no word of it; more: what others were glad of comes first."""
    plain, usual, much = (send(client, weighted(value)).json()["predictions"][0] for value in (b"0", b"1", b"100"))
    assert set(plain["items"]) == set(usual["items"]) == set(much["items"])
    assert "satisfaction" not in str(plain) and "others" not in str(plain)
    joys = [["joy" in reason for reason in answer["reasons"]] for answer in (usual, much)]
    assert joys[1] == sorted(joys[1], reverse=True) and sum(joys[0]) == sum(joys[1]) == 3


def test_a_failure_of_the_model_is_500_without_its_trace(client, follower, monkeypatch):
    recommender = follower.served.model.unwrap_python_model().recommender
    monkeypatch.setattr(recommender, "recommend", lambda *_: 1 / 0)
    answer = client.post("/invocations", json=ASK)
    assert (
        answer.status_code == 500 and "ZeroDivisionError" in answer.json()["message"] and "Traceback" not in answer.text
    )


@settings(max_examples=300, derandomize=True, deadline=20_000, database=None, suppress_health_check=list(HealthCheck))
@given(hostile.calls())
def test_hostile_calls(client, call):
    answer = send(client, call)
    assert not (why := hostile.wrong(answer.status_code, answer.headers["content-type"], answer.content)), (why, call)


@pytest.mark.slow
def test_giants(client):
    slowest = 0.0
    for call in hostile.giants():
        started = time.monotonic()
        answer = send(client, call)
        slowest = max(slowest, time.monotonic() - started)
        assert not (why := hostile.wrong(answer.status_code, answer.headers["content-type"], answer.content)), (
            call.kind,
            why,
        )
    assert slowest < 60  # a hang; usually a second


def test_calls_at_the_same_time_get_the_answers_they_get_alone(client):
    calls = [
        ASK | {"dataframe_records": [{"history": [{"item": f"i{n:02d}", "text": f"it is great {n} " * n}]}]}
        for n in range(1, 12)
    ]
    alone = [client.post("/invocations", json=c).json() for c in calls]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda c: client.post("/invocations", json=c).json(), calls * 3))
    for ours, expected in zip(together, alone * 3, strict=True):
        assert_same(ours["predictions"], expected["predictions"])


def test_waiting_calls_are_bounded_in_number_and_time(follower, monkeypatch):
    release = threading.Event()
    answer = batching.answer
    monkeypatch.setattr(batching, "answer", lambda *given: release.wait(30) and answer(*given))
    with (
        TestClient(create_app(ServerOptions(workers=1, waiting=1, timeout=2), follower)) as client,
        ThreadPoolExecutor(3) as threads,
    ):
        waiting = [threads.submit(client.post, "/invocations", json=ASK) for _ in range(3)]
        assert sorted(w.result().status_code for w in waiting) == [503, 504, 504]
        release.set()
        wait_until(lambda: client.post("/invocations", json=ASK).status_code == 200)


def test_a_body_that_is_being_read_counts_as_a_call(follower, monkeypatch):
    begun, arrived, read_body = threading.Event(), threading.Event(), serving.read_body

    async def slow(request, limit):
        begun.set()
        while not arrived.is_set():
            await asyncio.sleep(0.01)
        return await read_body(request, limit)

    monkeypatch.setattr(serving, "read_body", slow)
    with (
        TestClient(create_app(ServerOptions(workers=1, waiting=0), follower)) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        first = threads.submit(client.post, "/invocations", json=ASK)
        assert begun.wait(30) and client.post("/invocations", json=ASK).status_code == 503
        arrived.set()
        assert first.result().status_code == 200 == client.post("/invocations", json=ASK).status_code


def test_the_time_of_the_body_counts(follower, monkeypatch):
    release = threading.Event()

    async def slow(request, limit):
        await asyncio.sleep(0.7)
        return b"{}"

    monkeypatch.setattr(serving, "read_body", slow)
    monkeypatch.setattr(batching, "read_call", lambda *given: release.wait(30))
    with TestClient(create_app(ServerOptions(workers=1, timeout=1), follower)) as client:
        began = time.monotonic()
        assert client.post("/invocations", json=ASK).status_code == 504
        assert time.monotonic() - began < 1.5
        release.set()


def test_a_version_that_cannot_be_loaded_does_not_keep_the_next_one_waiting(monkeypatch):
    follower, loaded, now = Follower(ServerOptions(model="models:/toy/3", poll=10)), [], [100.0]

    def load(address, version):
        loaded.append(version)
        if version == "3":
            raise ValueError("broken")
        return Served(None, None, version)

    monkeypatch.setattr(following, "load", load)
    monkeypatch.setattr(following.time, "monotonic", lambda: now[0])
    for after, tries in ((0, 1), (5, 1), (6, 2), (15, 2), (6, 3)):  # again after 10 seconds, then after 20
        now[0] += after
        with suppress(ValueError):
            follower.update()
        assert len(loaded) == tries
    follower.options = ServerOptions(model="models:/toy/4")
    follower.update()
    assert follower.served.version == "4" and follower.trouble == ""


def test_a_version_that_was_replaced_leaves_memory_and_the_next_one_is_in_no_collection(monkeypatch):
    class Model:
        def __init__(self):
            self.itself = self

    monkeypatch.setattr(following, "load", lambda address, version: Served(Model(), None, version))
    follower = Follower(ServerOptions(model="models:/toy/1"))
    follower.update()
    old = weakref.ref(follower.served.model)
    gc.collect()
    assert gc.get_freeze_count() > 0 and all(found is not old() for found in gc.get_objects())
    follower.options = ServerOptions(model="models:/toy/2")
    follower.update()
    assert old() is None and follower.served.version == "2"
    gc.unfreeze()


@pytest.mark.parametrize("options", [{"poll": 0}, {"workers": -1}, {"timeout": float("nan")}, {"body": 0}])
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ServerOptions(**options)


def test_a_port_in_use_is_one_sentence_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(serving, "create_app", lambda options: pytest.fail("the model must not be loaded"))
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(AddressError, match="in use.*another port"):
        serve(ServerOptions(), port=other.getsockname()[1])
    with pytest.raises(AddressError, match="cannot listen on no.such.host, port 1"):
        serve(ServerOptions(), "no.such.host", 1)


def test_a_new_champion_takes_over_under_load_and_a_broken_one_does_not(model_folder, tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    registry = mlflow.MlflowClient()

    def champion(source):
        with mlflow.start_run(experiment_id="0") as run:
            version = promote.create("toy", source, run.info.run_id, {})
        registry.set_registered_model_alias("toy", promote.CHAMPION, version)

    champion(model_folder.as_uri())
    app = create_app(ServerOptions(model="models:/toy@champion", poll=0.1, workers=2))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        seen, stop = [], threading.Event()

        def load():
            while not stop.is_set():
                answer = client.post("/invocations", json=ASK)
                seen.append((answer.status_code, answer.headers.get("X-Model-Version")))

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        champion(model_folder.as_uri())
        wait_until(lambda: client.get("/ready").json()["version"] == "2")
        champion((tmp_path / "nowhere").as_uri())
        wait_until(lambda: client.get("/ready").json()["trouble"])
        ready = client.get("/ready")
        stop.set()
        for thread in threads:
            thread.join()
    mlflow.set_tracking_uri(None)
    assert (ready.status_code, ready.json()["version"]) == (200, "2")  # what worked goes on
    assert {status for status, _ in seen} == {200} and {version for _, version in seen} == {"1", "2"}


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
