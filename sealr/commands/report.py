"""The command that shows what a job found."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from sealr.commands.models import check_model
from sealr.commands.options import use_tracking

app = typer.Typer()


@app.command(epilog="Example: sealr report; or: sealr report --model models:/sealr@champion")
def report(
    run: Annotated[str, typer.Argument(help="Id of the job's MLflow run; without it, the last job.")] = "",
    model: Annotated[str, typer.Option(help="The job that made models:/NAME@ALIAS or models:/NAME/VERSION.")] = "",
    again: Annotated[
        bool, typer.Option("--again", help="Make the page anew from the job's stage folders, without training.")
    ] = False,
) -> None:
    """Open the report of a job in the browser, and print where it is."""
    if run and model:
        raise ValueError("give the id of a run or --model, not both")
    if model and not model.startswith("models:/"):
        raise ValueError(f"{model} is not of the form models:/NAME@ALIAS or models:/NAME/VERSION")
    if model:
        check_model(model)
    else:
        use_tracking()
    from sealr import tracked
    from sealr.report.make import open_report

    path = open_report(tracked.run_of_model(model) if model else run, again)
    print(path)
    show(path)


def has_screen() -> bool:
    """Whether there is a graphical browser to open a page in."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show(path: Path) -> bool:
    """Opens a page where there is a graphical browser. Whether it did."""
    return has_screen() and webbrowser.open(path.as_uri())
