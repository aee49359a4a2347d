"""Labels reviews in one process and on two Ray workers of which one is killed in the middle, and compares the tables.

``python benchmarks/cluster.py --reviews <reviews .json.gz> [--count 300] [--model embedded]`` (needs ``sealr[ray]``)
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
from labelling import read

from sealr.config import LabelConfig
from sealr.data.tables import read_table
from sealr.emotion.label import PROBABILITIES, Labeller, label


def workers() -> list[int]:
    """Process ids of our Ray actors, by the title that Ray gives them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("ray::Worker" in part for part in process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


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

    def kill_one(done: int, total: int) -> None:
        print(f"{done} of {total}, workers {workers()}", flush=True)
        if not killed and done < total / 2 and (pids := workers()):
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])
            print(f"killed {pids[0]}", flush=True)

    killed: list[int] = []
    with tempfile.TemporaryDirectory() as scratch:
        here, there = Path(scratch) / "here", Path(scratch) / "there"
        label(frame, config, here, labeller)
        started = time.monotonic()
        label(frame, on_ray, there, labeller, progress=kill_one)
        a, b = (read_table(folder / "labels.parquet", "labels") for folder in (here, there))
    same = (a["emotion"].fillna("") == b["emotion"].fillna("")).mean()
    gap = (a[PROBABILITIES] - b[PROBABILITIES]).abs().max().max()
    print(f"{labeller.name}: {len(a)} reviews in {time.monotonic() - started:.0f} s on 2 Ray workers, killed: {len(killed)}")
    print(f"same emotion {same:.4f}, largest difference of a probability {gap:.1e}")


if __name__ == "__main__":
    main()
