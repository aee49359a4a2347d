"""Options that several commands share, and the way from a command to a flow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Data = Annotated[str, typer.Option(help="Data set: a name in configs/ or the path of a YAML file.")]
Base = Annotated[str, typer.Option(help="Base model: a name in configs/ or the path of a YAML file.")]
Set = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="SETTINGS", help="Settings, such as 'retrieve.epochs=20 rerank.lr=1e-4'. Repeatable."
    ),
]
NOTHING: list[str] = []  # the default of Set
Model = Annotated[str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, or the folder of a model.")]
Reason = Annotated[str, typer.Option(help="Why. It becomes a tag of the version.")]
TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, help="Items per list.")]
WithSeen = Annotated[bool, typer.Option("--with-seen", help="Also recommend items of the user's history.")]

Gladness = Annotated[
    float,
    typer.Option(
        "--satisfaction-weight", min=0, help="0: what users will take; 1: as chosen; more: what they will be glad of."
    ),
]

Include = Annotated[list[str], typer.Option("--include-item", help="Recommend only this item. Repeatable.")]
Exclude = Annotated[list[str], typer.Option("--exclude-item", help="Do not recommend this item. Repeatable.")]
Category = Annotated[list[str], typer.Option("--category", help="Recommend only items of this category. Repeatable.")]
AvailableFile = Annotated[
    Path | None, typer.Option("--available", help="File with the available items, one id a line.")
]


def use_tracking() -> None:
    """Checks the MLflow database or server and points MLflow at it, for commands that run no flow."""
    from sealr.doctor import check_tracking
    from sealr.flows import quiet_libraries, set_defaults

    check_tracking()
    set_defaults()
    quiet_libraries()
    from sealr import tracking

    tracking.setup()


def run_job(flow: str, data: str, base: str, settings: list[str], **more: Any) -> None:
    """Checks the configuration and the surroundings, which takes a second, and only then imports and runs a flow.

    flow: ``"module.function"`` in `sealr.flows`. more: further parameters of the flow.
    """
    from sealr.config import load_config
    from sealr.doctor import check_job

    overrides = " ".join(settings)
    check_job(load_config(data, base, overrides))
    start(flow, data=data, base=base, overrides=overrides, **more)


def start(flow: str, **arguments: Any) -> None:
    """Imports and runs a flow with the project's environment variables."""
    from importlib import import_module

    from sealr.flows import set_defaults

    set_defaults()  # before Prefect is imported
    from sealr.flows import temporary_server

    with temporary_server.started() as ready:
        module, _, function = flow.rpartition(".")
        found = getattr(import_module(f"sealr.flows.{module}"), function)
        from sealr.flows.job import run_flow

        ready()
        run_flow(found, **arguments)
