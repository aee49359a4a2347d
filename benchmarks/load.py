"""The clients of the load test: seeded random calls, and threads that send one call after another."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.server import Server
from sealr.data.sources.demo_texts import grammar
from sealr.data.tables import read_json

KINDS = ("known", "new", "mixed")
Call = dict[str, Any]


@dataclass
class Load:
    """What the clients measured."""

    clients: int
    kind: str
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # s, of answered calls
    ends: list[float] = field(default_factory=list)  # s since the start, aligned with latencies
    versions: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        p50, p99 = np.percentile(self.latencies, [50, 99]) * 1000 if self.latencies else (np.nan, np.nan)
        rate = len(self.latencies) / self.seconds
        counts = {"calls": len(self.latencies), "failed": len(self.failed)}
        return {"clients": self.clients, "kind": self.kind, **counts, "per_second": rate, "p50_ms": p50, "p99_ms": p99}


class Calls:
    """Seeded random calls with one request each: known users, and new users whose texts must be labelled."""

    def __init__(self, packed: Path, texts: int) -> None:
        self.users = list(pd.read_parquet(packed / "histories.parquet")["user"])
        self.items = read_json(packed / "retriever" / "items.json")
        self.texts = texts

    def draw(self, kind: str, generator: random.Random) -> Call:
        kind = generator.choice(KINDS[:2]) if kind == "mixed" else kind
        if kind == "known":
            row: dict[str, Any] = {"user": generator.choice(self.users)}
        else:
            row = {
                "history": [
                    {"item": item, "text": text(generator)} for item in generator.sample(self.items, self.texts)
                ]
            }
        return {"dataframe_records": [row], "params": {"top_k": 10}}


def text(generator: random.Random) -> str:
    """A review of 20 to 40 words that rarely repeats."""
    fill = {
        slot: generator.choice(("cream", "soap", "brush", "oil", "balm"))
        for slot in ("thing", "part", "area", "place", "size")
    }
    fill |= {
        "when": generator.choice(("daily", "at night")),
        "who": "a friend",
        "span": f"{generator.randint(2, 90)} days",
    }
    feelings = grammar()["feelings"]
    return " ".join(
        generator.choice(feelings[generator.choice(list(feelings))]).format_map(Slots(fill)) for _ in range(2)
    )


class Slots(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return key


def run_clients(server: Server, calls: Calls, clients: int, kind: str, seconds: float, seed: int) -> Load:
    """Load from ``clients`` threads. Calls that started within ``seconds`` are completed and counted."""
    load, lock = Load(clients, kind), threading.Lock()
    started = time.monotonic()

    def client(number: int) -> None:
        generator = random.Random(seed * 1000 + number)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        while time.monotonic() - started < seconds:
            body, began = json.dumps(calls.draw(kind, generator)), time.monotonic()
            try:
                connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content, problem = answer.read(), ""
                if answer.status != 200 or len(json.loads(content)["predictions"]) != 1:
                    problem = f"{answer.status} {content[:200]!r}"
                version = answer.headers.get("X-Model-Version", "")
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
                connection.close()
            now = time.monotonic()
            with lock:
                if problem:
                    load.failed.append(problem)
                else:
                    load.latencies.append(now - began)
                    load.ends.append(now - started)
                    load.versions[version] += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.monotonic() - started
    return load
