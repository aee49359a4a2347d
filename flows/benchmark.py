"""Comparisons of systems, from the data files to tables and a plot: ``sealr benchmark --table retrievers``.

``configs/comparisons/`` says what is compared. Every system is run by the stages of the main job, so finished work is
reused and an interrupted comparison continues. If a system fails, its row says why, and the others still run.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex

import pandas as pd
import torch
from prefect import flow
from prefect.artifacts import create_markdown_artifact

from sealr import tracking
from sealr.data.manifest import state_dir
from sealr.data.tables import atomic_path, write_json
from sealr.evaluate import comparison as comparing
from sealr.evaluate.comparison import FULL, INJECTED, TIMES, Run
from sealr.evaluate.report import Panel, markdown_table, plot
from sealr.flows import steps
from sealr.flows.alarm import HOOKS
from sealr.flows.job import external_failure, open_job
from sealr.flows.retry import transient
from sealr.pipeline import pareto
from sealr.pipeline.comparison import Bench, open_bench, run_system
from sealr.pipeline.comparison_files import select_comparisons, select_names
from sealr.pipeline.costs import cost_of, reading, with_costs

log = logging.getLogger("sealr.flows")
FAILURES = (ValueError, OSError, ArithmeticError, tracking.TrackingError)
MARGINS = ", ".join(f"{value:g} of {metric}" for metric, value in comparing.MARGINS.items())
DIFFERENCES = (
    "Mean of `system` minus `other` under the full protocol, with 95 % paired bootstrap intervals over users, and over "
    "seeds where there are several. Clear: the interval lacks 0. Equal: the 90 % interval lies within the margin, "
    f"{MARGINS}. Undecided: neither; more users or seeds are needed."
)


@flow(name="benchmark", flow_run_name="benchmark-{table}", **HOOKS)
def benchmark(table: str = "retrievers", data: str = "", only: str = "", overrides: str = "", figure: str = "") -> None:
    """Runs a comparison on each of its data sets and writes its page. Arguments: see ``select_comparisons``."""
    name, specs = select_comparisons(table, data, only, figure)
    for data_set, spec in specs.items():
        try:
            with open_job(f"benchmark-{name}", spec.configuration, spec.base, f"{spec.settings} {overrides}") as job:
                what = ["--figure", figure] if figure else ["--table", table]
                options = [[*what, "--data", data_set], ["--only", only], ["--set", overrides]]
                command = shlex.join(["sealr", "benchmark", *(part for pair in options if pair[-1] for part in pair)])
                compare(open_bench(spec, job, overrides, steps), only, f"{name}-{data_set}", command)
        except FAILURES as error:
            if is_external(error) or len(specs) == 1:
                raise
            log.warning("%s was not compared: %s", data_set, error)


def compare(bench: Bench, only: str, name: str, command: str) -> None:
    """Runs the systems and writes results.md, .json and .png, and pareto.png, to the state folder, MLflow and Prefect.

    command: what makes the page again, for its first line.
    """
    spec, config = bench.spec, bench.job.config
    runs: list[Run] = []
    chosen = select_names(only, spec.systems, "system")
    for system in chosen:
        try:
            runs += run_system(bench, system)
        except FAILURES as error:
            if is_external(error):
                raise
            log.warning("%s was not run: %s", system, error)
            runs.append(Run(system, note=f"not run: {' '.join(str(error).split())[:200]}"))
    runs.sort(
        key=lambda run: FULL in run.ranks or not run.ranks
    )  # rows of reference are only injected; they come first

    tables, resampling = {}, (config.evaluate.bootstrap, config.evaluate.seed)
    baseline, glad, readings = bench.baseline(), bench.gladness(), dict(spec.protocols)
    for protocol in spec.protocols:
        if protocol == TIMES:
            users = bench.reviews.rows["users"]
            tables[protocol] = comparing.times_table(runs, users, round(config.rerank.finetune_share * users))
        else:
            figures = spec.published.get(protocol, {})
            figures = {
                system: values for system, values in figures.items() if system in chosen or system not in spec.systems
            }
            tables[protocol] = comparing.table(runs, protocol, spec.metrics, figures, baseline, *resampling)
            if glad is not None and protocol != INJECTED:
                liked = comparing.liked(runs, protocol, glad, spec.compare, *resampling)
                tables[liked.title], readings[liked.title] = liked.table(), liked.reading
    costs, points = {system: cost_of(bench, trained) for system, trained in bench.trained.items()}, None
    if costs and FULL in tables:
        points = pareto.points(tables[FULL], runs, costs)
        tables[FULL], readings[FULL] = with_costs(tables[FULL], costs), f"{readings[FULL]}\n\n{reading()}"
    if len(pairs := comparing.differences(runs, spec.compare, *resampling)):
        tables["differences"] = pairs
        readings["differences"] = DIFFERENCES
    _write(bench, name, command, tables, readings, points)


def is_external(error: Exception) -> bool:
    """Whether the cause, such as a full disk or a lost server, lies outside the system that failed."""
    return bool(external_failure(error)) or transient(error, scheduled=False)


def _write(
    bench: Bench,
    name: str,
    command: str,
    tables: dict[str, pd.DataFrame],
    readings: dict[str, str],
    points: pd.DataFrame | None,
) -> None:
    title = bench.spec.title
    sections = [f"### {key}\n\n{readings[key]}\n\n{markdown_table(made)}" for key, made in tables.items()]
    text = "\n".join([f"## {title}\n", f"`{command}`\n", _heading(bench), *sections])
    folder = state_dir() / "benchmarks" / name
    folder.mkdir(parents=True, exist_ok=True)
    drawing = folder / "pareto.png"
    drawing.unlink(missing_ok=True)  # of an earlier run with more systems
    shown = "" if points is None else pareto.picture(points, drawing, title)
    picture = f"\n### accuracy and cost\n\n{pareto.READING}\n\n![{shown}]({drawing.name})\n" if shown else ""
    with atomic_path(folder / "results.md") as temporary:
        temporary.write_text(text + picture, encoding="utf-8")
    rows = {key: made.astype(object).where(made.notna(), None).to_dict("records") for key, made in tables.items()}
    write_json(rows, folder / "results.json")
    panels = [Panel(key, made) for key, made in tables.items() if "NDCG@10" in made]
    if TIMES in tables:
        panels += [
            Panel(f"{part}: seconds", tables[TIMES], f"{part}, s each", log=True) for part in ("training", "inference")
        ]
    if panels := [panel for panel in panels if len(panel.table)]:
        plot(panels, folder / "results.png", title)
    with tracking.stage("comparison", bench.job.run_id, {}):
        tracking.log_folder(folder, "results")
    create_markdown_artifact(key="benchmark", markdown=text, description=title)
    print(f"\n{text}\nfiles: {folder}")


def _heading(bench: Bench) -> str:
    """The users, the machine and the settings of a comparison."""
    config, spec = bench.job.config, bench.spec
    masked = "are not candidates" if config.retrieve.exclude_seen else "stay candidates"
    machine = (
        f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    lines = [f"{bench.split}, {len(bench.users):,} users; items of the history {masked}. {machine}.\n"]
    if spec.chains:
        rerank = config.rerank
        depth = f"its first {rerank.layers} layers" if rerank.layers else "all layers"
        lines += [
            f"LLM: {rerank.base}, {depth}, LoRA r {rerank.lora.r} alpha {rerank.lora.alpha}; {rerank.user_split}.\n"
        ]
    lines += [f"{spec.note}\n"] if spec.note else []
    settings = {"settings of all": spec.settings} | spec.chains | {"settings over all": bench.overrides}
    lines += [f"- {name}: `{text.strip()}`" for name, text in settings.items() if text.strip()]
    return "\n".join([*lines, ""])
