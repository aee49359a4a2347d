"""Jobs and servers as processes of their own, as a user starts them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(url, process, log):
    """Returns when the server answers; its log is the message when it ended instead."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.RequestException:
            assert process.poll() is None, log.read_text()
            time.sleep(0.3)
    raise AssertionError(f"{url} did not answer: {log.read_text()}")


def serve(arguments, url, log, env, cwd):
    """Starts a server in a process group of its own and yields when it answers; ends the group afterwards."""
    with open(log, "w") as file:
        process = subprocess.Popen(
            arguments, env=env, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_for(url, process, log)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def environment(project, home="state"):
    return os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "SEALR_HOME": str(project / home),
        "MLFLOW_TRACKING_URI": f"sqlite:///{project}/{home}.db",
        "PREFECT_HOME": str(project / "prefect"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


def command(project, *more, name="run", module="sealr"):
    """A command on the small job. module: tests.e2e.small_steps for frequent checkpoints."""
    job = ["--data", str(project / "tiny.yaml"), "--base", str(project / "toy.yaml")]
    return [sys.executable, "-m", module, name, *job, *more]


def run(project, *more, home="state", name="run", module="sealr", timeout=300):
    """Exit code, output and errors of a command."""
    arguments, env = command(project, *more, name=name, module=module), environment(project, home)
    done = subprocess.run(arguments, env=env, cwd=project, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr
