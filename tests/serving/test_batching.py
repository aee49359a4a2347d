"""Calls that wait are answered together, and each gets what it would get alone."""

import asyncio
import json
import threading

import pytest
from fastapi import Response

from sealr.serving import batching
from sealr.serving.batching import TOGETHER, Batcher, Job
from sealr.serving.calls import Call, Refusal, answer, read_call, together
from sealr.serving.limits import Limits
from tests.serving.answers import assert_same

pytestmark = pytest.mark.usefixtures("in_a_server")
JSON = "application/json"


class Fake:
    """Reads bodies like ``b"key records"``, and answers when it is released."""

    def __init__(self, monkeypatch):
        self.passes, self.begun, self.release = [], threading.Semaphore(0), threading.Semaphore(0)
        monkeypatch.setattr(batching, "read_call", self.read)
        monkeypatch.setattr(batching, "answer", self.answer)

    def read(self, served, body, content_type, limits):
        key, records = body.split()[:2]
        if key == b"bad":
            return Refusal(400, "bad")
        found = Call(served, {"body": body}, counts={"records": int(records)})
        found.key = None if key == b"alone" else (id(served), key.decode())
        return found

    def answer(self, calls):
        self.begun.release()
        assert self.release.acquire(timeout=30)
        self.passes.append([call.form["body"].split()[0].decode() for call in calls])
        return [Response(call.form["body"]) for call in calls]


def ask(monkeypatch, waiting, workers=1, batch=32, limits=None):
    """Sends ``waiting`` while every worker is busy. Returns the statuses of their answers and the passes."""
    fake, sizes = Fake(monkeypatch), []

    async def run():
        batcher = Batcher(workers, batch, limits or Limits(), sizes.append)
        batcher.start()
        busy = []
        for _ in range(workers):  # one each: a call on an idle server does not wait for others
            busy.append(asyncio.create_task(batcher.answer(Job(None, b"busy 1", JSON))))
            await asyncio.to_thread(fake.begun.acquire, timeout=30)
        jobs = [asyncio.create_task(batcher.answer(Job(*job) if isinstance(job, tuple) else Job(None, job, JSON)))
                for job in waiting]  # fmt: skip
        await asyncio.sleep(0.01)
        assert len(batcher.waiting) == len(waiting)
        fake.release.release(1000)
        answers = await asyncio.wait_for(asyncio.gather(*busy, *jobs), 30)
        await asyncio.to_thread(batcher.stop)
        return answers[workers:]

    answers = asyncio.run(run())
    assert sizes[:workers] == [1] * workers and sum(sizes) == sum(map(len, fake.passes))
    good = [a for a in answers if a.status_code == 200]
    assert [a.body for a in good] == [b for b in waiting if isinstance(b, bytes) and not b.startswith(b"bad")]
    return [a.status_code for a in answers], [calls for calls in fake.passes if calls != ["busy"]]


def test_calls_that_wait_share_a_pass_if_they_have_the_same_parameters(monkeypatch):
    _, passes = ask(monkeypatch, [b"a 1", b"b 1", b"a 1", b"alone 1", b"a 1"])
    assert sorted(passes) == [["a", "a", "a"], ["alone"], ["b"]]


def test_a_refused_call_is_in_no_pass(monkeypatch):
    statuses, passes = ask(monkeypatch, [b"a 1", b"bad 1", b"a 1"])
    assert statuses == [200, 400, 200] and passes == [["a", "a"]]


def test_a_pass_keeps_the_limits_of_a_call(monkeypatch):
    _, passes = ask(monkeypatch, [b"a 2", b"a 2", b"a 1", b"a 4"], limits=Limits(records=4))
    assert passes == [["a", "a"], ["a"], ["a"]]  # 4 records, 1 and 4


@pytest.mark.parametrize(("batch", "passes"), [(1, [["a"]] * 4), (3, [["a"] * 3, ["a"]])])
def test_the_number_of_calls_in_a_pass_is_bounded(monkeypatch, batch, passes):
    assert ask(monkeypatch, [b"a 1"] * 4, batch=batch)[1] == passes


def test_workers_share_the_queue(monkeypatch):
    _, passes = ask(monkeypatch, [b"a 1"] * 6, workers=2)
    assert max(map(len, passes)) <= 3 and sum(map(len, passes)) == 6


def test_a_giant_delays_no_small_calls(monkeypatch):
    _, passes = ask(monkeypatch, [b"a 1", b"a 1 " + b"x" * TOGETHER, b"a 1"])
    assert passes == [["a"], ["a"], ["a"]]


