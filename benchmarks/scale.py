"""How time and memory grow with the catalogue and with the length of sequences: synthetic data, each cell in its own process.

    pip install -e '.[index]' && python -m benchmarks.scale

Prints Markdown. Training: items by a power law, steps of 2,048 predictions until ``--seconds`` are over; the first step is
not counted, and what a million predictions take is extrapolated from the median of the others. Retrieval: the 100 best
of all items for queries that come from the same clusters as the items. Ends with an error where a cell holds more than
``--limit-gb``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.speed import child_of, peak_mb, processor
from sealr.data.sequences import Sequences
from sealr.retrieve.batches import Batches
from sealr.retrieve.index import QUERIES, ApproximateIndex, ExactIndex, Index, recall
from sealr.retrieve.models import build
from sealr.retrieve.retriever import device
from sealr.retrieve.train import Average, _train_epoch
from sealr.settings import RetrieveConfig

PREDICTIONS = 2048  # a step
STEPS = 50  # at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--lengths", type=int, nargs="*", default=[10, 50, 200])
    parser.add_argument("--seconds", type=float, default=30, help="of steps or queries in a cell, at least two of them")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument(
        "--probe", type=float, nargs="*", default=[0.03, 0.1], help="shares of an approximate index that are searched"
    )
    parser.add_argument("--limit-gb", type=float, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    tasks = [
        {"what": "train", "items": n, "length": 10, "loss": loss, "seconds": arguments.seconds}
        for n in arguments.items
        for loss in ("softmax", "sampled")
    ]
    lengths = [{"what": "train", "items": arguments.items[0], "length": n, "loss": "softmax"} for n in arguments.lengths]
    tasks += [task | {"seconds": arguments.seconds} for task in lengths if task["length"] != 10]
    common = {"what": "retrieve", "k": arguments.k, "seconds": arguments.seconds}
    tasks += [common | {"items": n, "probe": probe} for n in arguments.items for probe in [0, *arguments.probe]]
    results = [task | child_of("benchmarks.scale", task, arguments.threads) for task in tqdm(tasks, unit="cell", disable=None)]
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    print(f"{arguments.threads} threads, torch {torch.__version__}, {processor()}.\n")
    print(report(results))
    worst = max(result["peak_mb"] for result in results) / 1024
    print(f"\nMost memory held by a cell: {worst:.1f} GB, limit {arguments.limit_gb:g} GB.")
    if worst > arguments.limit_gb:
        raise SystemExit("a cell holds more than the limit")


def worker(task: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    if task["what"] == "train":
        return training(task["items"], task["length"], task["loss"], task["seconds"])
    return retrieval(task["items"], task["k"], task["probe"], task["seconds"])


def training(n_items: int, length: int, loss: str, seconds: float) -> dict[str, Any]:
    """Seconds of a step of SASRec with rows of ``length`` predictions each."""
    rows = max(1, PREDICTIONS // length)
    config = RetrieveConfig(max_len=max(length, 2), batch_size=rows, loss=loss)
    steps = Timed(Batches(synthetic(n_items, rows * STEPS, length), config), seconds)
    model = build(config, n_items).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    _train_epoch(model, optimizer, steps, Average(model, 0.0))
    step = median(np.diff(steps.times)[1:])
    return {"steps": len(steps.times) - 2, "step_seconds": step, "predictions_second": rows * length / step, "peak_mb": peak_mb()}


def retrieval(n_items: int, k: int, probe: float, seconds: float) -> dict[str, Any]:
    """Users a second of an exact index, or where ``probe`` is not 0 of an approximate one, with 10 excluded items each."""
    weights, queries = clusters(n_items, 64, QUERIES * STEPS)
    exclude = list(np.random.default_rng(0).integers(1, n_items + 1, size=(len(queries), 10)))
    started = time.perf_counter()
    index: Index = ApproximateIndex(weights, probe) if probe else ExactIndex(weights)
    built = time.perf_counter() - started
    times = [time.perf_counter()]
    for start in range(0, len(queries), QUERIES):
        index.search(queries[start : start + QUERIES], k, exclude[start : start + QUERIES])
        times.append(time.perf_counter())
        if times[-1] - times[0] > seconds and len(times) > 2:
            break
    result = {
        "blocks": len(times) - 1,
        "users_second": QUERIES / median(np.diff(times)),
        "peak_mb": peak_mb(),
        "build_seconds": built,
    }
    return result | ({"recall": recall(index, ExactIndex(weights), queries[:QUERIES], k)} if probe else {})


class Timed:
    """Batches until the time is over, at least three, and when each was asked for."""

    def __init__(self, batches: Batches, seconds: float) -> None:
        self.batches, self.seconds, self.times = batches, seconds, list[float]()

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.times.append(time.perf_counter())
            if len(self.times) > 3 and self.times[-1] - self.times[1] > self.seconds:
                return
            yield batch
        self.times.append(time.perf_counter())


def synthetic(n_items: int, users: int, length: int) -> Sequences:
    """Users with ``length`` training predictions each; the i-th most popular item is drawn with a weight of 1 / i."""
    generator = np.random.default_rng(0)
    weights = np.cumsum(1 / np.arange(1, n_items + 1))
    drawn = np.searchsorted(weights, generator.random(users * (length + 3)) * weights[-1]) + 1
    flat = generator.permutation(n_items)[np.minimum(drawn, n_items) - 1] + 1  # popular items anywhere in the table
    offsets = np.arange(users + 1, dtype=np.int64) * (length + 3)
    return Sequences([str(u) for u in range(users)], [str(i) for i in range(1, n_items + 1)], flat.astype(np.int64), offsets)


def clusters(n_items: int, hidden: int, users: int) -> tuple[Tensor, Tensor]:
    """Item weights (n_items + 1, D) round centres of few dimensions, with unequal norms; queries (users, D) round the same centres."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    centres, basis = normal(max(50, n_items // 200), 16), normal(16, hidden) / 16

    def around(count: int) -> Tensor:
        chosen = torch.randint(len(centres), (count,), generator=generator)
        return (centres[chosen] + 0.7 * normal(count, 16)) @ basis + 0.04 * normal(count, hidden)

    return around(n_items + 1) * (0.25 * normal(n_items + 1, 1)).exp(), around(users)


def report(results: list[dict[str, Any]]) -> str:
    lines = ["| items | length | loss | steps timed | s a step | predictions/s | s for a million predictions | peak GB |"]
    lines += ["| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
    for r in (r for r in results if r["what"] == "train"):
        rate = r["predictions_second"]
        lines.append(
            f"| {r['items']:,} | {r['length']} | {r['loss']} | {r['steps']} | {r['step_seconds']:.2f} | {rate:,.0f} | {1e6 / rate:,.0f} | "
            f"{r['peak_mb'] / 1024:.1f} |"
        )
    lines += ["", "| items | index | build s | users/s | recall | peak GB |", "| ---: | --- | ---: | ---: | ---: | ---: |"]
    for r in (r for r in results if r["what"] == "retrieve"):
        name, share = (f"approximate, {r['probe']:.0%} searched", f"{r['recall']:.3f}") if r["probe"] else ("exact", "1")
        lines.append(
            f"| {r['items']:,} | {name} | {r['build_seconds']:.1f} | {r['users_second']:,.0f} | {share} | {r['peak_mb'] / 1024:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(json.loads(sys.argv[2]))))
    else:
        main()
