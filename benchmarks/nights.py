"""Runs `sealr refresh` on a file of reviews that grows from night to night, and shows what the gate decides.

    python -m benchmarks.nights --reviews reviews_Musical_Instruments_5.json.gz --folder /tmp/nights

Night k reads the reviews up to the time by which share k of them was written, and the last night reads the last file
again. State, registry and configuration lie in ``--folder`` and survive from night to night, as in a real schedule.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml
from mlflow import MlflowClient

from benchmarks.machine import ROOT, processor
from sealr.data.tables import read_table
from sealr.registry.promote import CHAMPION, GATE

MODEL = "sealr"
HEAD = (
    "| night | newest review | users | items | gate users compared | opponent | challenger | difference | p, needed "
    "| decision | champion after | minutes |\n|---:|---|---:|---:|---:|---:|---:|---|---|---|---|---:|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=Path, required=True, help="a file in the form of Amazon's, gzipped")
    parser.add_argument("--folder", type=Path, required=True, help="removed first")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.9, 1.0], help="of the reviews, by time")
    parser.add_argument("--set", default="", help="settings of the jobs")
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    with gzip.open(given.reviews, "rt", encoding="utf-8") as file:
        lines = sorted(file, key=when)
    print(f"{processor()}, load average {os.getloadavg()[0]:.1f}; {len(lines):,} reviews\n\n{HEAD}", flush=True)
    known, reasons = "0", []
    for night, share in enumerate([*given.shares, given.shares[-1]], 1):
        read = until(lines, share)
        seconds = refresh(given.folder, read, given.set)
        row, known, reason = described(given.folder, known)
        newest = datetime.fromtimestamp(when(read[-1]), UTC).date()
        print(f"| {night} | {newest} | {row} | {seconds / 60:.1f} |", flush=True)
        reasons.append(f"* Night {night}: {reason}")
    print("\n" + "\n".join(reasons))


def when(line: str) -> int:
    return int(json.loads(line)["unixReviewTime"])


def until(lines: list[str], share: float) -> list[str]:
    """The lines, in order of time, up to the second in which ``share`` of them are written."""
    last = when(lines[max(1, round(share * len(lines))) - 1])
    return [line for line in lines if when(line) <= last]


def refresh(folder: Path, lines: list[str], settings: str) -> float:
    """Puts the reviews where the last night's were, runs the nightly job, and returns its seconds."""
    path = folder / "reviews.json.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(lines)
    data = yaml.safe_load((ROOT / "configs/amazon-musical-instruments.yaml").read_text(encoding="utf-8"))
    data["data"] |= {"name": "nights", "reviews": {"path": str(path.resolve())}, "items": {}}
    (folder / "nights.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    env = os.environ | {"SEALR_HOME": str((folder / "state").resolve()), "MLFLOW_TRACKING_URI": tracking(folder)}
    command = [sys.executable, "-m", "sealr", "refresh", "--data", "nights.yaml", "--set", settings]
    started = time.monotonic()
    with open(folder / "job.log", "a", encoding="utf-8") as log:
        subprocess.run(command, cwd=folder, env=env, stdout=log, stderr=log, check=True)
    return time.monotonic() - started


def tracking(folder: Path) -> str:
    return f"sqlite:///{folder.resolve()}/mlflow.db"


def described(folder: Path, known: str) -> tuple[str, str, str]:
    """(cells of the newest version, its number, the gate's reason). known: the newest version of the night before."""
    client = MlflowClient(tracking(folder))
    version = max(client.search_model_versions(f"name = '{MODEL}'"), key=lambda v: int(v.version))
    now = client.get_registered_model(MODEL).aliases.get(CHAMPION, "none")
    newest = max((folder / "state/nights/ingest").glob("*/reviews.parquet"), key=lambda path: path.stat().st_mtime)
    reviews = read_table(newest, "reviews", ["user", "item"])
    counts = f"{reviews['user'].nunique():,} | {reviews['item'].nunique():,}"
    if version.version == known:
        return f"{counts} | | | | | | no new version | {now}", known, "the reviews are the same, so no version is made."
    tag = {key.removeprefix(GATE): value for key, value in version.tags.items() if key.startswith(GATE)}

    def figure(name: str, form: str = ".4f") -> str:
        return format(float(tag[name]), form) if name in tag else ""

    gain = f"{figure('difference', '+.4f')} ({figure('low', '+.4f')} to {figure('high', '+.4f')})"
    cells = (
        f"{counts} | {tag.get('users', '')} | {figure('champion')} | {figure('challenger')} | "
        f"{gain if 'difference' in tag else ''} | {figure('p', '.2g')}, {figure('level', '.2g')} | "
        f"version {version.version} {tag['decision']} | {now}"
    )
    return cells, version.version, tag["reason"]


if __name__ == "__main__":
    main()
