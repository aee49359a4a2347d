"""Prefect's temporary server starts beside the imports of a job, and its errors are left to Prefect."""

import os
import subprocess
import sys

import pytest

from sealr.flows import temporary_server

JOB = """
from sealr.flows import set_defaults
set_defaults()
from sealr.flows import temporary_server
wait = temporary_server.start()
from prefect.server.api.server import SubprocessASGIServer
server = SubprocessASGIServer()
wait()
import httpx
print(httpx.get(server.api_url + "/health").json(), server.server_process.pid)
"""


def test_the_server_answers_after_the_wait_and_ends_with_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("SEALR_HOME", str(tmp_path))
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", JOB], capture_output=True, text=True, timeout=240, check=True)
    answer, pid = done.stdout.split()
    assert answer == "True"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert "Starting" not in done.stdout + done.stderr


class Server:
    asked = 0

    def start(self):
        Server.asked += 1
        raise RuntimeError("no port is free")


@pytest.mark.parametrize(("url", "expected"), [("http://127.0.0.1:1/api", 0), ("", 1)])
def test_a_named_server_is_used_and_an_error_is_left_to_prefect(monkeypatch, url, expected):
    monkeypatch.setattr(Server, "asked", 0)
    monkeypatch.setattr(temporary_server, "SubprocessASGIServer", Server)
    monkeypatch.setattr(temporary_server, "PREFECT_API_URL", Setting(url))
    monkeypatch.setattr(temporary_server, "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", Setting(True))
    temporary_server.start()()
    assert Server.asked == expected


class Setting:
    def __init__(self, content):
        self.content = content

    def value(self):
        return self.content
