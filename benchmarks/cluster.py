"""Labels reviews in one process and on two Ray workers, one of which is killed, and compares the tables.

``python -m benchmarks.cluster --reviews REVIEWS.json.gz [--count 300] [--model embedded]``; needs the extra ``ray``.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks.labelling import read
from sealr.data.tables import read_table
from sealr.emotion.label import PROBABILITIES, label
from sealr.emotion.labeller import Labeller
from sealr.settings import LabelConfig


def ray_workers() -> list[int]:
    """Process ids of the Ray actors of this process, by the title that Ray gives them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("ray::Worker" in part for part in process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


class KillOne:
    """A progress callback of `label` that kills one Ray worker with SIGKILL before half of the texts are done."""

    def __init__(self) -> None:
        self.killed: list[tuple[int, int, int, int]] = []  # process id, workers alive before, texts done, texts in all

    def __call__(self, done: int, total: int) -> None:
        if not self.killed and done < total / 2 and (pids := ray_workers()):
            os.kill(pids[0], signal.SIGKILL)
            self.killed.append((pids[0], len(pids), done, total))


def main(
    reviews: Annotated[Path, typer.Option(help="An Amazon reviews file, .json.gz.")],
    model: Annotated[str, typer.Option(help="A labeller, as label.model.")] = "embedded",
    count: Annotated[int, typer.Option(help="Reviews, drawn at random.")] = 300,
    part_rows: Annotated[int, typer.Option(help="Texts per part.")] = 32,
) -> None:
    """Labels in one process and on two Ray workers, one of which is killed."""
    frame = read(reviews, count, 0)
    config = LabelConfig(model=model, workers=1)
    labeller = Labeller.from_config(config)
    on_ray = dataclasses.replace(config, engine="ray", workers=2)

    killer = KillOne()
    seen: dict[int, None] = {}  # process ids in the order in which they appear

    def progress(done: int, total: int) -> None:
        killer(done, total)
        seen.update(dict.fromkeys(ray_workers()))

    with tempfile.TemporaryDirectory() as scratch:
        here, there = Path(scratch) / "here", Path(scratch) / "there"
        started = time.monotonic()
        label(frame, config, here, labeller, part_rows=part_rows)
        alone = time.monotonic() - started
        started = time.monotonic()
        label(frame, on_ray, there, labeller, progress=progress, part_rows=part_rows)
        spread = time.monotonic() - started
        a, b = (read_table(folder / "labels.parquet", "labels") for folder in (here, there))
    same = int((a["emotion"].fillna("") == b["emotion"].fillna("")).sum())
    gap = (a[PROBABILITIES] - b[PROBABILITIES]).abs().max().max()
    print(f"{labeller.name}: {len(a)} reviews, {alone:.0f} s in one process, {spread:.0f} s on 2 Ray workers")
    for pid, alive, done, total in killer.killed:
        print(
            f"killed worker {pid}, one of {alive}, after {done} of {total} texts; workers: {', '.join(map(str, seen))}"
        )
    print(f"same emotion: {same} of {len(a)}, largest difference of a probability {gap:.1e}")
    if not killer.killed:
        raise SystemExit("no worker was killed: use more reviews or a smaller --part-rows")


if __name__ == "__main__":
    typer.run(main)
