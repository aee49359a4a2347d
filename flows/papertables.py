"""The paper's Tables 2 and 3 and Figure 4: ``mlflow run . -e benchmark -P table=2``, ``table=3``, ``-P figure=4``.

``benchmarks/table2.yaml`` and its like say what is run, how much it was cut down, and what the paper reports. A cell is the chain
up to the metrics under settings of its own; its stages are shared with every cell and job that has the same ones, so what was
done is not done again and a killed run goes on. A cell that cannot be run says why, and the others are run.
"""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from prefect import flow
from prefect.artifacts import create_markdown_artifact

from sealr.flows import steps
from sealr.pipeline.job import Job
from sealr.pipeline.inputs import evaluated_users, read_sequences
from sealr.flows.job import MISTAKES, open_job, outside
from sealr.pipeline.retrievers import train_retriever
from sealr.flows.retry import transient
from sealr.flows.specs import configuration, read_spec, wanted
from sealr import tracking
from sealr.config import load_config
from sealr.data.manifest import Manifest, state_dir
from sealr.pipeline.stages import through_evaluation
from sealr.data.tables import atomic_path, read_json, write_json
from sealr.evaluate import tables
from sealr.evaluate.report import markdown_table
from sealr.evaluate.tables import Cell, Timing

log = logging.getLogger("sealr.flows")
PAPER = ("table2", "table3", "figure4")


@flow(name="paper-table", flow_run_name="{table}")
def paper_table(table: str = "table2", data: str = "", only: str = "", overrides: str = "") -> None:
    """A table or figure of the paper, a data set at a time. data, only: comma-separated data sets and systems; empty: all."""
    spec = read_spec(table)
    for name in wanted(data, spec["data"], "data set"):
        given = spec["data"][name] or {}
        settings = f"{spec.get('settings', '')} {given.get('settings', '')}"
        with open_job(f"benchmark-{table}", name, spec["base"], f"{settings} {overrides}") as job:
            sheet = Sheet(job, spec, name, settings, overrides)
            try:
                reviews = steps.ingest(job)
            except MISTAKES as error:
                write(sheet, table, {}, heading(sheet) + f"{name}: {_not_run(name, error).note}\n")
                continue
            make = times if table == "figure4" else figures
            write(sheet, table, *make(sheet, reviews, only))


@dataclass(frozen=True)
class Sheet:
    """A table on one data set."""

    job: Job
    spec: dict[str, Any]  # the table's YAML
    data: str
    settings: str  # of the table and of the data set, before a cell's own
    overrides: str  # given on the command line, after them

    @property
    def given(self) -> dict[str, Any]:
        """What the YAML says of this data set."""
        return self.spec["data"][self.data] or {}

    @property
    def retrievers(self) -> dict[str, dict[str, Any]]:
        """The table's baselines, with what is said of them for this data set."""
        own = self.given.get("retrievers", {})
        return {name: settings | own.get(name, {}) for name, settings in self.spec.get("retrievers", {}).items()}

    def reranked(self, system: str) -> tuple[Job, dict[str, Manifest]]:
        """The chain up to the metrics under a cell's settings, in the table's MLflow run."""
        settings = f"{self.settings} {self.spec['rerankers'][system]} {self.overrides}"
        cell = Job(load_config(self.data, self.spec["base"], settings), self.job.run_id, system)
        return cell, through_evaluation(cell, steps)


def figures(sheet: Sheet, reviews: Manifest, only: str) -> tuple[dict[str, pd.DataFrame], str]:
    """Tables 2 and 3: a frame a protocol, and the Markdown text of one data set."""
    spec = sheet.spec
    retrievers, rerankers = sheet.retrievers, spec["rerankers"]
    chosen = wanted(only, retrievers | rerankers, "system")
    cells = baselines(sheet, reviews, [system for system in chosen if system in retrievers])
    references: dict[str, Cell] = {}
    for system in (s for s in chosen if s in rerankers):
        try:
            job, made = sheet.reranked(system)
        except MISTAKES as error:
            cells.append(_not_run(system, error))
            continue
        results = read_json(made["results"].path("results.json"))
        cells += tables.reranker_cells(system, results, job.config.rerank.ranker)
        references |= {cell.system: cell for cell in tables.reference_cells(results["rows"], job.config.rerank.n_reranked)}
    theirs = spec.get("published", {}).get(sheet.given.get("paper", ""), {})
    compared = {  # the paper's figures stand under the protocol that they can be compared with
        tables.FULL: {system: values for system, values in theirs.items() if system in retrievers},
        tables.INJECTED: {system: values for system, values in theirs.items() if system not in retrievers},
    }
    shown = {tables.FULL: cells, tables.INJECTED: [*references.values(), *cells]}
    metrics = spec.get("metrics", tables.METRICS)
    made_frames = {p: tables.frame(shown[p], p, compared[p], metrics) for p in shown}
    parts = [f"### {p}\n\n{spec['reading'][p]}\n\n{markdown_table(frame)}" for p, frame in made_frames.items()]
    return made_frames, heading(sheet) + "\n".join(parts)


