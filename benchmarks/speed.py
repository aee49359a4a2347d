"""SASRec here against SASRec in RecBole 1.2.1: one machine, one run, the same shape, the same threads, turn by turn.

    python3.11 -m venv <folder> && <folder>/bin/pip install -r benchmarks/recbole/requirements.txt
    SEALR_DATA=<folder with sequences/> python -m benchmarks.speed --recbole-python <folder>/bin/python

Prints Markdown: seconds an epoch, predictions and ranked users a second, peak memory (each side in a process of its own),
the ratio; then how far an epoch is from the arithmetic limit, and where the time goes. Both sides learn from every
prefix by cross-entropy over the catalogue, in steps of about as many predictions; RecBole runs a share of its batches
unless ``--full``, and its epoch is extrapolated from that. Ours is always whole.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from sealr.flows.dryrun import local_tables
from sealr.config import load_config
from sealr.data.download import data_dir
from sealr.data.sequences import Sequences, read_sequences
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.statistics import paired_bootstrap
from sealr.retrieve.batches import Batches
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.loss import softmax_loss
from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever, device, load, popularity
from sealr.retrieve.train import Average, _train_epoch, train
from sealr.settings import RetrieveConfig

ROOT = Path(__file__).resolve().parent.parent
RECBOLE = ROOT / "benchmarks" / "recbole" / "run.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recbole-python", type=Path, required=True, help="Python of the environment that has RecBole")
    parser.add_argument("--sequences", type=Path, default=data_dir() / "sequences" / "Beauty.txt.gz")
    parser.add_argument("--data", help="the reviews of a configuration in place of --sequences, such as amazon-musical-instruments")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side; medians are shown")
    parser.add_argument("--share", type=float, default=0.2, help="share of the batches of RecBole's epoch that is run")
    parser.add_argument("--full", action="store_true", help="run RecBole's epochs whole")
    parser.add_argument(
        "--accuracy", type=int, default=0, metavar="EPOCHS", help="also train both to early stopping, at most so long, a seed a turn"
    )
    parser.add_argument(
        "--start", choices=("random", "cooccurrence"), default="random", help="of SEALR's item embeddings with --accuracy"
    )
    parser.add_argument("--batch-size", type=int, default=2048, help="predictions a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    if arguments.data:
        with tempfile.TemporaryDirectory() as folder:
            compare(arguments, sequences_file(arguments.data, Path(folder)))
    else:
        compare(arguments, arguments.sequences.resolve())


def sequences_file(data: str, folder: Path) -> Path:
    """The sequences of a configuration as both sides read them: a line a user."""
    made, _ = local_tables(load_config(data).data)
    if made is None:
        raise SystemExit(f"the files of {data} are not here: put them into the folder that SEALR_DATA names")
    lines = (" ".join(map(str, [row + 1, *items])) for row, items in enumerate(np.split(made.flat, made.offsets[1:-1])))
    path = folder / "sequences.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def compare(arguments: argparse.Namespace, path: Path) -> None:
    """Both sides on one file, and the page."""
    load_before = os.getloadavg()[0]  # other jobs make the figures of both sides unreliable
    sequences = str(path)
    ours = {"sequences": sequences, "predictions": arguments.batch_size}
    theirs = ["--sequences", sequences, "--batch-size", str(arguments.batch_size), "--threads", str(arguments.threads)]
    theirs += ["--full"] if arguments.full else ["--share", str(arguments.share)]
    results: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for turn in range(arguments.rounds):
        how = ["--accuracy", str(arguments.accuracy), "--seed", str(turn)]
        results["theirs"].append(child([str(arguments.recbole_python.absolute()), str(RECBOLE), *theirs, *how], arguments.threads))
        task = {"what": "speed", "accuracy": arguments.accuracy, "seed": turn, "start": arguments.start} | ours
        results["ours"].append(child_of("benchmarks.speed", task, arguments.threads))
    profile = child_of("benchmarks.speed", {"what": "profile"} | ours, arguments.threads)
    if arguments.json:
        arguments.json.write_text(json.dumps(results | {"profile": profile}, indent=1))
    print(report(results["ours"], results["theirs"], profile, load_before))


def child_of(module: str, task: dict[str, Any], threads: int) -> dict[str, Any]:
    """What ``worker(task)`` of one of these benchmarks returns in a process of its own, so that its memory is its own."""
    return child([sys.executable, "-m", module, "--worker", json.dumps(task)], threads)


def child(command: list[str], threads: int) -> dict[str, Any]:
    """The JSON object a command prints last. Raises CalledProcessError."""
    shown = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(shown.stdout.splitlines()[-1])


def peak_mb() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def worker(task: dict[str, Any]) -> dict[str, Any]:
    sequences = read_sequences(Path(task["sequences"]))
    # A batch here is rows: so many that a step has as many predictions as a step of RecBole
    rows = Batches(sequences, RetrieveConfig())
    size = round(task["predictions"] * len(rows.starts) / rows.positions)
    if task["what"] == "profile":
        return profile(sequences, RetrieveConfig(batch_size=size))
    return speed(sequences, RetrieveConfig(batch_size=size, seed=task["seed"], item_init=task["start"]), task["accuracy"])


def speed(sequences: Sequences, config: RetrieveConfig, accuracy: int) -> dict[str, Any]:
    """One epoch, then the rank of every user's test item among all items."""
    torch.manual_seed(config.seed)
    model = build(config, sequences.n_items).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    batches = Batches(sequences, config)
    started = time.perf_counter()
    _train_epoch(model, optimizer, batches, Average(model, 0.0))
    seconds = time.perf_counter() - started
    training_peak = peak_mb()
    retriever = Retriever(config, sequences.items, model.eval(), popularity(sequences))
    started = time.perf_counter()
    ranks = target_ranks(retriever, sequences, "test", exclude_seen=False)  # as RecBole does
    scoring = time.perf_counter() - started
    result = {
        "system": "SEALR",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": config.batch_size,
        "predictions": batches.positions,
        "timed_share": 1.0,
        "seconds_epoch": seconds,
        "predictions_second": batches.positions / seconds,
        "users_second": len(ranks) / scoring,
        "training_peak_mb": training_peak,
        "peak_mb": peak_mb(),
    }
    return result | (accurate(sequences, config, accuracy) if accuracy else {})


