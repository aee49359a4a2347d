"""Labels reviews in one process and on two Ray workers of which one is killed in the middle, and compares the tables.

``python -m benchmarks.cluster --reviews <reviews .json.gz> [--count 300] [--model embedded]`` (needs ``pip install -e '.[ray]'``)
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.labelling import read
from sealr.data.tables import read_table
from sealr.emotion.label import PROBABILITIES, Labeller, label
from sealr.settings import LabelConfig


def ray_workers() -> list[int]:
    """Process ids of this process's own Ray actors: its descendants, by the title that Ray gives them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("ray::Worker" in part for part in process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


class KillOne:
    """A progress callback of `label` that kills one Ray worker with SIGKILL, once, before the middle."""

    def __init__(self) -> None:
        self.killed: list[tuple[int, int, int, int]] = []  # process id, workers alive before, texts done, texts in all

    def __call__(self, done: int, total: int) -> None:
        if not self.killed and done < total / 2 and (pids := ray_workers()):
            os.kill(pids[0], signal.SIGKILL)
            self.killed.append((pids[0], len(pids), done, total))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reviews", type=Path, required=True, help="an Amazon reviews file, .json.gz")
    parser.add_argument("--model", default="embedded", help="a labeller, as label.model")
    parser.add_argument("--count", type=int, default=300, help="reviews, drawn at random")
    parser.add_argument("--part-rows", type=int, default=32, help="texts a part")
    arguments = parser.parse_args()
    frame = read(arguments.reviews, arguments.count, 0)
    config = LabelConfig(model=arguments.model, part_rows=arguments.part_rows, workers=1)
    labeller = Labeller.from_config(config)
    on_ray = dataclasses.replace(config, engine="ray", workers=2)

    killer = KillOne()
    seen: dict[int, None] = {}  # process ids in the order of their first sight

    def progress(done: int, total: int) -> None:
        killer(done, total)
        seen.update(dict.fromkeys(ray_workers()))

    with tempfile.TemporaryDirectory() as scratch:
        here, there = Path(scratch) / "here", Path(scratch) / "there"
        started = time.monotonic()
        label(frame, config, here, labeller)
        alone = time.monotonic() - started
        started = time.monotonic()
        label(frame, on_ray, there, labeller, progress=progress)
        spread = time.monotonic() - started
        a, b = (read_table(folder / "labels.parquet", "labels") for folder in (here, there))
    same = int((a["emotion"].fillna("") == b["emotion"].fillna("")).sum())
    gap = (a[PROBABILITIES] - b[PROBABILITIES]).abs().max().max()
    print(f"{labeller.name}: {len(a)} reviews, {alone:.0f} s in one process, {spread:.0f} s on 2 Ray workers with their start")
    for pid, alive, done, total in killer.killed:
        print(f"killed worker {pid}, one of {alive}, after {done} of {total} texts; workers seen: {', '.join(map(str, seen))}")
    print(f"same emotion: {same} of {len(a)}, largest difference of a probability {gap:.1e}")
    if not killer.killed:
        raise SystemExit("no worker was killed: take more reviews or a smaller --part-rows")


if __name__ == "__main__":
    main()
