"""Mistakes of users end in one sentence: those of `benchmarks.mistakes` that need no training and no server."""

import logging
import os
import socket

import pytest

from benchmarks.mistake_cases import Mistake
from benchmarks.mistake_files import FILES
from benchmarks.mistakes import AREAS, VARIABLES, Outcome, message, prepare, row
from sealr.cli import explain, main
from sealr.config import load_config
from sealr.data.ingest import ingest

QUICK = [
    (area, mistake)
    for area in ("Commands", "Settings", "Surroundings", "Models")
    for mistake in AREAS[area]
    if not mistake.model
]


@pytest.fixture
def site(tmp_path, monkeypatch):
    before, level = dict(os.environ), logging.getLogger("sealr").level
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    logging.getLogger("sealr").setLevel(level)
    os.environ.clear()  # commands set the project's variables
    os.environ.update(before)


@pytest.mark.parametrize(("area", "mistake"), QUICK, ids=[f"{area}: {mistake.what}" for area, mistake in QUICK])
def test_a_mistake_is_a_sentence_with_what_to_do(area, mistake, site, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        arguments, env = prepare(mistake, site, taken.getsockname()[1])
        for name, value in ({"SEALR_HOME": "state"} | env).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            main(arguments)
    err = capsys.readouterr().err
    assert Outcome(end.value.code, message(err), 0.0).wrong(mistake.says, range(2, 3)) == "", err


@pytest.mark.parametrize("mistake", FILES, ids=[mistake.what for mistake in FILES])
def test_a_wrong_file_is_a_sentence_with_what_to_do(mistake, site, monkeypatch, capsys):
    """`sealr ingest` without Prefect and MLflow."""
    arguments, env = prepare(mistake, site, 0)
    monkeypatch.setenv("SEALR_DATA", env["SEALR_DATA"])
    if arguments[0] == "ingest":
        try:
            ingest(load_config("shop.yaml").data, site / "tables")
            code, said = 0, "nothing"
        except Exception as error:
            code, said = explain(error)
    else:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        code, said = end.value.code, message(capsys.readouterr().err)
    assert Outcome(code, said, 0.0).wrong(mistake.says, range(2, 3)) == "", said


def test_the_table_has_the_messages_and_notices_what_is_wrong():
    assert sum(map(len, AREAS.values())) >= 50
    assert message("a log line\nerror: no file\n  at all\n") == "error: no file at all"
    good = Outcome(2, "error: a|b is no file", 0.25)
    assert row("no file", good) == "| no file | a\\|b is no file | 2 | 0.25 |"
    assert good.wrong("no file", range(2, 3)) == ""
    assert good.wrong("another", range(2, 3)) and Outcome(1, "error: x", 0).wrong("x", range(2, 3))
    assert Outcome(2, message("Traceback (most recent call last)\nerror: x"), 0).wrong("x", range(2, 3))
    assert Mistake("what", ("run",), "says").model is False
