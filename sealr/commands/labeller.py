"""Commands for the emotion labeller."""

from __future__ import annotations

import typer

app = typer.Typer()