def accurate(sequences: Sequences, config: RetrieveConfig, epochs: int) -> dict[str, Any]:
    """Test metrics after training to early stopping, by RecBole's rules: validation after each epoch, ten without a better one."""
    config = replace(config, epochs=epochs, eval_every=1, patience=10, exclude_seen=False)
    with tempfile.TemporaryDirectory() as folder:
        output = train(config, sequences, Path(folder))
        ranks = target_ranks(load(Path(folder)), sequences, "test", exclude_seen=False)
    test = {f"hit@{k}": float(hit_rate(ranks, k).mean()) for k in (5, 10)} | {
        f"ndcg@{k}": float(ndcg(ranks, k).mean()) for k in (5, 10)
    }
    users = [sequences.users[u] for u in sequences.split("test").users]
    return {"epochs": int(output.metrics["epochs"]), "test": test, "ranks": dict(zip(users, ranks.tolist(), strict=True))}


def profile(sequences: Sequences, config: RetrieveConfig) -> dict[str, Any]:
    """Seconds of an epoch by part (on the CPU), the arithmetic in it, and how fast this machine multiplies matrices."""
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
        hidden, targets = model.pairs(*batch)
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
    """Multiplications and additions of an epoch's matrix products, by part; rows of these lengths, nothing on padding."""
    d, positions = config.hidden, int(lengths.sum())
    weights = config.layers * 12 * d * d  # query, key, value, output, and 8 d^2 of the feed-forward layer
    attention = config.layers * 2 * d * int((lengths**2).sum())  # query with key, weights with value; causality not used
    return {
        "loss": 3 * 2.0 * positions * n_items * d,  # logits, and both gradients
        "encoder": 3 * 2.0 * (positions * weights + attention),  # forward, and backward twice
    }


def gemm_gflops(size: int = 1024, repeats: int = 20) -> float:
    """10^9 operations a second of a square float32 matrix product, the best of several."""
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9


def report(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], profile: dict[str, Any], load: float) -> str:
    names = {
        "seconds_epoch": "seconds an epoch",
        "predictions_second": "predictions a second",
        "users_second": "users ranked a second",
        "training_peak_mb": "peak MB in training",
        "peak_mb": "peak MB in all",
    }
    lines = [
        f"{len(ours)} turns of each side: median (lowest to highest). {ours[0]['threads']} threads, torch {ours[0]['torch']}, "
        f"{processor()}, load average before the start {load:.1f}.",
        f"Parameters: {ours[0]['parameters']:,} and {theirs[0]['parameters']:,}. Predictions an epoch: "
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
        lines += ["", "| to early stopping | epochs | " + " | ".join(ours[-1]["test"]) + " |", "| --- |" + " ---: |" * 5]
        for results in (ours, theirs):
            values = " | ".join(f"{np.mean([result['test'][name] for result in results]):.4f}" for name in ours[-1]["test"])
            lines.append(f"| {results[0]['system']} | {', '.join(str(result['epochs']) for result in results)} | {values} |")
        lines += ["", *differences(ours, theirs)]
    work, rate, parts = profile["flops"], profile["gflops"], profile["parts"]
    limit, whole = sum(work.values()) / rate / 1e9, sum(parts.values())
    lines += [
        "",
        f"An epoch's matrix products are {work['loss'] / 1e9:.0f} + {work['encoder'] / 1e9:.0f} GFLOP (loss + encoder). At the "
        f"{rate:.0f} GFLOP/s of a 1024 x 1024 product that is {limit:.1f} s; the profiled epoch took {whole:.1f} s, {whole / limit:.1f} times that.",
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
    """Means over the seeds, ours minus theirs, with 95 % intervals over users. Raises KeyError where they ranked other users."""
    lines = []
    for name, metric in (("HR@10", hit_rate), ("NDCG@10", ndcg)):
        users = list(ours[0]["ranks"])
        sides = [[metric(np.array([r["ranks"][u] for u in users]), 10) for r in results] for results in (ours, theirs)]
        mean, low, high = paired_bootstrap(*(np.mean(side, axis=0) for side in sides))
        lines.append(f"{name}, SEALR minus RecBole: {mean:+.4f} ({low:+.4f} to {high:+.4f}), {len(ours)} seeds, {len(users):,} users")
    return lines


def spread(values: list[float]) -> str:
    def show(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

    return f"{show(median(values))} ({show(min(values))} to {show(max(values))})" if len(values) > 1 else show(values[0])


def processor() -> str:
    """What the machine calls itself."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{os.cpu_count()} cores of {names[0]}" if names else f"{os.cpu_count()} cores"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(json.loads(sys.argv[2]))))
    else:
        main()
