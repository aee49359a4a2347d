"""Load test of the server on one machine: throughput, latency, overhead and, on request, a soak and a swap under load.

``python -m benchmarks.serving`` from the root of the repository runs the demo job in a temporary folder, serves its
model and prints Markdown; ``--help`` lists the options.

The load is a closed loop: each client sends its next call over one open connection once it has an answer. The clients
run in a separate process and share the server's cores.
"""

from __future__ import annotations

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
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import mlflow
import numpy as np
import pandas as pd
import torch
import typer
import yaml

from benchmarks.load import KINDS, Calls, run_clients
from benchmarks.server import ROOT, Server, serving
from sealr.data.tables import read_json, write_json
from sealr.rerank.requests import RerankInput
from sealr.retrieve.candidates import pools_for
from sealr.serving.request import read

SMALL = "data.demo_users=120 retrieve.epochs=10 rerank.layers=2 rerank.epochs=2"
NAME = "loadtest"  # registered model, in a registry of its own
LOAD_HEAD = """\
| clients | requests | batch | calls | failed | calls/s | p50 ms | p99 ms |
|---:|---|---:|---:|---:|---:|---:|---:|"""
LOAD_ROW = "| {clients} | {kind} | {batch} | {calls} | {failed} | {per_second:.1f} | {p50_ms:.0f} | {p99_ms:.0f} |"
OVERHEAD_HEAD = """\
| requests | forward passes ms | recommender ms | MLflow model ms | HTTP ms | HTTP / forward | recommender, batched ms |
|---|---:|---:|---:|---:|---:|---:|"""
OVERHEAD_ROW = (
    "| {kind} | {forward:.2f} | {recommender:.2f} | {mlflow:.2f} | {http:.2f} | {ratio:.2f} | {batched:.2f} |"
)
SOAK = """\
Soak: {seconds:.0f} s, {clients} clients, {calls} calls, {failed} failed, p99 {p99_ms:.0f} ms.
Memory {first_mb:.0f} MB at first, {half_mb:.0f} at half time, {last_mb:.0f} at last, {most_mb:.0f} at most; slope of
the second half {slope_mb_per_min:+.2f} MB a minute."""
SWAP = "Swap: {seconds:.0f} s, {clients} clients, {calls} calls, **{failed} failed**, p99 {p99_ms:.0f} ms."


def overhead(folder: Path, server: Server, calls: Calls, queries: int, seed: int) -> list[dict[str, Any]]:
    """Medians in ms of the same single calls in four ways, in turn, so that other load affects all ways equally.

    forward: only the networks, in this process: label the texts, score the catalogue, ask the LLM if it takes part.
    recommender: `Recommender.predict`. mlflow: the MLflow model. http: one client of the server.
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
            {
                "kind": kind,
                **dict(zip(("forward", "recommender", "mlflow", "http"), medians, strict=True)),
                "batched": batched,
            }
        )
    return rows


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _post(port: int, body: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)  # a new one: the server closes idle ones
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"error: the server answered {answer.status}: {content[:500]!r}")


def _forward(recommender: Any, row: dict[str, Any]) -> Callable[[], object]:
    """The forward passes of one request and nothing else."""
    texts = [event["text"] for event in row.get("history", [])]
    query = recommender.resolve(read(pd.DataFrame([row]), {})[0])[0]
    felt, size = [query.feelings], recommender.config.rerank.n_reranked
    pool, _ = next(pools_for(recommender.retriever, [query.history], size, True, felt))
    request = RerankInput(query.history, query.feelings, pool.tolist())

    def forward() -> None:
        if texts:
            recommender.labeller.probabilities(texts)
        recommender.retriever.score([query.history], felt)
        if recommender.ranker is not None:
            recommender.ranker.score([request])

    return forward


def soak(server: Server, calls: Calls, clients: int, seconds: float, seed: int) -> dict[str, Any]:
    """Mixed load, with the server's memory every second. The slope is that of the second half, when caches are full."""
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
    figures = load.figures() | {"seconds": load.seconds, "errors": load.failed[:10], "slope_mb_per_min": slope}
    figures |= {"first_mb": memory[0], "half_mb": memory[late][0], "last_mb": memory[-1], "most_mb": memory.max()}
    return figures | {"minutes_mb": [memory[times >= start][0] for start in np.arange(0, times[-1], 60)]}


def swap(server: Server, calls: Calls, clients: int, seconds: float, seed: int) -> dict[str, Any]:
    """Mixed load; the alias moves to version 2 after a third of the time, and back after two thirds."""
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
    figures = load.figures() | {"seconds": load.seconds, "errors": load.failed[:10]}
    return figures | {"answered_by": dict(load.versions), "moves": seen}


def ready(server: Server) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/ready")
    return dict(json.loads(connection.getresponse().read()))


def train(folder: Path) -> str:
    """Runs the demo job with a small budget in its own folder and returns the model's address."""
    store = f"sqlite:///{folder}/job.db"
    state = {"SEALR_HOME": str(folder / "state"), "PREFECT_HOME": str(folder / "prefect"), "MLFLOW_TRACKING_URI": store}
    command = [sys.executable, "-m", "sealr", "run", "--data", "demo", "--set", SMALL]
    with open(folder / "job.log", "w") as log:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)} | state, stdout=log, stderr=log
        )
    if done.returncode:
        raise SystemExit(f"error: the demo job failed:\n{(folder / 'job.log').read_text()[-3000:]}")
    mlflow.set_tracking_uri(store)
    return "models:/sealr@champion"


