"""From files of many formats to registered models, with no configuration but the one that ``sealr inspect`` writes.

``python -m benchmarks.formats`` from the root of the repository writes each file of `benchmarks.exports` into a
temporary folder, looks at it, runs the whole job on it and prints a Markdown table; ``--help`` lists the options.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.exports import FORMATS, Export
from sealr.config import load_config
from sealr.data import ingest
from sealr.data.manifest import StageResult

SMALL = "retrieve.epochs=4 rerank.layers=1 rerank.epochs=1 rerank.n_reranked=20 rerank.batch_size=16"
HEAD = """\
| file | rows read | accepted | rejected | what inspect wrote | registered | seconds |
|---|---:|---:|---:|---|---|---:|"""


def look(export: Export, out: Path) -> dict[str, Any]:
    """The section ``data`` that ``sealr inspect`` writes about a file, into ``out``. Raises what the command raises."""
    from sealr.cli import app

    query = ["--query", export.query] if export.query else []
    with contextlib.redirect_stdout(io.StringIO()):
        app(["inspect", export.location, *query, "--out", str(out)], standalone_mode=False)
    found: dict[str, Any] = yaml.safe_load(out.read_text(encoding="utf-8"))["data"]
    return found


def read(out: Path, folder: Path) -> StageResult:
    """What is read with that configuration, in ``folder``."""
    return ingest.ingest(load_config(str(out)).data, folder)


def job(out: Path, base: str, overrides: str) -> str:
    """Runs the whole job with that configuration alone; returns the version that it registered."""
    import mlflow

    from sealr.commands.options import run_job

    with contextlib.redirect_stdout(io.StringIO()):
        run_job("finetune.finetune", str(out), base, [overrides])
    config = load_config(str(out))
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{config.registry.name}'")
    newest = max(versions, key=lambda version: int(version.version), default=None)
    if newest is None or newest.tags["sealr.data"] != config.data.name:
        raise RuntimeError(f"the job on {out} registered nothing")
    return f"{newest.name} {newest.version}"


def guessed(data: dict[str, Any]) -> str:
    """What inspect wrote, in short: the reader, or the columns and how dates and ratings are written."""
    if data["source"] != "columns":
        return f"`source: {data['source']}`"
    columns = ", ".join(str(data["columns"][name]) for name in ("user", "item", "timestamp", "rating", "text"))
    names = ("delimiter", "time_unit", "date_format", "rating_scale")
    return "; ".join([f"columns {columns}", *(f"{name} `{data[name]}`" for name in names if data.get(name))])


def main(
    only: Annotated[list[str], typer.Option(help="Formats by the names of their functions. Repeatable.")] = [],  # noqa: B006
    base: Annotated[str, typer.Option(help="Base model, as of `sealr run`.")] = "smollm2-135m",
    settings: Annotated[str, typer.Option("--set", help="Settings that make the jobs small.")] = SMALL,
) -> None:
    """Looks at each file, runs the job with what was written, and prints the table. Ends at the first failure."""
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        os.environ |= {"SEALR_HOME": str(here / "state"), "MLFLOW_TRACKING_URI": f"sqlite:///{here}/mlflow.db"}
        os.environ |= {"SEALR_DATA": str(here / "data")}
        os.chdir(here)  # for the artifacts
        print(HEAD, flush=True)
        for name, write in FORMATS.items():
            if only and write.__name__ not in only:
                continue
            folder = here / write.__name__
            folder.mkdir()
            export, out = write(folder), folder / "written.yaml"
            started = time.perf_counter()
            data = look(export, out)
            rows = read(out, folder).rows
            registered = job(out, base, settings)
            seconds = time.perf_counter() - started
            assert rows["read"] == rows["reviews"] + rows["rejected"] == export.rows, (name, rows)
            assert rows["rejected"] == export.bad, (name, rows)
            counts = " | ".join(f"{rows[key]:,}" for key in ("read", "reviews", "rejected"))
            print(f"| {name} | {counts} | {guessed(data)} | {registered} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
