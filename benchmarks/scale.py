"""Measures how time and memory grow with the catalogue and the length of sequences, on synthetic data.

    pip install -e '.[index]' && python -m benchmarks.scale

Prints Markdown. Each cell runs in its own process and fails if it needs more than ``--limit-gb``.

Training: item popularity follows a power law, and steps of 2,048 predictions run for ``--seconds``. The first step does
not count. The median of the others gives the time for a million predictions. Retrieval: finds the 100 best of all items
for queries from the same clusters as the items.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.machine import child_of, peak_mb, processor
from benchmarks.speed import train_step
from sealr.data.sequences import Sequences
from sealr.retrieve.candidates import BLOCK_ELEMENTS
from sealr.retrieve.index import QUERIES, ApproximateIndex, top
from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever, device, popularity
from sealr.retrieve.train import NextItem
from sealr.settings import RetrieveConfig

PREDICTIONS = 2048  # per step
STEPS = 50  # at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--items", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    option("--lengths", type=int, nargs="*", default=[10, 50, 200])
    option("--seconds", type=float, default=30, help="of steps or queries per cell, two of them at least")
    option("--k", type=int, default=100)
    option("--probe", type=float, nargs="*", default=[0.03, 0.1], help="shares of an approximate index to search")
    option("--limit-gb", type=float, default=16)
    option("--threads", type=int, default=torch.get_num_threads())
    option("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    train = {"what": "train", "seconds": arguments.seconds}
    tasks = [train | {"items": n, "length": 10, "loss": x} for n in arguments.items for x in ("softmax", "sampled")]
    lengths = [n for n in arguments.lengths if n != 10]
    tasks += [train | {"items": arguments.items[0], "length": n, "loss": "softmax"} for n in lengths]
    retrieve = {"what": "retrieve", "k": arguments.k, "seconds": arguments.seconds}
    tasks += [retrieve | {"items": n, "probe": probe} for n in arguments.items for probe in [0, *arguments.probe]]
    bar = tqdm(tasks, unit="cell", disable=None)
    results = [task | child_of("benchmarks.scale", task, arguments.threads) for task in bar]
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    print(f"{arguments.threads} threads, torch {torch.__version__}, {processor()}.\n")
    print(report(results))
    worst = max(result["peak_mb"] for result in results) / 1024
    print(f"\nPeak memory of a cell: {worst:.1f} GB, limit {arguments.limit_gb:g} GB.")
    if worst > arguments.limit_gb:
        raise SystemExit("a cell holds more than the limit")


def worker(task: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    if task["what"] == "train":
        return training(task["items"], task["length"], task["loss"], task["seconds"])
    return retrieval(task["items"], task["k"], task["probe"], task["seconds"])


def training(n_items: int, length: int, loss: str, seconds: float) -> dict[str, Any]:
    """Seconds per step of SASRec, with rows of ``length`` predictions each."""
    rows = max(1, PREDICTIONS // length)
    config = RetrieveConfig(max_len=max(length, 2), batch_size=rows, loss=loss)
    sequences = synthetic(n_items, rows * STEPS, length)
    model = build(config, n_items).to(device()).train()
    task = NextItem(Retriever(config, sequences.items, model, popularity(sequences)), sequences, None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    times = [time.perf_counter()]
    for batch in task.training:
        train_step(task, optimizer, batch)
        times.append(time.perf_counter())
        if len(times) > 3 and times[-1] - times[1] > seconds:
            break
    step = median(np.diff(times)[1:])
    rate = rows * length / step
    return {"steps": len(times) - 2, "step_seconds": step, "predictions_second": rate, "peak_mb": peak_mb()}


def retrieval(n_items: int, k: int, probe: float, seconds: float) -> dict[str, Any]:
    """Users per second, with 10 excluded items each. probe: of an approximate index; 0: all items are scored."""
    weights, queries = clusters(n_items, 64, QUERIES * STEPS)
    exclude = list(np.random.default_rng(0).integers(1, n_items + 1, size=(len(queries), 10)))
    block = QUERIES if probe else max(1, BLOCK_ELEMENTS // len(weights))
    started = time.perf_counter()
    search: Callable[..., tuple[np.ndarray, np.ndarray]] = exact(weights)
    if probe:
        search = ApproximateIndex(weights, probe).search
    times = [time.perf_counter()]
    built = times[0] - started
    for start in range(0, len(queries), block):
        search(queries[start : start + block], k, exclude[start : start + block])
        times.append(time.perf_counter())
        if times[-1] - times[0] > seconds and len(times) > 2:
            break
    result = {"blocks": len(times) - 1, "users_second": block / median(np.diff(times)), "build_seconds": built}
    result["peak_mb"] = peak_mb()
    if not probe:
        return result
    found, best = (s(queries[:QUERIES], k, exclude[:QUERIES])[0] for s in (search, exact(weights)))
    return result | {"recall": float(np.mean([np.isin(b, f).mean() for b, f in zip(best, found, strict=True)]))}


def exact(weights: Tensor) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Searches all items as ``sealr.retrieve.candidates`` does."""

    def search(queries: Tensor, k: int, exclude: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ weights.T
        scores[:, 0] = -torch.inf
        scores.scatter_(1, torch.from_numpy(np.stack(exclude)), -torch.inf)
        return top(scores, k)

    return search


def synthetic(n_items: int, users: int, length: int) -> Sequences:
    """Users with ``length`` training predictions each; the i-th most popular item has weight 1 / i."""
    generator = np.random.default_rng(0)
    weights = np.cumsum(1 / np.arange(1, n_items + 1))
    drawn = np.searchsorted(weights, generator.random(users * (length + 3)) * weights[-1]) + 1
    flat = generator.permutation(n_items)[np.minimum(drawn, n_items) - 1] + 1  # popular items anywhere in the table
    offsets = np.arange(users + 1, dtype=np.int64) * (length + 3)
    items = [str(i) for i in range(1, n_items + 1)]
    return Sequences([str(u) for u in range(users)], items, flat.astype(np.int64), offsets)


def clusters(n_items: int, hidden: int, users: int) -> tuple[Tensor, Tensor]:
    """Item weights (n_items + 1, D) around low-dimensional centres, with unequal norms; queries (users, D) likewise."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    centres, basis = normal(max(50, n_items // 200), 16), normal(16, hidden) / 16

    def around(count: int) -> Tensor:
        chosen = torch.randint(len(centres), (count,), generator=generator)
        return (centres[chosen] + 0.7 * normal(count, 16)) @ basis + 0.04 * normal(count, hidden)

    return around(n_items + 1) * (0.25 * normal(n_items + 1, 1)).exp(), around(users)


def report(results: list[dict[str, Any]]) -> str:
    lines = ["| items | length | loss | steps timed | s per step | predictions/s | s for 10⁶ predictions | peak GB |"]
    lines += ["| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
    for r in (r for r in results if r["what"] == "train"):
        rate = r["predictions_second"]
        lines.append(
            f"| {r['items']:,} | {r['length']} | {r['loss']} | {r['steps']} | {r['step_seconds']:.2f} | {rate:,.0f} | "
            f"{1e6 / rate:,.0f} | {r['peak_mb'] / 1024:.1f} |"
        )
    lines += [
        "",
        "| items | index | build s | users/s | recall | peak GB |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for r in (r for r in results if r["what"] == "retrieve"):
        name, share = "exact", "1"
        if r["probe"]:
            name, share = f"approximate, {r['probe']:.0%} searched", f"{r['recall']:.3f}"
        lines.append(
            f"| {r['items']:,} | {name} | {r['build_seconds']:.1f} | {r['users_second']:,.0f} | {share} | "
            f"{r['peak_mb'] / 1024:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(json.loads(sys.argv[2]))))
    else:
        main()
