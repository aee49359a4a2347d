"""Load test of the server on one machine: throughput, latency, what the server adds to the model, a soak, a swap under load.

``python -m benchmarks.serving`` from the root of the repository: runs the demo job in a temporary folder (as .ci/run does), serves
its model and prints Markdown. ``--model-uri`` takes a model that is there already, ``--weight`` makes the LLM take part even
where validation found no use for it, ``--soak SECONDS`` and ``--swap`` add their sections, ``--json FILE`` keeps all figures.

Closed loop: each client sends its next call when it has its answer, over a connection that is kept open. Clients run in a
process of their own on the same cores as the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
import yaml

from benchmarks.load import KINDS, Calls, run_clients
from benchmarks.server import ROOT, Server, serving
from sealr.data.tables import read_json, write_json
from sealr.serving.request import read
from sealr.rerank.generative.prompts import RerankInput
from sealr.retrieve.candidates import pools_for

SMALL = "data.demo_users=120 retrieve.epochs=10 rerank.layers=2 rerank.epochs=2"
NAME = "loadtest"  # registered model, in a registry of its own


def overhead(folder: Path, server: Server, calls: Calls, queries: int, seed: int) -> list[dict[str, Any]]:
    """The same single calls in four ways, in turn, so that other work on the machine hits all alike; medians in ms.

    forward: the networks alone, in this process: label the texts, score the catalogue, rank with the LLM where it takes part,
    on inputs looked up beforehand. composite: `Recommender.predict`. mlflow: the MLflow model. http: one client of the server.
    """
    model = mlflow.pyfunc.load_model(str(folder))
    recommender = model.unwrap_python_model().recommender
    rows = []
    for kind in KINDS[:2]:
        generator, times, frames = random.Random(seed), [], []
        for _ in range(queries + 3):
            call = calls.draw(kind, generator)
            frame, body = pd.DataFrame(call["dataframe_records"]), json.dumps(call)
            ways = (
                _forward(recommender, call["dataframe_records"][0]),
                lambda f=frame: recommender.predict(f, {"top_k": 10}),
                lambda f=frame: model.predict(f, params={"top_k": 10}),
                lambda b=body: _post(server.port, b),
            )
            times.append([_seconds(way) * 1000 for way in ways])
            frames.append(frame)
        medians = np.median(times[3:], axis=0).tolist()  # the first ones warm up
        whole = pd.concat(frames, ignore_index=True)
        batched = _seconds(lambda w=whole: recommender.predict(w, {"top_k": 10})) * 1000 / len(frames)
        rows.append(
            {"kind": kind, **dict(zip(("forward", "composite", "mlflow", "http"), medians, strict=True)), "batched": batched}
        )
    return rows


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _post(port: int, body: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)  # a new one: the server closes those that are idle for long
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"error: the server answered {answer.status}: {content[:500]!r}")


def _forward(recommender: Any, row: dict[str, Any]) -> Callable[[], object]:
    """The forward passes of one request and nothing else."""
    texts = [event["text"] for event in row.get("history", [])]
    query = recommender._queries(read(pd.DataFrame([row]), {})[0])[0]
    felt = [query.feelings]
    pool, _ = next(pools_for(recommender.retriever, [query.history], recommender.config.rerank.n_reranked, True, felt))
    request = RerankInput(query.history, query.sentiments, pool.tolist(), expected=query.feelings[:, 1].tolist())

    def forward() -> None:
        if texts:
            recommender.labeller.probabilities(texts)
        recommender.retriever.score([query.history], felt)
        if recommender.ranker is not None:
            recommender.ranker.score([request])

    return forward


def soak(server: Server, calls: Calls, clients: int, seconds: float, seed: int) -> dict[str, Any]:
    """Mixed load with the server's memory every second, reported every minute. The slope is that of the second half, after caches have filled."""
    samples: list[tuple[float, float]] = []
    stop, started = threading.Event(), time.monotonic()

    def sample() -> None:
        while not stop.wait(1.0):
            samples.append((time.monotonic() - started, server.megabytes()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    load = run_clients(server, calls, clients, "mixed", seconds, seed)
    stop.set()
    sampler.join()
    times, memory = np.array(samples).T
    late = times >= times[-1] / 2
    slope = float(np.polyfit(times[late] / 60, memory[late], 1)[0])
    figures = {
        "first_mb": memory[0],
        "half_mb": memory[late][0],
        "last_mb": memory[-1],
        "most_mb": memory.max(),
        "slope_mb_per_min": slope,
    }
    minutes = [float(memory[times >= start][0]) for start in np.arange(0, times[-1], 60)]
    return load.figures() | {
        "seconds": load.seconds,
        **{k: float(v) for k, v in figures.items()},
        "minutes_mb": minutes,
        "errors": load.failed[:10],
    }


def swap(server: Server, calls: Calls, clients: int, seconds: float, seed: int) -> dict[str, Any]:
    """The alias moves to version 2 after a third of the time and back after two thirds, under mixed load."""
    registry, began, seen = mlflow.MlflowClient(), time.monotonic(), []

    def move() -> None:
        for share, version in ((1 / 3, "2"), (2 / 3, "1")):
            time.sleep(max(0.0, began + share * seconds - time.monotonic()))
            registry.set_registered_model_alias(NAME, "champion", version)
            moved = time.monotonic()
            while ready(server)["version"] != version and time.monotonic() - began < seconds:
                time.sleep(0.05)
            seen.append({"to": version, "seconds": time.monotonic() - moved, "served": ready(server)["version"]})

    mover = threading.Thread(target=move)
    mover.start()
    load = run_clients(server, calls, clients, "mixed", seconds, seed)
    mover.join()
    return load.figures() | {
        "seconds": load.seconds,
        "answered_by": dict(load.versions),
        "moves": seen,
        "errors": load.failed[:10],
    }


def ready(server: Server) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/ready")
    return dict(json.loads(connection.getresponse().read()))


def train(folder: Path) -> str:
    """The demo job with a small budget, in a folder of its own. Returns the address of the model's folder."""
    store = f"sqlite:///{folder}/job.db"
    state = {"SEALR_HOME": str(folder / "state"), "PREFECT_HOME": str(folder / "prefect"), "MLFLOW_TRACKING_URI": store}
    command = [sys.executable, "-m", "sealr.flows.finetune", "--data", "demo", "--set", SMALL]
    with open(folder / "job.log", "w") as log:
        done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)} | state, stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit(f"error: the demo job failed:\n{(folder / 'job.log').read_text()[-3000:]}")
    mlflow.set_tracking_uri(store)
    return "models:/sealr@champion"


