"""Measures what content costs, and what it is worth, on catalogues of up to a million items.

    pip install -e '.[index]' && python -m benchmarks.big_catalogue --items 10000 100000

Items have synthetic profiles of MiniLM's width, around the centres of clusters of 100 items, as SEALR's stage `content`
writes them; no text is read (`benchmarks/reading.py` times that). A user's next item is from the cluster of the last
one with a probability of 0.8, else from any cluster. Each cell trains SASRec with a sampled loss for ``--steps`` steps,
without validation, in its own process: with profiles, without, and with those of other items (the placebo). Then
``--users`` users get 100 candidates each, by exact search and from the approximate index, and 50 of them one by one, as
a server's single calls do. Exact candidates that hold the user's held-out item are hits. A cell has one thread, and its
seconds are CPU time, so they hold on a machine that does other work. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.machine import child_of, peak_mb, processor
from sealr.content.profiles import Profiles
from sealr.data.sequences import Sequences
from sealr.evaluate.statistics import bootstrap_mean, shown
from sealr.retrieve.candidates import best_items, index_recall, pools_for
from sealr.retrieve.retriever import Retriever, load
from sealr.retrieve.train import train
from sealr.settings import RetrieveConfig

WIDTH, LATENT = 384, 32  # of profiles, and of what differs between clusters
CLUSTER, STAY = 100, 0.8  # items of a cluster; probability of staying in it
LENGTH = 10  # items of a user: eight to learn from, one for validation, one for the test
CONTENT = ("reviews", "none", "shuffled")
CALLS = 50
COLUMNS = (
    "items | content | training, predictions/s | index, s | recall@100 | exact, lists/s | approximate, lists/s | "
    "exact call, ms | approximate call, ms | peak GB | HR@100"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--items", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    option("--steps", type=int, default=100, help="of 256 users each; every step has other users")
    option("--users", type=int, default=1000, help="who get candidates")
    option("--seed", type=int, default=0, help="of data, weights and placebo")
    option("--folder", type=Path, help="for data and models of a size, removed after it; by default a temporary one")
    arguments = parser.parse_args()
    predictions = RetrieveConfig().batch_size * (LENGTH - 3)
    print(f"One thread, torch {torch.__version__}, {processor()}, seed {arguments.seed}, ", end="")
    print(f"{arguments.steps} steps of {predictions:,} predictions.\n\n| {COLUMNS} |\n| ---: | --- |", end="")
    print(" ---: |" * (COLUMNS.count("|") - 1), flush=True)
    with tqdm(total=len(arguments.items) * len(CONTENT), unit="cell", disable=None) as bar:
        for n_items in arguments.items:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                make(Path(folder), n_items, arguments.steps, arguments.seed)
                for content in CONTENT:
                    task = {"folder": folder, "items": n_items, "content": content}
                    task |= {"users": arguments.users, "seed": arguments.seed}
                    print(row(task | child_of("benchmarks.big_catalogue", task, threads=1)), flush=True)
                    bar.update()


def make(folder: Path, n_items: int, steps: int, seed: int) -> None:
    """Writes the profiles (float32) and the users of a catalogue. Each training step gets its own users."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    cluster = rng.permutation(n_items) % max(2, n_items // CLUSTER)  # (n_items,)
    centres, basis = normal(cluster.max() + 1, LATENT), normal(LATENT, WIDTH)
    vectors = torch.zeros(n_items + 1, WIDTH)
    for start in range(0, n_items, 10_000):  # in blocks, for the memory
        chosen = torch.from_numpy(cluster[start : start + 10_000])
        latent = centres[chosen] + 0.3 * normal(len(chosen), LATENT)
        vectors[start + 1 : start + 1 + len(chosen)] = F.normalize(latent @ basis + normal(len(chosen), WIDTH), dim=1)
    zeros, ones = torch.zeros(WIDTH), torch.ones(WIDTH)
    Profiles({"reviews": vectors}, {"reviews": zeros}, {"reviews": ones}).save(folder)
    np.save(folder / "flat.npy", walks(cluster, steps * RetrieveConfig().batch_size, rng))