def test_a_call_whose_caller_gave_up_leaves_the_queue(monkeypatch):
    fake = Fake(monkeypatch)

    async def run():
        batcher = Batcher(1, 32, Limits(), lambda calls: None)
        batcher.start()
        first = asyncio.create_task(batcher.answer(Job(None, b"busy 1", JSON)))
        await asyncio.to_thread(fake.begun.acquire, timeout=30)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.answer(Job(None, b"a 1", JSON)), 0.05)
        assert not batcher.waiting
        fake.release.release(1000)
        await first
        await asyncio.to_thread(batcher.stop)

    asyncio.run(run())
    assert fake.passes == [["busy"]]


def test_a_call_whose_caller_gave_up_while_another_pass_ran_is_in_no_pass(monkeypatch):
    fake = Fake(monkeypatch)

    async def run():
        batcher = Batcher(1, 32, Limits(), lambda calls: None)
        bodies = (b"a 1", b"b 1", b"b 1")
        first, second, third = (asyncio.create_task(batcher.answer(Job(None, body, JSON))) for body in bodies)
        await asyncio.sleep(0)
        batcher.start()  # takes all three
        await asyncio.to_thread(fake.begun.acquire, timeout=30)
        second.cancel()
        await asyncio.wait([second])
        fake.release.release(1000)
        await asyncio.gather(first, third)
        await asyncio.to_thread(batcher.stop)

    asyncio.run(run())
    assert fake.passes == [["a"], ["b"]]


def test_a_worker_that_fails_answers_each_of_its_calls_and_works_on(monkeypatch):
    fake = Fake(monkeypatch)
    monkeypatch.setattr(batching, "answer", lambda calls: 1 / 0)

    async def run():
        batcher = Batcher(1, 32, Limits(), lambda calls: None)
        asked = [asyncio.create_task(batcher.answer(Job(None, b"a 1", JSON))) for _ in range(2)]
        await asyncio.sleep(0)
        batcher.start()
        one, other = await asyncio.gather(*asked)
        assert one.status_code == other.status_code == 500
        assert b"INTERNAL_ERROR" in one.body and b"ZeroDivisionError" in one.body
        one.headers["X-Request-ID"] = "one"
        assert "X-Request-ID" not in other.headers
        monkeypatch.setattr(batching, "answer", fake.answer)
        fake.release.release()
        assert (await batcher.answer(Job(None, b"a 1", JSON))).status_code == 200
        await asyncio.to_thread(batcher.stop)

    asyncio.run(run())


@pytest.fixture
def served(follower):
    return follower.served


def read(served, records, **params):
    body = json.dumps({"dataframe_records": records, "params": {"top_k": 4} | params}).encode()
    return read_call(served, body, JSON, Limits())


CALLS = [
    [{"user": "u3"}],
    [{"user": None, "history": [{"item": "i01", "text": "I love it"}]}, {"user": "u1", "exclude_items": ["i02"]}],
    [{"history": [{"item": f"i0{n}", "rating": n} for n in range(1, 6)], "available_only": False}],
    [{"user": "nobody"}],
    [{"user": "u5", "history": [{"item": "i09", "text": "it broke, I am so angry " * 20}], "categories": ["Garden"]}],
]


def test_answers_are_the_same_whatever_a_call_is_answered_with(served):
    calls = [read(served, records) for records in CALLS]
    assert len({call.key for call in calls}) == 1 and calls[0].key is not None
    both = [json.loads(response.body)["predictions"] for response in together(calls)]
    assert [call.batch for call in calls] == [5] * 5 and [len(call.users) for call in calls] == [1, 2, 1, 1, 1]
    for records, answers in zip(CALLS, both, strict=True):
        assert_same(answers, json.loads(together([read(served, records)])[0].body)["predictions"])


@pytest.mark.parametrize("records", [[{"user": 3}], [{"user": 2.5}], [{"user": True}], [], {"user": ["u3"]}, "u3"])
def test_a_table_that_pandas_would_change_beside_others_is_answered_alone(served, records):
    """A whole number in a column with missing values becomes a float."""
    assert read(served, records).key is None


def test_other_parameters_and_other_versions_have_other_keys(served):
    asked = [read(served, CALLS[0]), read(served, CALLS[0], top_k=5), read(served, CALLS[0], top_k=4.0)]
    other = type(served)(served.model, served.schema, "2")
    assert len({call.key for call in [*asked, read(other, CALLS[0])]}) == 4


def test_a_call_that_fails_in_the_model_fails_alone(served):
    """Only the model knows its categories, so the call is in the pass that it breaks."""
    calls = [read(served, records) for records in (CALLS[0], [{"user": "u3", "categories": ["Gardn"]}], CALLS[1])]
    responses = answer(calls)
    assert [r.status_code for r in responses] == [200, 400, 200]
    message = json.loads(responses[1].body)["message"]
    assert message.startswith("request 0: ") and message.endswith("did you mean Garden?")
    assert json.loads(responses[0].body) == json.loads(together([read(served, CALLS[0])])[0].body)
