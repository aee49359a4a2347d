"""Commands for the items of a registered model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sealr.commands.models import CHAMPION, check_model

app = typer.Typer()
items_app = typer.Typer(
    help="Bring new items into a registered model.",
    epilog="Example: sealr items add new.csv --model models:/sealr@champion",
)
app.add_typer(items_app, name="items")


@items_app.callback()
def items() -> None:
    """Bring new items into a registered model."""


@items_app.command(epilog="Example: sealr items add new.csv --model models:/sealr@champion")
def add(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV, JSON lines or Parquet with item and title, brand, categories or text (one row for each review)."
        ),
    ],
    model: Annotated[str, typer.Option(help="models:/NAME@ALIAS or models:/NAME/VERSION.")] = CHAMPION,
) -> None:
    """Add new items, known by their texts, without training; makes a new version."""
    if not model.startswith("models:/"):
        raise ValueError(
            f"{model} is not in the registry: items are added to models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    check_model(model)
    from sealr.registry.items import add_items
    from sealr.serving.request import short

    made = add_items(model, file)
    state = "champion" if made.champion else f"not champion: `sealr promote {made.version}` makes it so"
    shown = ", ".join(short(item)[1:-1] for item in made.items[:5]) + (" and more" if len(made.items) > 5 else "")
    print(f"models:/{made.name}/{made.version}, {state}; items added: {shown}")
