"""Ingests millions of synthetic reviews, or trains a retriever on them, and measures time and memory.

    python -m benchmarks.big_reviews --reviews 7000000 --folder /tmp/big [--kill | --retrieve]

Writes ``--reviews`` lines in the form of Amazon's files, with popular items, heavy users, and about one bad or repeated
row in fifty. Then it runs the stage ingest and the gate as a job does, each in its own process. The state folder is new
each time. Peak memory is that of all processes of the stage together, sampled ten times a second as the sum of their
proportional shares (PSS), and also shown for each stage. ``--kill`` kills the stage in the middle first, and then
measures the run that starts it again. ``--retrieve`` runs `sealr retrieve` in its place: ingest and gate, SASRec with a
sampled loss for one epoch, and everybody's candidates from an approximate index. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from benchmarks.machine import ROOT, processor

BLOCK = 100_000  # reviews drawn at once
START, YEARS = 946_684_800, 18  # first second, and years of reviews
WORDS = (
    "the a this guitar string works great sound good bad price cheap bought love it and for but not was very my with "
    "strap pedal amp tuner cable noise quality build stage practice easy broke returned perfect recommended würde €5"
).split()
RETRIEVER = "retrieve.loss=sampled retrieve.epochs=1 retrieve.eval_every=1 retrieve.index=approximate"
STAGE = """
import sys, time
from pathlib import Path
from sealr.config import load_config
from sealr.data.ingest import ingest, input_files
from sealr.data.manifest import run_stage
from sealr.data.validate import validate_file
from sealr.settings import DataConfig, RemoteFile
more = dict(word.split("=") for word in sys.argv[2:])
config = DataConfig(name="big", source="amazon", reviews=RemoteFile(sys.argv[1]), **more)
files = input_files(config)
started = time.monotonic()
made = run_stage("ingest", "big", config, files, ("data",), lambda folder: ingest(config, folder, files))
ingested = time.monotonic()
for table in ("reviews", "items"):
    validate_file(made.path(f"{table}.parquet"), table, made.folder / "docs")