def copies(uri: str, folder: Path, weight: float | None) -> tuple[Path, Path]:
    """Downloads the model, optionally changes its fusion weight, and registers it twice in a registry of its own.

    Returns the folders of the MLflow model and of the packed model inside it.
    """
    model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder / "model")))
    about = yaml.safe_load((model / "MLmodel").read_text())
    packed = model / about["flavors"]["python_function"]["artifacts"]["sealr"]["path"]
    if weight is not None:
        values = read_json(packed / "model.json")
        values["weights"]["llm"] = weight
        write_json(values, packed / "model.json")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/registry.db")
    registry = mlflow.MlflowClient()
    registry.create_registered_model(NAME)
    for _ in range(2):
        registry.create_model_version(NAME, source=model.as_uri())
    registry.set_registered_model_alias(NAME, "champion", "1")
    return model, packed


def report(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [f"{figures['server']}, LLM {'takes part' if figures['llm'] else 'not used'} ({figures['setting']})", ""]
    lines += [LOAD_HEAD, *(LOAD_ROW.format(**cell) for cell in figures["load"])] if figures["load"] else []
    rows = [OVERHEAD_ROW.format(ratio=row["http"] / row["forward"], **row) for row in figures["overhead"]]
    lines += ["", OVERHEAD_HEAD, *rows] if rows else []
    if soaked := figures.get("soak"):
        minutes = ", ".join(f"{m:.0f}" for m in soaked["minutes_mb"])
        lines += ["", SOAK.format(**soaked), f"At every full minute: {minutes}."]
    if swapped := figures.get("swap"):
        moves = ", ".join(
            f"to version {m['to']} {'after' if m['served'] == m['to'] else 'NOT within'} {m['seconds']:.1f} s"
            for m in swapped["moves"]
        )
        lines += ["", SWAP.format(**swapped), f"Answered by version: {swapped['answered_by']}; {moves}."]
    return "\n".join(lines)


def main(
    model_uri: Annotated[str, typer.Option(help="An existing model, such as models:/sealr@champion.")] = "",
    weight: Annotated[float | None, typer.Option(help="Fusion weight to serve with; 0 leaves the LLM out.")] = None,
    server: Annotated[str, typer.Option(help="sealr: `sealr serve`; mlflow: `mlflow models serve`.")] = "sealr",
    clients: Annotated[str, typer.Option(help="Numbers of clients; empty: no load table.")] = "1,8,32",
    seconds: Annotated[float, typer.Option(help="Of each cell of the table.")] = 20,
    queries: Annotated[int, typer.Option(help="Calls on which the server's overhead is measured.")] = 50,
    texts: Annotated[int, typer.Option(help="Review texts of a new user.")] = 5,
    workers: Annotated[int, typer.Option(help="Passes at a time in our server; 0: its default.")] = 0,
    batch: Annotated[str, typer.Option(help="Calls in one pass, at most: a server for each, loaded in turn.")] = "1,32",
    soak_seconds: Annotated[float, typer.Option("--soak", help="Seconds of the soak test; 0: none.")] = 0,
    swap_seconds: Annotated[float, typer.Option("--swap", help="Seconds of the swap under load; 0: none.")] = 0,
    seed: int = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
) -> None:
    """Load test of the server on one machine."""
    arguments = {name: str(value) for name, value in locals().items()}
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        folder, ours = Path(temporary), server == "sealr"
        model, packed = copies(model_uri or train(folder), folder, weight)
        calls = Calls(packed, texts)
        figures: dict[str, Any] = {
            "server": "sealr serve" if ours else "mlflow models serve",
            "llm": bool(read_json(packed / "model.json")["weights"]["llm"]),
            "setting": f"{os.cpu_count()} cores, {torch.get_num_threads()} torch thread(s), {texts} texts a new user",
            "arguments": arguments,
            "overhead": [],
            "load": [],
        }
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/registry.db"}
        batches = batch.split(",") if ours else ["1"]
        with ExitStack() as running:
            servers = {}
            for most in batches:
                options = ("--poll", "1", "--workers", str(workers), "--batch", most) if ours else ()
                log, name = folder / f"server-{most}.log", f"models:/{NAME}@champion"
                servers[most] = running.enter_context(serving(name, log, server, options, store))
            process = servers[batches[-1]]  # of all other measurements
            if queries:
                figures["overhead"] = overhead(model, process, calls, queries, seed)
            for number in [int(c) for c in clients.split(",") if c]:
                for kind in KINDS:
                    for most, loaded in servers.items():
                        run_clients(loaded, calls, number, kind, min(2.0, seconds / 4), seed + 1)  # warm-up
                        load = run_clients(loaded, calls, number, kind, seconds, seed)
                        figures["load"].append(load.figures() | {"batch": most, "errors": load.failed[:3]})
            if soak_seconds:
                figures["soak"] = soak(process, calls, 8, soak_seconds, seed)
            if swap_seconds and ours:
                figures["swap"] = swap(process, calls, 8, swap_seconds, seed)
    print(report(figures))
    if json_file:
        figures = json.loads(json.dumps(figures, default=float), parse_constant=lambda _: None)  # JSON has no NaN
        write_json(figures, json_file)


if __name__ == "__main__":
    typer.run(main)
