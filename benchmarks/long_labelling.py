"""Starts to label millions of texts, kills the stage, starts it again, and shows the log of both.

    python -m benchmarks.long_labelling --texts 10000000 --folder /tmp/long --seconds 60

Writes a table of ``--texts`` distinct short reviews in blocks, and runs the stage `label` on it as a job does, in a
process of its own. ``--seconds`` after its first line about labelled texts, the process gets SIGKILL. The second one
has to find all labels of the first in the cache. It is killed in the same way, because the whole table takes hours.
Prints both logs, the longest silence and the peak memory of each process.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.machine import ROOT, processor

BLOCK = 500_000  # reviews that are in memory at once
LONGEST = 3600  # seconds that a process gets: on busy cores it takes minutes to the first label
PARTS = (
    ("I love", "I returned", "Not sure about", "My son adores", "Never again", "Five stars for", "Sadly I broke"),
    ("this shampoo", "the strings", "these shoes", "the lamp", "this book", "the blender", "the tuner", "this tea"),
    ("which smells great", "which came too late", "which works", "which fell apart", "a nice surprise", "too small"),
)
STAGE = """
import logging, sys
from pathlib import Path
from sealr.data.manifest import run_stage, state_dir
from sealr.data.tables import read_table
from sealr.emotion.label import label
from sealr.settings import LabelConfig
logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
logging.getLogger("sealr").setLevel(logging.INFO)
reviews, config = Path(sys.argv[1]), LabelConfig()
def work(folder):
    return label(read_table(reviews, "reviews"), config, folder, cache=state_dir() / "label-cache")
run_stage("label", "long", config, {"reviews": reviews}, ("data", "emotion"), work)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="for the table, the state and the logs")
    parser.add_argument("--seconds", type=float, default=60, help="of labelling before each kill")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    table = given.folder / f"reviews-{given.texts}.parquet"
    if not table.exists():
        write_reviews(table, given.texts)
    shutil.rmtree(given.folder / "state", ignore_errors=True)
    print(f"{processor()}, load average {os.getloadavg()[0]:.1f}; {table.stat().st_size / 1e6:,.0f} MB of reviews\n")
    known = 0
    for number in (1, 2):
        log = given.folder / f"{number}.log"
        peak = start_and_kill(table, given.folder / "state", log, given.seconds)
        text = log.read_text()
        print(text, end="")
        found = re.search(r"([\d]+) distinct texts, ([\d]+) new", text)
        if not found or int(found[1]) - int(found[2]) != known:
            raise SystemExit(f"{known:,} texts were known before this start, and the log says something else")
        known = labelled(given.folder / "state")
        print(f"SIGKILL; peak memory {peak:.1f} GB, longest silence {silence(text)} s, {known:,} texts labelled\n")


def write_reviews(path: Path, count: int) -> None:
    """A reviews table of ``count`` rows whose texts are distinct: a sentence and a number. Seeded."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path.with_suffix(".tmp"), _block(rng, np.arange(1)).schema) as writer:
        for start in range(0, count, BLOCK):
            writer.write_table(_block(rng, np.arange(start, min(start + BLOCK, count))))
    path.with_suffix(".tmp").rename(path)


def _block(rng: np.random.Generator, numbers: np.ndarray) -> pa.Table:
    def drawn(words: tuple[str, ...]) -> pa.Array:
        return pa.array(words).take(pa.array(rng.integers(0, len(words), len(numbers))))

    def named(letter: str, values: np.ndarray) -> pa.Array:
        return pc.binary_join_element_wise(letter, pa.array(values).cast(pa.string()), "")

    words = [drawn(part) for part in PARTS]
    return pa.table({
        "user": named("u", numbers // 10), "item": named("i", rng.integers(0, 50_000, len(numbers))),
        "timestamp": pa.array(1_400_000_000 + numbers), "position": pa.array((numbers % 10).astype(np.int32)),
        "rating": pa.array(rng.integers(1, 6, len(numbers)).astype(np.float32)),
        "text": pc.binary_join_element_wise(*words, pa.array(numbers).cast(pa.string()), " "),
    })  # fmt: skip


def start_and_kill(table: Path, state: Path, log: Path, seconds: float) -> float:
    """Runs the stage, kills it ``seconds`` after its first line about labelled texts; returns its peak memory in GB."""
    env = os.environ | {"SEALR_HOME": str(state), "PYTHONPATH": str(ROOT)}
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen([sys.executable, "-c", STAGE, str(table)], cwd=ROOT, env=env, stderr=file)
    peak, until = 0.0, time.monotonic() + LONGEST
    try:
        while process.poll() is None and time.monotonic() < until:
            peak = max(peak, _peak(process.pid))
            if until - time.monotonic() > seconds and "  label: " in log.read_text(encoding="utf-8").replace(
                "  label: working", ""
            ):
                until = time.monotonic() + seconds
            time.sleep(0.5)
    finally:
        process.kill()
    if process.wait() >= 0:
        raise SystemExit(f"the stage ended by itself, see {log}")
    return peak


def _peak(pid: int) -> float:
    """Peak resident memory of a process in GB, as Linux counts it."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1e6 if found else 0.0


def labelled(state: Path) -> int:
    """Texts in the label cache."""
    (path,) = (state / "label-cache").glob("*.sqlite")
    with closing(sqlite3.connect(path)) as file:
        return int(file.execute("SELECT count(*) FROM p").fetchone()[0])


def silence(log: str) -> int:
    """Most seconds between two lines of a log."""
    times = [int(h) * 3600 + int(m) * 60 + int(s) for h, m, s in re.findall(r"^(\d\d):(\d\d):(\d\d)  ", log, re.M)]
    return max(((b - a) % 86_400 for a, b in pairwise(times)), default=0)


if __name__ == "__main__":
    main()
