"""Compares SASRec here with SASRec in RecBole 1.2.1: same machine, shape and number of threads, in turns.

    python3.11 -m venv <folder> && <folder>/bin/pip install -r benchmarks/recbole/requirements.txt
    SEALR_DATA=<folder with sequences/> python -m benchmarks.speed --recbole-python <folder>/bin/python

Prints Markdown: seconds per epoch, predictions and ranked users per second, peak memory (each side in its own process)
and ratios. Then it prints how far an epoch is from the arithmetic limit, and the time of each part. Both sides train on
every prefix with cross-entropy over the catalogue, with about the same number of predictions per step. Without
``--full``, RecBole runs a share of its batches and its epoch is extrapolated; ours always runs a whole epoch.
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
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.machine import ROOT, child, child_of, gemm_gflops, peak_mb, processor
from sealr.config import load_config
from sealr.data.download import data_dir
from sealr.data.sequences import SequenceError, Sequences
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.statistics import paired_bootstrap
from sealr.pipeline.dryrun import local_tables
from sealr.retrieve.batches import Batches
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.loss import softmax_loss
from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever, device, load, popularity
from sealr.retrieve.train import NextItem, train
from sealr.settings import RetrieveConfig

RECBOLE = ROOT / "benchmarks" / "recbole" / "run.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--recbole-python", type=Path, required=True, help="Python of the environment with RecBole")
    option("--sequences", type=Path, default=data_dir() / "sequences" / "Beauty.txt.gz")
    option("--data", help="reviews of a configuration instead of --sequences, e.g. amazon-musical-instruments")
    option("--rounds", type=int, default=3, help="turns of each side; the report shows medians")
    option("--share", type=float, default=0.2, help="share of the batches of RecBole's epoch to run")
    option("--full", action="store_true", help="run whole epochs of RecBole")
    option("--accuracy", type=int, default=0, help="also train both to early stopping, this many epochs at most")
    option("--start", choices=("random", "cooccurrence"), default="random", help="item embeddings with --accuracy")
    option("--batch-size", type=int, default=2048, help="predictions per step")
    option("--threads", type=int, default=torch.get_num_threads())
    option("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    if arguments.data:
        with tempfile.TemporaryDirectory() as folder:
            compare(arguments, sequences_file(arguments.data, Path(folder)))
    else:
        compare(arguments, arguments.sequences.resolve())


def sequences_file(data: str, folder: Path) -> Path:
    """A configuration's sequences in the format that both sides read: one line per user."""
    made, _ = local_tables(load_config(data).data)
    lines = (" ".join(map(str, [row + 1, *items])) for row, items in enumerate(np.split(made.flat, made.offsets[1:-1])))
    path = folder / "sequences.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def compare(arguments: argparse.Namespace, path: Path) -> None:
    """Runs both sides on one file and prints the report."""
    load_before = os.getloadavg()[0]  # other jobs make both sides' figures unreliable
    sequences = str(path)
    ours = {"sequences": sequences, "predictions": arguments.batch_size}
    theirs = ["--sequences", sequences, "--batch-size", str(arguments.batch_size), "--threads", str(arguments.threads)]
    theirs += ["--full"] if arguments.full else ["--share", str(arguments.share)]
    results: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for turn in range(arguments.rounds):
        how = ["--accuracy", str(arguments.accuracy), "--seed", str(turn)]
        results["theirs"].append(
            child([str(arguments.recbole_python.absolute()), str(RECBOLE), *theirs, *how], arguments.threads)
        )
        task = {"what": "speed", "accuracy": arguments.accuracy, "seed": turn, "start": arguments.start} | ours
        results["ours"].append(child_of("benchmarks.speed", task, arguments.threads))
    profile = child_of("benchmarks.speed", {"what": "profile"} | ours, arguments.threads)
    if arguments.json:
        arguments.json.write_text(json.dumps(results | {"profile": profile}, indent=1))
    print(report(results["ours"], results["theirs"], profile, load_before))


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
        output = train(config, sequences, Path(folder))
        ranks = target_ranks(load(Path(folder)), sequences, "test", exclude_seen=False)
    test = {f"hit@{k}": float(hit_rate(ranks, k).mean()) for k in (5, 10)} | {
        f"ndcg@{k}": float(ndcg(ranks, k).mean()) for k in (5, 10)
    }
    users = [sequences.users[u] for u in sequences.split("test").users]
    return {
        "epochs": int(output.metrics["epochs"]),
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


PARTS = ("data", "encoder forward", "loss with its gradients", "encoder backward", "optimizer")


def flops(config: RetrieveConfig, lengths: np.ndarray, n_items: int) -> dict[str, float]:
    """Multiplications and additions in an epoch's matrix products, by part; padding needs none."""
    d, positions = config.hidden, int(lengths.sum())
    weights = config.layers * 12 * d * d  # query, key, value, output, and 8 d^2 of the feed-forward layer
    attention = config.layers * 2 * d * int((lengths**2).sum())  # query with key, weights with value; not causal
    return {
        "loss": 3 * 2.0 * positions * n_items * d,  # logits, and both gradients
        "encoder": 3 * 2.0 * (positions * weights + attention),  # forward, and backward twice
    }


def report(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], profile: dict[str, Any], load: float) -> str:
    names = {
        "seconds_epoch": "seconds per epoch",
        "predictions_second": "predictions per second",
        "users_second": "users ranked per second",
        "training_peak_mb": "peak MB in training",
        "peak_mb": "peak MB in total",
    }
    lines = [
        f"{len(ours)} turns of each side: median (lowest to highest). {ours[0]['threads']} threads, "
        f"torch {ours[0]['torch']}, {processor()}, load average before the start {load:.1f}.",
        f"Parameters: {ours[0]['parameters']:,} and {theirs[0]['parameters']:,}. Predictions per epoch: "
        f"{ours[0]['predictions']:,} and {theirs[0]['predictions']:,}.",
        "",
        f"| | SEALR | {theirs[0]['system']} | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    for key, name in names.items():
        mine, other = ([result[key] for result in results] for results in (ours, theirs))
        more = key.endswith("_second")
        ratio = median(mine) / median(other) if more else median(other) / median(mine)
        lines.append(f"| {name} | {spread(mine)} | {spread(other)} | {ratio:.1f} |")
    share = theirs[0]["timed_share"]
    if share < 1:
        lines += ["", f"RecBole's epoch is extrapolated from {share:.0%} of its predictions."]
    if "test" in ours[-1]:
        lines += [
            "",
            "| to early stopping | epochs | " + " | ".join(ours[-1]["test"]) + " |",
            "| --- |" + " ---: |" * 5,
        ]
        for results in (ours, theirs):
            values = " | ".join(
                f"{np.mean([result['test'][name] for result in results]):.4f}" for name in ours[-1]["test"]
            )
            lines.append(
                f"| {results[0]['system']} | {', '.join(str(result['epochs']) for result in results)} | {values} |"
            )
        lines += ["", *differences(ours, theirs)]
    work, rate, parts = profile["flops"], profile["gflops"], profile["parts"]
    limit, whole = sum(work.values()) / rate / 1e9, sum(parts.values())
    lines += [
        "",
        f"An epoch's matrix products are {work['loss'] / 1e9:.0f} + {work['encoder'] / 1e9:.0f} GFLOP (loss + "
        f"encoder). At the {rate:.0f} GFLOP/s of a 1024 x 1024 product they take {limit:.1f} s; "
        f"the profiled epoch took {whole:.1f} s, {whole / limit:.1f} times that.",
        "",
        "| part | seconds | share | at the limit |",
        "| --- | ---: | ---: | ---: |",
    ]
    limits = {
        "encoder forward": work["encoder"] / 3,
        "encoder backward": work["encoder"] * 2 / 3,
        "loss with its gradients": work["loss"],
    }
    for part, seconds in parts.items():
        bound = f"{limits[part] / rate / 1e9:.1f}" if part in limits else "-"
        lines.append(f"| {part} | {seconds:.1f} | {seconds / whole:.0%} | {bound} |")
    return "\n".join(lines)


def differences(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """Means over seeds, ours minus theirs, with 95 % intervals over users. Raises KeyError if the users differ."""
    lines = []
    for name, metric in (("HR@10", hit_rate), ("NDCG@10", ndcg)):
        users = list(ours[0]["ranks"])
        sides = [[metric(np.array([r["ranks"][u] for u in users]), 10) for r in results] for results in (ours, theirs)]
        mean, low, high = paired_bootstrap(*(np.mean(side, axis=0) for side in sides))
        lines.append(
            f"{name}, SEALR minus RecBole: {mean:+.4f} ({low:+.4f} to {high:+.4f}), "
            f"{len(ours)} seeds, {len(users):,} users"
        )
    return lines


def spread(values: list[float]) -> str:
    def show(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

    return (
        f"{show(median(values))} ({show(min(values))} to {show(max(values))})" if len(values) > 1 else show(values[0])
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(json.loads(sys.argv[2]))))
    else:
        main()
