"""What is tried again and what is not, and that Prefect asks."""

import httpx
import pytest
from mlflow.exceptions import MlflowException, RestException
from prefect import flow

from sealr.config import ConfigError
from sealr.data.download import DownloadFailed, MissingFile, fetch
from sealr.flows.retry import transient, worth_retrying
from sealr.flows.steps import step
from sealr.settings import RemoteFile

AWAY = [
    MlflowException("API request to http://x/api failed with exception HTTPConnectionPool: Max retries exceeded"),
    RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "later"}),
    MlflowException("API request to endpoint /api failed with error code 503 != 200"),
    MlflowException("(sqlite3.OperationalError) database is locked"),
    httpx.ConnectError("refused"),
]
OURS = [
    ValueError("bad data"),
    ConfigError("retrieve.epochs"),
    MissingFile("put the file there"),
    OSError(28, "No space left on device"),
    MlflowException("(sqlite3.OperationalError) database or disk is full"),
    MlflowException("API request to endpoint /api failed with error code 404 != 200"),
    RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}),
    FloatingPointError("loss"),
    None,
]


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_services_that_are_away_are_asked_again(error):
    assert transient(error, scheduled=False)


@pytest.mark.parametrize("error", OURS, ids=repr)
def test_nothing_else_is(error):
    assert not transient(error, scheduled=True)


def test_a_failed_download_is_tried_again_at_night_and_told_at_once_by_day(tmp_path):
    with pytest.raises(DownloadFailed) as found:
        fetch(RemoteFile("a.gz", "http://127.0.0.1:9/a.gz"), tmp_path, tries=1)
    assert transient(found.value, scheduled=True) and not transient(found.value, scheduled=False)
    assert isinstance(found.value, MissingFile)


def attempts(errors):
    """Runs a step that fails with these errors first, and returns how often it was run and what came of it."""
    left, calls = list(errors), []

    def work():
        calls.append(1)
        if left:
            raise left.pop(0)
        return "done"

    @flow(name="attempts")
    def job():
        return step(work).with_options(retry_delay_seconds=0, retry_jitter_factor=0)()

    try:
        return len(calls), job(), len(calls)
    except Exception as error:
        return 0, error, len(calls)


def test_prefect_repeats_a_task_while_a_server_is_away_and_gives_up_in_the_end(prefect):
    assert attempts(AWAY[:2])[1:] == ("done", 3)
    _, error, calls = attempts([httpx.ReadTimeout("no answer")] * 9)
    assert isinstance(error, httpx.ReadTimeout) and calls == 4


def test_prefect_does_not_repeat_a_task_on_bad_data(prefect):
    _, error, calls = attempts([ValueError("row 3 has no item")])
    assert isinstance(error, ValueError) and calls == 1


def test_the_question_is_a_plain_function_as_prefect_wants_it():
    import inspect

    assert inspect.isfunction(worth_retrying)
