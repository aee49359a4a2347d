"""Measurements of the machine for the benchmarks, and workers in separate processes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def child_of(module: str, task: dict[str, Any], threads: int) -> dict[str, Any]:
    """The result of a benchmark's ``worker(task)`` in a separate process, so that its peak memory can be measured."""
    return child([sys.executable, "-m", module, "--worker", json.dumps(task)], threads)


def child(command: list[str], threads: int) -> dict[str, Any]:
    """The JSON object that a command prints last. Raises CalledProcessError."""
    shown = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(shown.stdout.splitlines()[-1])


def peak_mb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def processor() -> str:
    """Cores and model name of the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0]}" if names else f"{os.cpu_count()} cores"


def gemm_gflops(size: int = 1024, repeats: int = 20) -> float:
    """10^9 operations per second of a square float32 matrix product, the best of several."""
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9
