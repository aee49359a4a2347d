"""Compares SASRec here with SASRec in RecBole and in RecTools: same machine, shape and number of threads, in turns.

    python3.11 -m venv <folder> && <folder>/bin/pip install -r benchmarks/peers/recbole.txt
    SEALR_DATA=<folder with sequences/> python -m benchmarks.speed --recbole-python <folder>/bin/python

``--rectools-python`` does the same for RecTools (``rectools.txt``); either or both may be given. Prints Markdown:
seconds per epoch, predictions and ranked users per second, peak memory (each side in its own process) and ratios. Then
it prints how far an epoch is from the arithmetic limit, and the time of each part. All sides train on every prefix with
cross-entropy over the catalogue, with the same dropout and about the same number of predictions per step. Without
``--full``, a peer runs a share of its batches and its epoch is extrapolated; ours always runs a whole epoch.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.machine import ROOT, child, child_of, gemm_gflops, peak_mb
from benchmarks.speed_report import PARTS, report
from sealr.config import load_config
from sealr.data.download import data_dir
from sealr.data.sequences import SequenceError, Sequences
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.pipeline.dryrun import local_tables
from sealr.retrieve.batches import Batches
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.loss import softmax_loss
from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever, device, load, popularity
from sealr.retrieve.train import NextItem, train
from sealr.settings import RetrieveConfig

PEERS = ROOT / "benchmarks" / "peers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--recbole-python", type=Path, help="Python of the environment with RecBole")
    option("--rectools-python", type=Path, help="Python of the environment with RecTools")
    option("--sequences", type=Path, default=data_dir() / "sequences" / "Beauty.txt.gz")
    option("--data", help="reviews of a configuration instead of --sequences, e.g. amazon-musical-instruments")
    option("--rounds", type=int, default=3, help="turns of each side; the report shows medians")
    option("--share", type=float, default=0.2, help="share of the batches of a peer's epoch to run")
    option("--full", action="store_true", help="run whole epochs of the peers")
    option("--accuracy", type=int, default=0, help="also train all sides to early stopping, this many epochs at most")
    option("--start", choices=("random", "cooccurrence"), default="random", help="item embeddings with --accuracy")
    option("--batch-size", type=int, default=2048, help="predictions per step")
    option("--threads", type=int, default=torch.get_num_threads())
    option("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    if not (arguments.recbole_python or arguments.rectools_python):
        parser.error("nothing to compare with: give --recbole-python, --rectools-python or both")
    if arguments.data:
        with tempfile.TemporaryDirectory() as folder:
            compare(arguments, sequences_file(arguments.data, Path(folder)))
    else:
        compare(arguments, arguments.sequences.resolve())


def sequences_file(data: str, folder: Path) -> Path:
    """A configuration's sequences in the format that all sides read: one line per user."""
    made, _ = local_tables(load_config(data).data)
    lines = (" ".join(map(str, [row + 1, *items])) for row, items in enumerate(np.split(made.flat, made.offsets[1:-1])))
    path = folder / "sequences.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def compare(arguments: argparse.Namespace, path: Path) -> None:
    """Runs all sides on one file and prints the report."""
    load_before = os.getloadavg()[0]  # other jobs make all figures unreliable
    ours = {"sequences": str(path), "predictions": arguments.batch_size}
    options = ["--sequences", str(path), "--batch-size", str(arguments.batch_size)]
    options += ["--threads", str(arguments.threads), "--dropout", str(RetrieveConfig().dropout)]
    options += ["--full"] if arguments.full else ["--share", str(arguments.share)]
    pythons = {"recbole": arguments.recbole_python, "rectools": arguments.rectools_python}
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(arguments.rounds):
        task = {"what": "speed", "accuracy": arguments.accuracy, "seed": seed, "start": arguments.start} | ours
        made = [child_of("benchmarks.speed", task, arguments.threads)]
        for peer, python in pythons.items():
            if python:
                how = ["--accuracy", str(arguments.accuracy), "--seed", str(seed)]
                command = [str(python.absolute()), str(PEERS / f"{peer}_sasrec.py"), *options, *how]
                made.append(child(command, arguments.threads))
        for result in made:
            results.setdefault(result["system"], []).append(result)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))
    profile = child_of("benchmarks.speed", {"what": "profile"} | ours, arguments.threads)
    if arguments.json:
        arguments.json.write_text(json.dumps(results | {"profile": profile}, indent=1))
    print(report(results, profile, load_before))


def worker(task: dict[str, Any]) -> dict[str, Any]:
    sequences = read_sequences(Path(task["sequences"]))
    # Batches are rows here: as many as give a step the predictions of a RecBole step
    rows = Batches(sequences, RetrieveConfig())
    size = round(task["predictions"] * len(rows.starts) / rows.positions)
    if task["what"] == "profile":
        return profile(sequences, RetrieveConfig(batch_size=size))
    return speed(
        sequences, RetrieveConfig(batch_size=size, seed=task["seed"], item_init=task["start"]), task["accuracy"]
    )