def walks(cluster: np.ndarray, users: int, rng: np.random.Generator) -> np.ndarray:
    """(users, LENGTH) items from 1: each is from the cluster of the one before with probability STAY, else from any."""
    order = np.argsort(cluster, kind="stable")
    sizes = np.bincount(cluster)
    firsts = np.cumsum(sizes) - sizes
    stay = rng.random((users, LENGTH)) < STAY
    at = rng.integers(0, len(sizes), (users, LENGTH))
    for place in range(1, LENGTH):
        at[:, place] = np.where(stay[:, place], at[:, place - 1], at[:, place])
    return order[firsts[at] + rng.integers(0, sizes[at])] + 1


def worker(task: dict[str, Any]) -> dict[str, Any]:
    """Trains one model on the files of `make`, and asks it."""
    folder, n_items, content = Path(task["folder"]), task["items"], task["content"]
    users = np.load(folder / "flat.npy")
    config = RetrieveConfig(max_len=LENGTH, loss="sampled", content=content, epochs=1, seed=task["seed"])
    found = {"predictions_second": learn(folder, of_users(users, n_items), config)}
    return found | asked(load(folder / content), of_users(users[: task["users"]], n_items), CALLS)


def learn(folder: Path, sequences: Sequences, config: RetrieveConfig) -> float:
    """Trains a model for an epoch without validation; returns predictions per second, reading and writing included."""

    def work() -> int:
        reads = config.content != "none"
        table = Profiles.load(folder).table(config.content, config.content_scale, config.seed) if reads else None
        return train(config, sequences, folder / config.content, content=table, stop=1).rows["positions"]

    seconds, predictions = timed(work)
    return predictions / seconds


def of_users(users: np.ndarray, n_items: int) -> Sequences:
    names = [str(u) for u in range(len(users))]
    offsets = np.arange(len(users) + 1, dtype=np.int64) * LENGTH
    return Sequences(names, [str(i) for i in range(1, n_items + 1)], users.ravel().astype(np.int64), offsets)


def asked(retriever: Retriever, sequences: Sequences, calls: int) -> dict[str, Any]:
    """Seconds, recall and hits of 100 candidates for each user, together and one by one, exact and approximate."""
    part, found = sequences.split("test"), dict[str, Any]()
    near = replace(retriever, config=replace(retriever.config, index="approximate"))
    found["build_seconds"], _ = timed(lambda: near.ann_index)
    for name, asking in (("exact", retriever), ("approximate", near)):
        seconds, (lists, _) = timed(lambda r=asking: best_items(r, sequences, "test", 100, True))
        found[f"{name}_lists_second"] = len(part) / seconds
        if name == "exact":
            found["hits"] = (lists == part.targets[:, None]).any(1).astype(int).tolist()
        histories = [part.history(user) for user in range(min(calls, len(part)))]
        each = [timed(lambda r=asking, h=history: list(pools_for(r, [h], 100)))[0] for history in histories]
        found[f"{name}_call_ms"] = 1000 * median(each)
    return found | {"recall": index_recall(near, sequences, "test"), "peak_mb": peak_mb()}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and the result."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def row(found: dict[str, Any]) -> str:
    """A cell's task and figures as a line of the table."""
    rates = (f"{found[f'{name}_second']:,.0f}" for name in ("exact_lists", "approximate_lists"))
    calls = (f"{found[f'{name}_call_ms']:.1f}" for name in ("exact", "approximate"))
    cells = [f"{found['items']:,}", found["content"], f"{found['predictions_second']:,.0f}"]
    cells += [f"{found['build_seconds']:.1f}", f"{found['recall']:.3f}", *rates, *calls]
    cells += [f"{found['peak_mb'] / 1024:.1f}", shown(*bootstrap_mean(found["hits"]), sign="")]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(json.loads(sys.argv[2]))))
    else:
        main()
