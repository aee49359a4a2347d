"""The command that shows a model to a person: one user, the list, its voices, and what would change it."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from sealr.commands.models import CHAMPION, check_model
from sealr.commands.options import Model
from sealr.commands.report import has_screen

app = typer.Typer()


@app.command(epilog="Example: sealr explore --model models:/sealr@champion --compare models:/sealr/1")
def explore(
    model: Model = CHAMPION,
    compare: Annotated[str, typer.Option(help="A second version, whose list stands beside the first one's.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
) -> None:
    """Open a page that shows what a model recommends to one user, and why."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

    for source in filter(None, (model, compare)):
        check_model(source)
    _check_free(host, port)
    from sealr.explore import server, view

    for source in filter(None, (model, compare)):
        view.load(source)
    print(f"http://{f'[{host}]' if ':' in host else host}:{port} shows {model}; Ctrl-C ends it", flush=True)
    server.start(model, compare, host, port, open_browser=has_screen())


def _check_free(host: str, port: int) -> None:
    """Raises ValueError where the page cannot listen."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError:
        raise ValueError(f"{host}:{port} is taken, or no address of this machine: choose another --port") from None
