"""Compares the time of a retriever's epochs with that of another commit of SEALR, in turns on one machine.

    SEALR_DATA=<folder with sequences/> python -m benchmarks.epochs --against COMMIT

Each turn is a process of its own that trains on the same sequences with one thread. Its first epoch warms up and does
not count. Seconds are CPU time, so they hold on a machine that does other work. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.machine import ROOT, processor
from benchmarks.speed import read_sequences
from sealr.data.download import data_dir

# Runs in the checkout of either commit, so it uses only what both have
WORKER = """
import json, pathlib, sys, tempfile, time
import numpy as np
from sealr.data.sequences import Sequences
from sealr.retrieve.train import train
from sealr.settings import RetrieveConfig
model, epochs, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with np.load(path) as file:
    flat, offsets = file["flat"], file["offsets"]
names = [str(n) for n in range(1, max(len(offsets), int(flat.max()) + 1))]
sequences = Sequences(names[: len(offsets) - 1], names[: int(flat.max())], flat, offsets)
ends = []
with tempfile.TemporaryDirectory() as folder:
    # A validation after the last epoch alone; its time is not counted
    config = RetrieveConfig(model=model, epochs=epochs + 1, eval_every=epochs + 1)
    train(config, sequences, pathlib.Path(folder), lambda epoch, found: ends.append(time.process_time()))
print(json.dumps(np.diff(ends[:-1]).tolist()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--against", required=True, help="commit to compare with")
    option("--sequences", type=Path, default=data_dir() / "sequences" / "Beauty.txt.gz")
    option("--models", nargs="*", default=["sasrec", "bsarec"])
    option("--epochs", type=int, default=3, help="that a process trains, the first one not counted")
    option("--turns", type=int, default=3, help="processes of each commit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = read_sequences(arguments.sequences)
        np.savez(folder / "sequences.npz", flat=made.flat, offsets=made.offsets)
        checkout = ["git", "worktree", "add", "--quiet", "--detach", str(folder / "before"), arguments.against]
        subprocess.run(checkout, cwd=ROOT, check=True)
        try:
            print(f"{arguments.sequences.name}, CPU seconds per epoch with one thread, {processor()}\n")
            print(f"| model | {arguments.against} | now | now / {arguments.against} by turn | median |")
            print("|---|---:|---:|---:|---:|")
            for model in arguments.models:
                print(row(model, arguments.epochs, arguments.turns, folder), flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(folder / "before")], cwd=ROOT, check=True)


def row(model: str, epochs: int, turns: int, folder: Path) -> str:
    before, now = [], []
    for turn in range(turns):
        order = [(before, folder / "before"), (now, ROOT)]
        for seconds, checkout in order if turn % 2 == 0 else reversed(order):
            seconds.append(median(trained(model, epochs, folder / "sequences.npz", checkout)))
    ratios = [new / old for old, new in zip(before, now, strict=True)]
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return f"| {model} | {median(before):.1f} | {median(now):.1f} | {shown} | **{median(ratios):.2f}** |"


def trained(model: str, epochs: int, path: Path, checkout: Path) -> list[float]:
    """CPU seconds of each counted epoch, with the code of ``checkout``."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, model, str(epochs), str(path)]
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
