"""What a team is told when a flow fails or crashes, and what it is never told."""

from types import SimpleNamespace

import pytest
from prefect import flow

from sealr import cli
from sealr.config import ConfigError
from sealr.flows import alarm
from sealr.flows.stages import ingest
from tests.flows.receiver import receiver

RUN = SimpleNamespace(name="refresh-shop")


def failed(error, message="Flow run encountered an exception"):
    return SimpleNamespace(name="Failed", message=message, is_failed=lambda: True, result=lambda **_: error)


def crashed(message):
    return SimpleNamespace(name="Crashed", message=message, is_failed=lambda: False)


@pytest.fixture(autouse=True)
def no_link(monkeypatch):
    monkeypatch.setattr(alarm, "url_for", lambda run: None)


def test_a_real_flow_that_fails_is_told(prefect, monkeypatch):
    with receiver() as received:
        monkeypatch.setenv(alarm.VARIABLE, received.url)
        with pytest.raises(ConfigError):
            ingest(data="demo", overrides="retrieve.epoch=3")
    (told,) = received
    assert (told["flow"], told["run"], told["state"]) == ("ingest", "ingest-demo", "Failed")
    assert "retrieve.epoch" in told["why"] and "did you mean" in told["why"]
    assert told["text"] == f"SEALR, ingest (ingest-demo): Failed. {told['why']}"


def test_nobody_is_told_without_an_address_or_a_failure(prefect, monkeypatch):
    @flow(**alarm.HOOKS)
    def works():
        return 1

    with receiver() as received:
        monkeypatch.setenv(alarm.VARIABLE, received.url)
        assert works() == 1
        monkeypatch.setenv(alarm.VARIABLE, "")
        with pytest.raises(ConfigError):
            ingest(data="demo", overrides="retrieve.epoch=3")
    assert not received


def test_every_flow_tells(prefect):
    from sealr.flows.benchmark import benchmark
    from sealr.flows.deployments import FILE, deployments
    from sealr.flows.tune import tune

    assert FILE.is_file() and deployments()
    from prefect.flows import load_flow_from_entrypoint

    flows = [load_flow_from_entrypoint(one.entrypoint) for one in deployments()]
    for one in [*flows, benchmark, tune]:
        assert alarm.tell in one.on_failure_hooks and alarm.tell in one.on_crashed_hooks, one.name


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (crashed("Flow run process exited with non-zero status code -9."), None),
        (failed(ConfigError("retrieve.epochs must be a whole number, not 'many'")), None),
        (failed(KeyError("I hated this guitar")), "KeyError; the log of the run says more"),
        (failed(None, "Flow run encountered an exception\nand more"), "Flow run encountered an exception"),
        (
            failed(ConfigError("cannot open postgresql://joe:hunter2@db/x")),
            "cannot open postgresql://joe:***@db/x",
        ),
        (
            failed(ConfigError("no date: 'I hated this guitar from the very first day on'")),
            "no date: '...'",
        ),
        (failed(ConfigError("x" * 400)), "x" * 300 + "..."),
        (
            crashed("Execution was interrupted by an unexpected exception: KeyError: 'I hated this guitar'"),
            "Execution was interrupted by an unexpected exception",
        ),
        (
            crashed("Request to http://127.0.0.1:4200/api/ failed: ConnectError: no"),
            "Request to http://127.0.0.1:4200/api/ failed",
        ),
        (crashed("Process exited with status code: -9. It was killed by the system: memory"), None),
        (failed(ConfigError("no item is named \ud83d")), r"no item is named \ud83d"),
    ],
)
def test_a_reason_is_one_sentence_without_secrets_and_texts(state, why):
    error = state.message if not state.is_failed() else state.result()
    assert alarm.reason(state) == (why or str(error))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/hooks/SECRET", "http://[broken/SECRET"])
def test_a_receiver_that_is_away_is_a_line_in_the_log(address, monkeypatch, caplog):
    monkeypatch.setenv(alarm.VARIABLE, address)
    # As the process that started the run calls it
    alarm.tell(flow=SimpleNamespace(name="refresh"), flow_run=RUN, state=crashed("killed"))
    assert "could not be told of the failure" in caplog.text and "SECRET" not in caplog.text


def test_a_failure_of_the_hook_is_a_line_in_the_log(monkeypatch, caplog):
    monkeypatch.setenv(alarm.VARIABLE, "http://127.0.0.1:9/hooks/SECRET")
    monkeypatch.setattr(alarm, "url_for", lambda run: 1 / 0)
    alarm.tell(SimpleNamespace(name="refresh"), RUN, crashed("killed"))
    assert "could not be told of the failure: ZeroDivisionError" in caplog.text


def test_an_answer_that_is_an_error_is_a_line_in_the_log(monkeypatch, caplog):
    with receiver(status=403) as received:
        monkeypatch.setenv(alarm.VARIABLE, received.url)
        alarm.tell(SimpleNamespace(name="refresh"), RUN, crashed("killed"))
    assert "HTTPStatusError" in caplog.text and "SECRET" not in caplog.text


def test_an_address_of_another_kind_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with pytest.raises(SystemExit) as end:
        cli.main(["deployments", "--webhook", "chat.example.org/hooks/SECRET"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: --webhook is an address such as https://")
    assert "SECRET" not in said
