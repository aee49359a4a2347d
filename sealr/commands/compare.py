"""The command that compares two registered versions in hindsight."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sealr.commands.models import check_model

app = typer.Typer()
VERSION = "models:/NAME@ALIAS or models:/NAME/VERSION"


@app.command(epilog="Example: sealr compare models:/sealr@champion models:/sealr/3 --next taken.csv")
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=f"The first version: {VERSION}.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The second version.")],
    next_items: Annotated[
        Path,
        typer.Option(
            "--next", help="CSV, JSON lines or Parquet with user and item, one row for each item; rating if known."
        ),
    ],
) -> None:
    """Say which of two versions would have been better for what users took next; promotes nothing.

    The file has what users took after both versions were made. Each version recommends ten items to each user from the
    history that it has stored. Rows that both can be asked are compared; for others the reason is printed. HR@10,
    NDCG@10 and the difference, with 95 % intervals, are in an MLflow run and on the pages of both models.
    """
    for model in (first, second):
        if not model.startswith("models:/"):
            raise ValueError(f"{model} is not in the registry: compare {VERSION}")
    if not next_items.exists():
        raise FileNotFoundError(f"{next_items} does not exist")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    check_model(first)
    check_model(second)
    from sealr import tracking
    from sealr.registry import hindsight_run

    made, run_id = hindsight_run.compare(first, second, next_items)
    rows = hindsight_run.table(made)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\n" + "\n".join([*hindsight_run.counts(made), hindsight_run.conclusion(made)]))
    print(f"MLflow run {run_id}: {tracking.page(run_id) or tracking.address()}")