def read_sequences(path: Path) -> Sequences:
    """Sequences of a text file with one line per user, ``user item item ...``, oldest first; gzip if it ends in .gz.

    Users keep their order. Items are sorted, by number if all are integers; then an item of 1..n is its own id.
    Raises SequenceError, which names the line.
    """
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        lines = [(number, fields) for number, line in enumerate(file, start=1) if (fields := line.split())]
    if not lines:
        raise SequenceError(f"{path} holds no sequences")
    seen: set[str] = set()
    for number, fields in lines:
        if len(fields) < 2 or fields[0] in seen:
            what = "a user without items" if len(fields) < 2 else f"user {fields[0]!r} again"
            raise SequenceError(f"{path} line {number}: {what}; expected lines of the form: user item item ...")
        seen.add(fields[0])
    codes, items = pd.factorize(np.array([item for _, fields in lines for item in fields[1:]], dtype=object))
    names = [str(item) for item in items]
    numbers = all(name.isdecimal() for name in names)
    order = sorted(range(len(names)), key=(lambda i: (int(names[i]), names[i])) if numbers else names.__getitem__)
    ids = np.empty(len(names), dtype=np.int64)
    ids[order] = np.arange(1, len(names) + 1)
    offsets = np.concatenate(([0], np.cumsum([len(fields) - 1 for _, fields in lines]))).astype(np.int64)
    return Sequences([fields[0] for _, fields in lines], [names[i] for i in order], ids[codes], offsets)


def speed(sequences: Sequences, config: RetrieveConfig, accuracy: int) -> dict[str, Any]:
    """One epoch, then the rank of every user's test item among all items."""
    torch.manual_seed(config.seed)
    model = build(config, sequences.n_items).to(device()).train()
    retriever = Retriever(config, sequences.items, model, popularity(sequences))
    task, optimizer = NextItem(retriever, sequences, None), torch.optim.AdamW(model.parameters(), config.lr, fused=True)
    started = time.perf_counter()
    for batch in task.training:
        train_step(task, optimizer, batch)
    seconds = time.perf_counter() - started
    training_peak = peak_mb()
    model.eval()
    started = time.perf_counter()
    ranks = target_ranks(retriever, sequences, "test", exclude_seen=False)  # as RecBole does
    scoring = time.perf_counter() - started
    result = {
        "system": "SEALR",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": config.batch_size,
        "predictions": task.training.positions,
        "timed_share": 1.0,
        "seconds_epoch": seconds,
        "predictions_second": task.training.positions / seconds,
        "users_second": len(ranks) / scoring,
        "training_peak_mb": training_peak,
        "peak_mb": peak_mb(),
    }
    return result | (accurate(sequences, config, accuracy) if accuracy else {})


def train_step(task: NextItem, optimizer: torch.optim.Optimizer, batch: tuple[Any, ...]) -> float:
    """One step of the trainer, whose loss is read for progress and checks, without checkpoints and validation."""
    loss, _ = task.loss(batch, batch, 0)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def accurate(sequences: Sequences, config: RetrieveConfig, epochs: int) -> dict[str, Any]:
    """Test metrics after training with RecBole's early stopping: validation after every epoch, patience of ten."""
    config = replace(config, epochs=epochs, eval_every=1, patience=10, exclude_seen=False)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        output = train(config, sequences, Path(folder))
        seconds = time.perf_counter() - started
        ranks = target_ranks(load(Path(folder)), sequences, "test", exclude_seen=False)
    test = {f"hit@{k}": float(hit_rate(ranks, k).mean()) for k in (5, 10)} | {
        f"ndcg@{k}": float(ndcg(ranks, k).mean()) for k in (5, 10)
    }
    users = [sequences.users[u] for u in sequences.split("test").users]
    return {
        "epochs": int(output.metrics["epochs"]),
        "valid": output.metrics["valid_ndcg@10"],
        "seconds_training": seconds,
        "test": test,
        "ranks": dict(zip(users, ranks.tolist(), strict=True)),
    }


def profile(sequences: Sequences, config: RetrieveConfig) -> dict[str, Any]:
    """Seconds of each part of an epoch on the CPU, its arithmetic, and the machine's rate of matrix products."""
    torch.manual_seed(config.seed)
    model = build(config, sequences.n_items).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    batches, parts = Batches(sequences, config), dict.fromkeys(PARTS, 0.0)
    iterator = iter(batches)
    while True:
        times = [time.perf_counter()]
        batch = next(iterator, None)
        if batch is None:
            break
        times.append(time.perf_counter())
        hidden, targets = model.training_pairs(*batch)
        times.append(time.perf_counter())
        loss = softmax_loss(hidden, model.item_weights()[1:], targets - 1)
        times.append(time.perf_counter())
        optimizer.zero_grad()
        loss.backward()
        times.append(time.perf_counter())
        optimizer.step()
        times.append(time.perf_counter())
        for part, seconds in zip(PARTS, np.diff(times), strict=True):
            parts[part] += float(seconds)
    lengths = batches.ends - batches.starts - 1
    return {"parts": parts, "flops": flops(config, lengths, sequences.n_items), "gflops": gemm_gflops()}


def flops(config: RetrieveConfig, lengths: np.ndarray, n_items: int) -> dict[str, float]:
    """Multiplications and additions in an epoch's matrix products, by part; padding needs none."""
    d, positions = config.hidden, int(lengths.sum())
    weights = config.layers * 12 * d * d  # query, key, value, output, and 8 d^2 of the feed-forward layer
    attention = config.layers * 2 * d * int((lengths**2).sum())  # query with key, weights with value; not causal
    return {
        "loss": 3 * 2.0 * positions * n_items * d,  # logits, and both gradients
        "encoder": 3 * 2.0 * (positions * weights + attention),  # forward, and backward twice
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(json.loads(sys.argv[2]))))
    else:
        main()
