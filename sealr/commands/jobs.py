"""Commands that run flows: the whole job, its stages, searches and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from sealr.commands.options import NOTHING, Base, Data, Set, run_job, start

app = typer.Typer()
STAGES = {
    "refresh": ("refresh.refresh", "Run the whole job with a drift check, and let the gate decide: the nightly job."),
    "ingest": ("stages.ingest", "Read, clean and validate the reviews."),
    "label": ("stages.label", "Ingest, then label every review with an emotion and a sentiment."),
    "retrieve": ("stages.retrieve", "Ingest, then train the retriever and write candidate pools."),
    "evaluate": ("stages.evaluate", "Run everything but the registration, and print the metrics."),
    "drift": ("stages.drift", "Ingest and label, then compare the data with those of the champion."),
}
YES = {"true": True, "dry-run": True, "1": True, "false": False, "no-dry-run": False, "0": False}


class Searched(StrEnum):
    retriever = "retriever"
    reranker = "reranker"


@app.command(epilog="Example: sealr run --data my-shop.yaml --set 'retrieve.epochs=20 rerank.finetune_share=0.1'")
def run(
    data: Data = "demo",
    base: Base = "smollm2-135m",
    settings: Set = NOTHING,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what the job would take.")] = False,
    dry_run_is: Annotated[
        str, typer.Option(hidden=True, help="true or false: entry points of MLflow have no flags.")
    ] = "",
) -> None:
    """Run the whole job: label emotions, train retriever and LLM, evaluate, and register one model."""
    if dry_run_is and dry_run_is.lower() not in YES:
        raise ValueError(f"dry_run is true or false, not {dry_run_is!r}")
    if dry_run or YES.get(dry_run_is.lower(), False):
        typer.echo("reading the data, and timing the labeller and the LLM on this machine ...", err=True)
        from sealr.pipeline.dryrun import dry_run as print_plan

        print_plan(data, base, " ".join(settings))
    else:
        run_job("finetune.finetune", data, base, settings)


def _stage(flow: str) -> Callable[..., None]:
    def command(data: Data = "demo", base: Base = "smollm2-135m", settings: Set = NOTHING) -> None:
        run_job(flow, data, base, settings)

    return command


for _name, (_flow, _help) in STAGES.items():
    app.command(_name, help=_help, epilog=f"Example: sealr {_name} --data amazon-beauty")(_stage(_flow))


@app.command(epilog="Example: sealr tune --what reranker --data my-shop.yaml --trials 20 --hours 2")
def tune(
    what: Annotated[
        Searched, typer.Option(help="Whose settings: the retriever's, or the scoring LLM's.")
    ] = Searched.retriever,
    data: Data = "demo",
    base: Base = "smollm2-135m",
    trials: Annotated[int, typer.Option(min=1, help="Trials of the study; those of earlier runs count.")] = 20,
    hours: Annotated[float, typer.Option(min=0, help="No trial starts after these hours; 0: no limit.")] = 0.0,
    storage: Annotated[
        str, typer.Option(help="Database that several workers share, such as postgresql://host/optuna; else a file.")
    ] = "",
    settings: Set = NOTHING,
) -> None:
    """Search for settings on the validation users. A study continues where an earlier run stopped.

    The parts of a fusion are searched one after the other. Start the same command several times with one --storage, and
    the workers share the trials.
    """
    check_search(what, data, base, settings)
    if storage:
        from sealr.study import open_storage

        open_storage(storage)
    from pydantic import SecretStr

    hidden = SecretStr(storage)  # parameters of flows show in Prefect's pages
    run_job("tune.tune", data, base, settings, what=what.value, trials=trials, hours=hours, storage=hidden)


def check_search(what: Searched, data: str, base: str, settings: list[str]) -> None:
    """Raises ConfigError for a model without settings to search, before Optuna tries it."""
    from sealr.config import ConfigError, load_config

    config = load_config(data, base, " ".join(settings))
    retrieve = config.retrieve
    models = [part.get("model") for part in retrieve.parts] if retrieve.model == "fusion" else [retrieve.model]
    if what is Searched.retriever and not set(models) - {"popularity"}:
        raise ConfigError(
            f"retrieve.model {retrieve.model} has no settings to search: name another retriever, "
            "such as --set 'retrieve.model=sasrec'"
        )
    if what is Searched.retriever and retrieve.teacher:
        raise ConfigError(
            "a search trains without a teacher: add --set 'retrieve.teacher=[]', and give the teacher back to the "
            "job that uses the settings found"
        )
    if what is Searched.reranker and config.rerank.ranker != "scoring":
        raise ConfigError(
            f"tune searches the settings of rerank.ranker scoring, not of {config.rerank.ranker}: "
            "add --set rerank.ranker=scoring"
        )


@app.command(epilog="Example: sealr benchmark --table retrievers --data s3rec-beauty --only sasrec,bsarec")
def benchmark(
    table: Annotated[
        str, typer.Option(help="A file of configs/comparisons/; 2 or 3: the paper's tables.")
    ] = "retrievers",
    figure: Annotated[str, typer.Option(help="4: the paper's Figure 4, instead of a table.")] = "",
    data: Annotated[str, typer.Option(help="Comma-separated data sets of the table; empty: all.")] = "",
    only: Annotated[str, typer.Option(help="Comma-separated systems of the table; empty: all.")] = "",
    settings: Set = NOTHING,
) -> None:
    """Train the systems of a comparison and write its table and plot. Finished cells are not repeated."""
    from sealr.config import load_config
    from sealr.doctor import check_job
    from sealr.pipeline.comparison_files import select_comparisons

    overrides = " ".join(settings)
    for spec in select_comparisons(table, data, only, figure)[1].values():
        load_config(spec.configuration, spec.base, f"{spec.settings} {overrides}")
    check_job(None)
    start("benchmark.benchmark", table=table, figure=figure, data=data, only=only, overrides=overrides)
