"""Sends hostile calls to a real server with a toy model and counts what comes back.

``python -m benchmarks.fuzz --cases 10000`` from the root of the repository. Ends with status 1 where an answer was neither
valid nor 4xx with a sentence, or the server died.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import requests
from hypothesis import HealthCheck, Phase, given, seed, settings

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


def send(session: requests.Session, server: Server, call: hostile.Call, summary: Summary, timeout: float) -> None:
    headers = {} if call.content_type is None else {"Content-Type": call.content_type}
    started = time.monotonic()
    try:
        answer = session.post(f"{server.url}/invocations", data=call.body, headers=headers, timeout=timeout)
        status, why = str(answer.status_code), hostile.wrong(answer.status_code, answer.headers["Content-Type"], answer.content)
        if answer.status_code >= 500:
            session.close()  # such a server closes the connection, too, and the next call shall not meet a closed one
    except requests.RequestException as error:
        status, why = "none", f"no answer: {type(error).__name__}"
    summary.add(call.kind, status, time.monotonic() - started, why)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description="Sends hostile calls to a real server.")
    parser.add_argument("--cases", type=int, default=10_000, help="calls that hypothesis makes; the giants come on top")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--server", choices=["sealr", "mlflow"], default="sealr", help="whose server: ours, or `mlflow models serve`"
    )
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds after which a call counts as hanging")
    arguments = parser.parse_args()
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    summary, session = Summary(), requests.Session()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parts = toy_parts(folder, toys.toy_llama(folder / "llama"), toys.toy_labeller(folder / "labeller"))
        model = toy_pyfunc(parts, folder / "model")
        with serving(str(model), folder / "server.log", arguments.server) as server:
            before, started = server.megabytes(), time.monotonic()

            @seed(arguments.seed)
            @settings(
                max_examples=arguments.cases, deadline=None, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(hostile.calls())
            def many(call: hostile.Call) -> None:
                send(session, server, call, summary, arguments.timeout)

            many()
            for call in hostile.giants():
                send(session, server, call, summary, arguments.timeout)
            seconds, alive = time.monotonic() - started, answers(f"{server.url}/health")
            after = server.megabytes()
        log = (folder / "server.log").read_text()
    print(summary.table())
    print(
        f"\n{seconds:.0f} s; the server {'lives' if alive else 'DIED'}; its memory {before:.0f} MB before, {after:.0f} MB after;"
    )
    print(f"stack traces in its log: {log.count('Traceback (most recent')}; wrong answers: {len(summary.wrong)}")
    for line in summary.wrong[:20]:
        print(f"  {line[:400]}")
    raise SystemExit(bool(summary.wrong) or not alive)


if __name__ == "__main__":
    main()
