"""Sends hostile calls to a real server with a toy model and counts the answers.

``python -m benchmarks.fuzz --cases 10000`` from the root of the repository. The exit status is 1 if an answer was
neither valid nor 4xx with a sentence, or if the server died.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated

import hypothesis
import requests
import typer
from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.server import Server, answers, serving
from tests import toys
from tests.serving import hostile
from tests.serving.toy_model import toy_parts, toy_pyfunc


class Summary:
    """Status codes and times by kind of call."""

    def __init__(self) -> None:
        self.status: dict[str, Counter[str]] = defaultdict(Counter)
        self.slowest: dict[str, float] = defaultdict(float)
        self.wrong: list[str] = []

    def add(self, kind: str, status: str, seconds: float, why: str) -> None:
        self.status[kind][status] += 1
        self.slowest[kind] = max(self.slowest[kind], seconds)
        if why:
            self.wrong.append(f"{kind}: {why}")

    def table(self) -> str:
        codes = sorted({code for counts in self.status.values() for code in counts})
        lines = [f"| kind | cases | {' | '.join(codes)} | slowest, s |", "|---|---:" + "|---:" * (len(codes) + 1) + "|"]
        for kind, counts in self.status.items():
            cells = " | ".join(str(counts[c] or "") for c in codes)
            lines.append(f"| {kind} | {sum(counts.values())} | {cells} | {self.slowest[kind]:.2f} |")
        total = sum(self.status.values(), Counter())
        cells = " | ".join(str(total[c]) for c in codes)
        return "\n".join([*lines, f"| all | {sum(total.values())} | {cells} | {max(self.slowest.values()):.2f} |"])


def send(
    session: requests.Session, server: Server, call: hostile.Call, summary: Summary, timeout: float, kind: str = ""
) -> None:
    """Sends one call and counts its answer as ``kind``, or as the call's own kind."""
    headers = {} if call.content_type is None else {"Content-Type": call.content_type}
    started = time.monotonic()
    try:
        answer = session.post(f"{server.url}/invocations", data=call.body, headers=headers, timeout=timeout)
        status, why = (
            str(answer.status_code),
            hostile.wrong(answer.status_code, answer.headers["Content-Type"], answer.content),
        )
        if answer.status_code >= 500:
            session.close()  # MLflow's server closes the connection then; the next call needs a new one
    except requests.RequestException as error:
        status, why = "none", f"no answer: {type(error).__name__}"
    summary.add(kind or call.kind, status, time.monotonic() - started, why and f"{call.kind[:60]}: {why}")


def main(
    cases: Annotated[int, typer.Option(help="Calls that hypothesis generates; the giants come on top.")] = 10_000,
    seed: int = 0,
    server: Annotated[str, typer.Option(help="sealr: `sealr serve`; mlflow: `mlflow models serve`.")] = "sealr",
    timeout: Annotated[float, typer.Option(help="Seconds after which a call counts as hanging.")] = 60.0,
) -> None:
    """Send hostile calls to a real server with a toy model."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    summary, session = Summary(), requests.Session()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parts = toy_parts(folder, toys.toy_llama(folder / "llama"), toys.toy_labeller(folder / "labeller"))
        model = toy_pyfunc(parts, folder / "model")
        with serving(str(model), folder / "server.log", server) as process:
            before, started = process.megabytes(), time.monotonic()

            @hypothesis.seed(seed)
            @settings(
                max_examples=cases, deadline=None, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(hostile.calls())
            def many(call: hostile.Call) -> None:
                send(session, process, call, summary, timeout)

            many()
            for call in hostile.giants():
                send(session, process, call, summary, timeout, "giants")
            seconds, alive = time.monotonic() - started, answers(f"{process.url}/health")
            after = process.megabytes()
        log = (folder / "server.log").read_text()
    print(summary.table())
    state = "lives" if alive else "DIED"
    print(f"\n{seconds:.0f} s; the server {state}; its memory {before:.0f} MB before, {after:.0f} MB after;")
    print(f"stack traces in its log: {log.count('Traceback (most recent')}; wrong answers: {len(summary.wrong)}")
    for line in summary.wrong[:20]:
        print(f"  {line[:400]}")
    raise SystemExit(bool(summary.wrong) or not alive)


if __name__ == "__main__":
    typer.run(main)
