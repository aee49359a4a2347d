"""The page of a comparison: its Markdown, and where that is put."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from prefect.artifacts import create_markdown_artifact

from sealr.pipeline.job import Job
from sealr import tracking
from sealr.data.tables import atomic_path, write_json
from sealr.evaluate import retrievers as comparing
from sealr.evaluate.report import markdown_table


def report(job: Job, spec: dict[str, Any], table: pd.DataFrame, sentences: list[str]) -> str:
    """The Markdown text of one data set's comparison."""
    masked = (
        "items of the history are not candidates" if job.config.retrieve.exclude_seen else "items of the history stay candidates"
    )
    lines = [
        f"## {job.name}\n",
        f"Whole catalogue, leave-one-out, {masked}; means over seeds 0, 1, ... "
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}.\n",
        markdown_table(table),
        *(f"- {sentence}" for sentence in sentences),
    ]
    return "\n".join(lines) + "\n"


def write(folder: Path, job: Job, table: pd.DataFrame, text: str) -> None:
    """Files, MLflow artifacts and the Prefect artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "results.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_json(table.astype(object).where(table.notna(), None).to_dict("records"), folder / "results.json")
    comparing.plot(table, job.name, folder / "results.png")
    with tracking.stage("comparison", job.run_id, {}):
        tracking.log_folder(folder, "results")
    create_markdown_artifact(key="benchmark", markdown=text, description=f"Comparison on {job.name}")
