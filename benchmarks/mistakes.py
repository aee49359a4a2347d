"""Wrong commands, settings, files, surroundings and requests, as a user makes them, through the real command line.

    python -m benchmarks.mistakes --out benchmarks/tables/mistakes.md

Each command runs in a process and a folder of its own; requests go to one server. A mistake must end with exit code 2
(a request: a status from 400 to 499), in one sentence with the expected words, and without a traceback. Else the
script ends with 1. `tests/test_mistakes.py` repeats those that need no training and no database.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from benchmarks.mistake_cases import COMMANDS, MODELS, REQUESTS, SETTINGS, SURROUNDINGS, Mistake
from benchmarks.mistake_files import FILES
from benchmarks.server import serving

ROOT = Path(__file__).resolve().parents[1]
AREAS = {"Commands": COMMANDS, "Settings": SETTINGS, "Files of reviews": FILES, "Surroundings": SURROUNDINGS}
AREAS |= {"Models": MODELS}
LONGEST = 700  # characters of a message; lists of known names may be long


@dataclass(frozen=True)
class Outcome:
    code: int
    message: str
    seconds: float

    def wrong(self, says: str, expected: range) -> str:
        """What is not as it should be; empty if all is."""
        if self.code not in expected:
            return f"code {self.code}"
        if says not in self.message:
            return f"without the words {says!r}"
        return "too long, or a traceback" if len(self.message) > LONGEST or "Traceback" in self.message else ""


VARIABLES = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "SEALR_HOME", "SEALR_DATA", "SEALR_LIMITS")


def prepare(mistake: Mistake, site: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """Writes the files; returns the arguments and the environment variables."""
    for name, content in mistake.files.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    env = {"SEALR_DATA": str(site)}
    env |= {name: value.replace("{site}", str(site)) for name, value in mistake.env.items()}
    return [word.replace("{port}", str(port)) for word in mistake.command], env


def run(mistake: Mistake, site: Path, port: int, more: dict[str, str]) -> Outcome:
    """The command in a process of its own."""
    arguments, env = prepare(mistake, site, port)
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    kept |= {"PYTHONPATH": str(ROOT)} | more | env
    started = time.perf_counter()
    command = [sys.executable, "-m", "sealr", *arguments]
    done = subprocess.run(command, cwd=site, env=kept, capture_output=True, text=True, timeout=600, check=False)
    return Outcome(done.returncode, message(done.stderr), time.perf_counter() - started)


def message(errors: str) -> str:
    """What a user reads at the end: the error, or everything if there is none."""
    at = errors.rfind("error: ")
    return " ".join(errors[at:].split()) if at >= 0 and "Traceback" not in errors else errors.strip()


def registered(site: Path) -> dict[str, str]:
    """Trains a retriever on a few rows and registers it as champion; returns the variables that lead to it."""
    import mlflow
    import pandas as pd

    import sealr
    from sealr import tracking
    from sealr.data.tables import write_json
    from sealr.registry import gate, promote
    from sealr.registry.package import log_packed
    from sealr.settings import Config, DataConfig

    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{site}/mlflow.db", "SEALR_HOME": str(site / "state")}
    os.environ |= env | {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    steps = [(f"u{u}", f"i{(u + n) % 9}", 1_500_000_000 + n, "fine") for u in range(24) for n in range(6)]
    reviews = pd.DataFrame(steps, columns=["user", "item", "timestamp", "text"])
    items = pd.DataFrame({"item": [f"i{n}" for n in range(9)], "title": None, "categories": "Garden"})
    config = {"retrieve.model": "popularity", "retrieve.parts": [], "data.k_core": 1, "rerank.n_reranked": 10,
              "retrieve.n_retrieved": 10}  # fmt: skip
    model = sealr.fit(reviews, items, llm=False, config=config, name="tiny", quiet=True)
    notes = site / gate.NOTES
    write_json({}, notes / gate.EVIDENCE)
    (notes / gate.CARD).write_text("A toy.\n")
    with tracking.job("fit", Config(DataConfig("tiny"))):
        logged = log_packed(model.recommender.config, model.folder, notes, 0.0, ["i0", "i1"])
    tags = {promote.DATA: "tiny", promote.CONTENT: "toy"}
    version = promote.create("sealr", logged.model_uri, logged.run_id, tags, "", logged.model_id)
    promote.promote_manually("sealr", version, "a toy")
    mlflow.set_tracking_uri(None)
    return env


def requested(env: dict[str, str], site: Path) -> Iterator[tuple[str, Outcome, str]]:
    """Sends the wrong requests to a server; yields what, the outcome and the expected words."""
    with serving("models:/sealr@champion", site / "serve.log", env=os.environ | env) as server:
        for what, body, says in REQUESTS:
            data = body if isinstance(body, str) else json.dumps(body)
            started = time.perf_counter()
            answer = requests.post(
                f"{server.url}/invocations", data=data, headers={"Content-Type": "application/json"}, timeout=60
            )
            seconds = time.perf_counter() - started
            said = answer.json() if answer.text.startswith("{") else {}
            yield what, Outcome(answer.status_code, str(said.get("message", answer.text)), seconds), says


def row(what: str, outcome: Outcome) -> str:
    text = outcome.message.removeprefix("error: ").replace("|", "\\|").replace(str(ROOT), ".")
    return f"| {what} | {text} | {outcome.code} | {outcome.seconds:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, help="write the table here")
    parser.add_argument("--only", choices=[*AREAS, "Requests"], help="one part alone")
    given = parser.parse_args()
    out, only, head = given.out, given.only, "| mistake | message | code | seconds |\n|---|---|---:|---:|"
    sections, failures, count, slowest, before = [], [], 0, 0.0, os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="sealr-mistakes-") as scratch, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (shared := Path(scratch) / "model").mkdir()
        env = registered(shared)
        for area, mistakes in AREAS.items() if not only else {only: AREAS.get(only, [])}.items():
            lines = []
            for number, mistake in enumerate(mistakes):
                (site := Path(scratch) / f"{area}-{number}").mkdir()
                outcome = run(mistake, site, taken.getsockname()[1], env)
                lines.append(row(mistake.what, outcome).replace(str(site), "~").replace(str(shared), "~"))
                if wrong := outcome.wrong(mistake.says, range(2, 3)):
                    failures.append(f"{mistake.what}: {wrong}")
                count, slowest = count + 1, max(slowest, outcome.seconds)
                print(lines[-1], flush=True)
            sections.append("\n".join([f"## {area}\n", head, *lines, ""]))
        lines = []
        for what, outcome, says in requested(env, shared) if only in (None, "Requests") else ():
            lines.append(row(what, outcome))
            if wrong := outcome.wrong(says, range(400, 500)):
                failures.append(f"{what}: {wrong}")
            count += 1
            print(lines[-1], flush=True)
        sections.append("\n".join(["## Requests to a server\n", head, *lines, ""]))
    about = f"""# What SEALR says to {count} mistakes

`python -m benchmarks.mistakes --out benchmarks/tables/mistakes.md`

Each command ran in a process of its own, in an empty folder, with MLflow's database in place; requests went to one
server. Code: the exit code, or the status of the answer. Seconds include the start of Python, on {os.cpu_count()} cores
under a load of {before[0]:.0f} at the start and {os.getloadavg()[0]:.0f} at the end; the slowest took {slowest:.0f}.
No message has a traceback. `~` is the working folder.
"""
    if out:
        out.write_text("\n".join([about, *sections]), encoding="utf-8")
    print("\n".join([f"{count} mistakes, {len(failures)} not as they should be", *failures]))
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
