"""Commands for the emotion labeller: train it on GoEmotions, and measure it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sealr.commands.options import use_tracking

app = typer.Typer()
GoEmotions = Annotated[Path, typer.Option(help="Folder with train.tsv.gz, dev.tsv.gz and test.tsv.gz.")]


@app.command(epilog="Example: sealr train-labeller --goemotions data/goemotions --out my-labeller")
def train_labeller(
    goemotions: GoEmotions,
    out: Annotated[Path, typer.Option(help="Folder to write. The shipped one is sealr/emotion/embedded.")],
    base: Annotated[str, typer.Option(help="Encoder: a repository name or a folder.")] = "",
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA adapter.")] = 16,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    batch: Annotated[int, typer.Option(min=1, help="Texts per step.")] = 64,
    limit: Annotated[int, typer.Option(min=0, help="Only the first texts, for a dry run; 0: all.")] = 0,
    seed: int = 0,
) -> None:
    """Train the embedded labeller on GoEmotions."""
    _prepare()
    from sealr.emotion.training.train import TrainArguments
    from sealr.flows.labeller import train_labeller as train

    arguments = TrainArguments(epochs=epochs, rank=rank, lr=lr, batch=batch, limit=limit, seed=seed)
    if base:
        arguments = replace(arguments, base=base)
    train(goemotions, out, arguments)


@app.command(epilog="Example: sealr evaluate-labeller --goemotions data/goemotions")
def evaluate_labeller(
    goemotions: GoEmotions,
    labeller: Annotated[Path | None, typer.Option(help="A labeller's folder; without it, the shipped one.")] = None,
) -> None:
    """Recompute a labeller's figures on GoEmotions."""
    _prepare()
    from sealr.emotion.backends import EMBEDDED
    from sealr.flows.labeller import evaluate_labeller as evaluate

    print(evaluate(goemotions, labeller or EMBEDDED))


def _prepare() -> None:
    use_tracking()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
