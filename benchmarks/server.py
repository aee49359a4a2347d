"""A server process for the benchmarks, on a free port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 1200  # on a busy machine the imports alone take minutes


@dataclass(frozen=True)
class Server:
    port: int
    process: subprocess.Popen

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def megabytes(self) -> float:
        """Resident memory of the process and its children (Linux)."""
        pids, total = [self.process.pid], 0
        for pid in pids:
            try:
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
        return total * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def serving(
    model: str, log: Path, kind: str = "sealr", options: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> Iterator[Server]:
    """Yields once the model is ready. kind: ``sealr`` for `sealr serve`, ``mlflow`` for `mlflow models serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sealr", "serve", "--model", model, "--port", str(port), *options]
    if kind == "mlflow":
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "models",
            "serve",
            "-m",
            model,
            "--env-manager",
            "local",
            "-p",
            str(port),
        ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
    with open(log, "w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    server = Server(port, process)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `timeout` must leave no server behind
    try:
        deadline = time.monotonic() + START_SECONDS
        path = "/ready" if kind == "sealr" else "/health"
        while not answers(server.url + path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error: the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield server
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False