def times(sheet: Sheet, reviews: Manifest, only: str) -> tuple[dict[str, pd.DataFrame], str]:
    """Figure 4: seconds of training and of inference by what an item is written as."""
    timings, notes = [], ""
    for system in wanted(only, sheet.spec["rerankers"], "system"):
        try:
            _, made = sheet.reranked(system)
        except MISTAKES as error:
            notes += f"- {system}: {_not_run(system, error).note}\n"
            continue
        adapter, ranked = made["adapter"], made["rankings"]
        training = adapter.metrics["train_seconds"] / (adapter.rows["train_users"] * adapter.metrics["epochs"])
        timings.append(Timing(system, training, ranked.metrics.get("seconds_a_list", float("nan"))))
    if not timings:
        return {}, heading(sheet) + notes
    users = reviews.rows["users"]
    table = tables.timing_frame(timings, users, round(sheet.job.config.rerank.finetune_share * users))
    return {"times": table}, heading(sheet) + f"{sheet.spec['reading']['times']}\n\n{markdown_table(table)}\n{notes}"


def baselines(sheet: Sheet, reviews: Manifest, systems: list[str]) -> list[Cell]:
    """Retrievers of the paper, on the users on whom the LLM is evaluated, beside the one that it re-ranks, where that is one of them."""
    job, users = sheet.job, evaluated(sheet.job, reviews)
    ranks: dict[str, np.ndarray] = {}
    failed: dict[str, Cell] = {}
    llms = None
    for system in systems:
        try:
            config = configuration(job.config.retrieve, system, sheet.retrievers, job.config.retrieve.seed)
            made = train_retriever(job, config, reviews, None, system)
        except MISTAKES as error:
            failed[system] = _not_run(system, error)
            continue
        ranks[system] = np.load(made.path("test_ranks.npy"), allow_pickle=False)[users]
        if config == job.config.retrieve:
            llms = ranks[system]
    candidates = job.config.rerank.n_reranked
    return [failed.get(s) or tables.retriever_cell(s, ranks[s], candidates, llms) for s in systems]


def evaluated(job: Job, reviews: Manifest) -> np.ndarray:
    """Places, among the users with a test item, of those who are evaluated."""
    sequences = read_sequences(reviews)
    place = {sequences.users[u]: i for i, u in enumerate(sequences.split("test").users)}
    return np.array([place[user] for user in evaluated_users(job, sequences)[: job.config.evaluate.users or None]])


def heading(sheet: Sheet) -> str:
    """What was run, and how much it was cut down."""
    config = sheet.job.config
    rerank = config.rerank
    users = f"{config.evaluate.users:,} users, drawn at random, of" if config.evaluate.users else ""
    depth = f"its first {rerank.layers} layers" if rerank.layers else "all layers"
    seen = "items of the history are not candidates" if config.retrieve.exclude_seen else "items of the history stay candidates"
    lines = [
        f"## {sheet.spec['title']}: {sheet.data}\n",
        f"Evaluated on {users} the half of the users that no LLM is fine-tuned on; seed {rerank.seed}; {seen}. "
        f"LLM: {rerank.base}, {depth}, LoRA r {rerank.lora.r} alpha {rerank.lora.alpha}. {os.cpu_count()} cores ({platform.machine()}), "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}.\n",
        *(f"{part['note']}\n" for part in (sheet.given, sheet.spec) if "note" in part),
        *(f"- {system}: `{settings}`" for system, settings in sheet.spec["rerankers"].items()),
        *([f"\nOver all of these: `{sheet.overrides}`."] if sheet.overrides else []),
        "",
    ]
    return "\n".join(lines) + "\n"


def write(sheet: Sheet, table: str, made: dict[str, pd.DataFrame], text: str) -> None:
    """results.md, results.json and results.png under the state folder, in the job's MLflow run and, the text, in Prefect."""
    name = sheet.data
    folder = state_dir() / "benchmarks" / f"{table}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "results.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_json({protocol: tables.records(frame) for protocol, frame in made.items()}, folder / "results.json")
    if "times" in made:
        tables.plot_times(made["times"], f"{sheet.spec['title']}, {name}", folder / "results.png")
    elif made:
        tables.plot(made, f"{sheet.spec['title']}, {name}", folder / "results.png")
    with tracking.stage(table, sheet.job.run_id, {}):
        tracking.log_folder(folder, table)
    create_markdown_artifact(key=table, markdown=text, description=f"The paper's {table} on {name}")
    print(f"\n{text}\nfiles: {folder}")


def _not_run(system: str, error: Exception) -> Cell:
    """A cell that says why it has no figures. A full disk or a server that went away is no cell's fault, and ends the run."""
    if outside(error) or transient(error, scheduled=False):
        raise error
    log.warning("%s was not run: %s", system, error)
    return Cell(system, paper=system, note=f"not run: {' '.join(str(error).split())[:200]}")