print(made.digest, ingested - started, time.monotonic() - ingested, *made.rows.values())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--reviews", type=int, default=1_000_000)
    option("--items", type=int, help="that are reviewed; one for 40 reviews by default")
    option("--folder", type=Path, required=True, help="for the file and the state; about twice the file's size")
    option("--set", nargs="*", default=[], help="settings of data, such as engine=spark")
    option("--kill", action="store_true")
    option("--retrieve", action="store_true", help="also train a retriever and find candidates")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    items = arguments.items or max(50, arguments.reviews // 40)
    file = arguments.folder / f"reviews-{arguments.reviews}-{items}.json"
    if not file.exists():
        generate(file, arguments.reviews, items)
    state = arguments.folder / "state"
    shutil.rmtree(state, ignore_errors=True)
    if arguments.kill:
        middle = float(measure(file, state, arguments.set)["seconds"]) / 2
        shutil.rmtree(state)
        killed = measure(file, state, arguments.set, middle)
        print(f"Killed after {killed['seconds']:.0f} s.")
    found = (retrieve if arguments.retrieve else measure)(file, state, arguments.set)
    print(f"{processor()}, load average {os.getloadavg()[1]:.1f}.\n\n| | |\n|---|---:|")
    for name, value in ({"file, GB": file.stat().st_size / 1e9} | found).items():
        digits = 2 if name.endswith("GB") else 1
        print(f"| {name} | {value:,.{digits}f} |" if isinstance(value, float) else f"| {name} | {value} |")


def generate(file: Path, count: int, items: int) -> None:
    """Writes a file of JSON lines: users and items by power laws, texts of 10 to 200 words, odd rows. Seeded."""
    rng = np.random.default_rng(0)
    users = max(50, count // 8)
    temporary = file.with_suffix(".tmp")
    vocabulary = np.array(WORDS)
    with open(temporary, "w", encoding="utf-8") as out, tqdm(total=count, unit="reviews", disable=None) as bar:
        for start in range(0, count, BLOCK):
            n = min(BLOCK, count - start)
            who, what = ((size * rng.random(n) ** power).astype(int) for size, power in ((users, 1.6), (items, 3)))
            when = START + rng.integers(0, YEARS * 365, n) * 86_400
            stars, lengths = rng.choice([1, 2, 3, 4, 5], n, p=[0.06, 0.05, 0.09, 0.2, 0.6]), rng.integers(10, 160, n)
            pool = " ".join(vocabulary[rng.integers(0, len(vocabulary), 60_000)])
            places = rng.integers(0, len(pool) - 1_000, n)
            odd = rng.random(n)
            line = ""
            for i in range(n):
                text = pool[places[i] : places[i] + 5 * lengths[i]]
                record = {
                    "reviewerID": f"A{who[i]:012X}", "asin": f"B{what[i]:09d}", "reviewerName": "A. Name",
                    "helpful": [0, 0], "reviewText": text, "overall": float(stars[i]), "summary": text[:30],
                    "unixReviewTime": int(when[i]), "reviewTime": "02 28, 2014",
                }  # fmt: skip
                if odd[i] > 0.01 or not line:
                    line = json.dumps(record) + "\n"
                elif odd[i] > 0.006:  # the line before, once more
                    pass
                elif odd[i] > 0.003:
                    line = json.dumps(record | {"overall": 7.0}) + "\n"
                elif odd[i] > 0.001:
                    line = json.dumps(record)[:-20] + "\n"
                else:
                    line = json.dumps(record | {"reviewerID": None}) + "\n"
                out.write(line)
            bar.update(n)
    temporary.rename(file)


def measure(file: Path, state: Path, settings: list[str], kill_after: float | None = None) -> dict[str, float | str]:
    """Cost of the stage and the gate. kill_after: seconds. Raises CalledProcessError if they fail."""
    output, cost = watched([sys.executable, "-c", STAGE, str(file), *settings], state, kill_after)
    if kill_after:
        return cost
    digest, ingest, gate, *rows = output.splitlines()[-1].split()
    return {"digest": digest[:16], "rows": " ".join(rows), "ingest, s": float(ingest), "gate, s": float(gate)} | cost


def retrieve(file: Path, state: Path, settings: list[str]) -> dict[str, float | str]:
    """Cost of the job up to the candidates, all its processes included. Raises CalledProcessError if it fails."""
    data = file.with_name("big.yaml")
    data.write_text(f"data: {{name: big, source: amazon, reviews: {{path: {file}}}}}\n", encoding="utf-8")
    chosen = " ".join([RETRIEVER, *(f"data.{setting}" for setting in settings)])
    command = [sys.executable, "-m", "sealr", "retrieve", "--data", str(data), "--set", chosen]
    state.mkdir()
    output, cost = watched(command, state)
    said = dict(re.findall(r"^  (\S+) +([\d.,]+)$", output, re.MULTILINE))
    return {name: said[name] for name in ("candidates", "test_hr@100", "test_index_recall@100")} | cost


def watched(command: list[str], state: Path, kill_after: float | None = None) -> tuple[str, dict[str, float | str]]:
    """Output of a command, its time, and the peak memory of all its processes together."""
    environment = os.environ | {"SEALR_HOME": str(state), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{state}/mlflow.db"
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    peaks: dict[str, int] = {}  # bytes by stage, in their order
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while process.poll() is None:
            stage = _stage(state)
            peaks[stage] = max(peaks.get(stage, 0), sum(_memory(pid) for pid in _tree(process.pid)))
            time.sleep(0.1)
            if kill_after and time.monotonic() - started > kill_after:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return "", {"seconds": time.monotonic() - started}
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return output, {
        "seconds": time.monotonic() - started,
        "CPU seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak memory of all processes, GB": max(peaks.values()) / 1e9,
    } | {f"peak {stage}, GB": peak / 1e9 for stage, peak in peaks.items()}


def _stage(state: Path) -> str:
    """The stage that runs: its folder has no manifest yet."""
    running = [folder.parent.name for folder in state.glob("big/*/*/") if not (folder / "manifest.json").exists()]
    return f"in {running[0]}" if running else "between stages"


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                continue
    return found


def _memory(pid: int) -> int:
    """Proportional share of memory in bytes; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
