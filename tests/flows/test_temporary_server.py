"""A job's temporary Prefect server starts beside the imports, is named to Prefect, and ends with the process."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sealr.flows import temporary_server

JOB = """
from sealr.flows import set_defaults
set_defaults()
from sealr.flows import temporary_server
with temporary_server.started() as ready:
    from prefect import flow
    from prefect.settings import PREFECT_API_URL
    ready()
    @flow
    def works():
        return PREFECT_API_URL.value()
    print(works(), temporary_server._server.pid, flush=True)
import sys
print("prefect.server.api.server" in sys.modules)
"""


def test_a_flow_runs_on_it_and_it_ends_with_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("SEALR_HOME", str(tmp_path))
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", JOB], capture_output=True, text=True, timeout=240, check=True)
    url, pid, imported = done.stdout.split()
    assert url.startswith("http://127.0.0.1:") and imported == "False"
    for _ in range(100):  # it was asked to end, and takes a moment
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.2)
    assert not Path(f"/proc/{pid}").exists()
    assert "Starting" not in done.stdout + done.stderr


class Popen:
    """A server that cannot start."""

    made = 0

    def __init__(self, command, **_):
        Popen.made += 1
        self.command = command

    def poll(self):
        return 1

    def terminate(self):
        pass


@pytest.mark.parametrize(("url", "expected"), [("http://127.0.0.1:1/api", 0), ("", 1)])
def test_a_named_server_is_used_and_an_error_is_left_to_prefect(monkeypatch, url, expected):
    monkeypatch.setattr(Popen, "made", 0)
    monkeypatch.setattr(temporary_server.subprocess, "Popen", Popen)
    monkeypatch.setattr(temporary_server.atexit, "register", lambda _: None)
    with (
        temporary_server.temporary_settings(
            {temporary_server.PREFECT_API_URL: url, temporary_server.PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True}
        ),
        temporary_server.started() as ready,
    ):
        assert temporary_server.running() == bool(expected)
        ready()
        assert (temporary_server.PREFECT_API_URL.value() or "") == url and not temporary_server.running()
    assert Popen.made == expected