def copies(uri: str, folder: Path, weight: float | None) -> tuple[Path, Path]:
    """Downloads the model, changes its fusion weight where asked to, and registers it twice in a registry of its own.

    Returns the folders of the MLflow model and of the packed one in it.
    """
    model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder / "model")))
    about = yaml.safe_load((model / "MLmodel").read_text())
    packed = model / about["flavors"]["python_function"]["artifacts"]["sealr"]["path"]
    if weight is not None:
        write_json(read_json(packed / "model.json") | {"fusion_weight": weight}, packed / "model.json")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/registry.db")
    registry = mlflow.MlflowClient()
    registry.create_registered_model(NAME)
    for _ in range(2):
        registry.create_model_version(NAME, source=model.as_uri())
    registry.set_registered_model_alias(NAME, "champion", "1")
    return model, packed


def report(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [f"{figures['server']} server, LLM {'takes part' if figures['llm'] else 'not used'} ({figures['setting']})", ""]
    if cells := figures["load"]:
        lines += ["| clients | requests | calls | failed | calls/s | p50 ms | p99 ms |", "|---:|---|---:|---:|---:|---:|---:|"]
        lines += [
            f"| {c['clients']} | {c['kind']} | {c['calls']} | {c['failed']} | {c['per_second']:.1f} | {c['p50_ms']:.0f} | {c['p99_ms']:.0f} |"
            for c in cells
        ]
    if figures["overhead"]:
        head = (
            "| requests | forward passes ms | composite ms | MLflow model ms | HTTP ms | HTTP / forward | composite, batched ms |"
        )
        lines += ["", head, "|---|---:|---:|---:|---:|---:|---:|"]
    for row in figures["overhead"]:
        cells = [row[k] for k in ("forward", "composite", "mlflow", "http")] + [row["http"] / row["forward"], row["batched"]]
        lines.append(f"| {row['kind']} | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
    if s := figures.get("soak"):
        lines += [
            "",
            f"Soak: {s['seconds']:.0f} s, {s['clients']} clients, {s['calls']} calls, {s['failed']} failed, p99 {s['p99_ms']:.0f} ms. Memory "
            f"{s['first_mb']:.0f} MB at first, {s['half_mb']:.0f} at half time, {s['last_mb']:.0f} at last, {s['most_mb']:.0f} at most; "
            f"slope of the second half {s['slope_mb_per_min']:+.2f} MB a minute. At every full minute: "
            f"{', '.join(f'{m:.0f}' for m in s['minutes_mb'])}.",
        ]
    if s := figures.get("swap"):
        moves = ", ".join(
            f"to version {m['to']} {'after' if m['served'] == m['to'] else 'NOT within'} {m['seconds']:.1f} s" for m in s["moves"]
        )
        lines += [
            "",
            f"Swap: {s['seconds']:.0f} s, {s['clients']} clients, {s['calls']} calls, **{s['failed']} failed**, p99 {s['p99_ms']:.0f} ms; "
            f"answered by version: {s['answered_by']}; {moves}.",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="Load test of the server on one machine.")
    parser.add_argument("--model-uri", help="a model that is there already, such as models:/sealr@champion")
    parser.add_argument("--weight", type=float, help="fusion weight to serve with; 0 leaves the LLM out")
    parser.add_argument("--server", choices=["sealr", "mlflow"], default="sealr", help="ours, or `mlflow models serve`")
    parser.add_argument("--clients", default="1,8,32", help="numbers of clients; empty: no load table")
    parser.add_argument("--seconds", type=float, default=20, help="of each cell of the table")
    parser.add_argument("--queries", type=int, default=50, help="calls that the server's overhead is measured on")
    parser.add_argument("--texts", type=int, default=5, help="review texts of a new user")
    parser.add_argument("--workers", type=int, default=0, help="calls our server answers at a time; 0: its default")
    parser.add_argument("--soak", type=float, default=0, help="seconds of the soak test")
    parser.add_argument("--swap", action="store_true", help="move the alias to another version and back under load")
    parser.add_argument("--swap-seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(arguments, Path(temporary))
    print(report(figures))
    if arguments.json:
        write_json(json.loads(json.dumps(figures), parse_constant=lambda _: None), arguments.json)  # JSON has no NaN


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model, packed = copies(arguments.model_uri or train(folder), folder, arguments.weight)
    calls, ours = Calls(packed, arguments.texts), arguments.server == "sealr"
    setting = f"{os.cpu_count()} cores, {torch.get_num_threads()} torch thread(s), {arguments.texts} texts a new user"
    figures: dict[str, Any] = {
        "server": "sealr.serving.server" if ours else "mlflow models serve",
        "llm": bool(read_json(packed / "model.json")["fusion_weight"]),
        "setting": setting,
        "arguments": {k: str(v) for k, v in vars(arguments).items()},
        "overhead": [],
        "load": [],
    }
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/registry.db"}
    options = ("--poll", "1", "--workers", str(arguments.workers)) if ours else ()
    with serving(f"models:/{NAME}@champion", folder / "server.log", arguments.server, options, store) as server:
        if arguments.queries:
            figures["overhead"] = overhead(model, server, calls, arguments.queries, arguments.seed)
        for clients in [int(c) for c in arguments.clients.split(",") if c]:
            for kind in KINDS:
                run_clients(server, calls, clients, kind, min(2.0, arguments.seconds / 4), arguments.seed + 1)  # warm up
                load = run_clients(server, calls, clients, kind, arguments.seconds, arguments.seed)
                figures["load"].append(load.figures() | {"errors": load.failed[:3]})
        if arguments.soak:
            figures["soak"] = soak(server, calls, 8, arguments.soak, arguments.seed)
        if arguments.swap and ours:
            figures["swap"] = swap(server, calls, 8, arguments.swap_seconds, arguments.seed)
    return figures


if __name__ == "__main__":
    main()
