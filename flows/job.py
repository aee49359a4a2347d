"""What every flow shares: configuration, the MLflow parent run, links between the two UIs, messages, and the CLI."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from prefect.artifacts import create_markdown_artifact
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import flow_run

from flows.steps import Job
from sealr import tracking
from sealr.config import load_config

log = logging.getLogger("sealr.flows")
# Frameworks that report every detail of their own doings at the level we report results
NOISY = (
    "prefect",
    "httpx",
    "mlflow",
    "alembic",
    "great_expectations",
    "transformers",
    "huggingface_hub",
    "matplotlib",
    "git",
    "urllib3",
)

Data = Annotated[str, typer.Option(help="Data set: a name in configs/ or the path of a YAML file.")]
Base = Annotated[str, typer.Option(help="Base model: a name in configs/ or the path of a YAML file.")]
Overrides = Annotated[str, typer.Option("--set", help='Overrides, e.g. "retrieve.epochs=20 rerank.ratio=0.1".')]


@contextmanager
def open_job(name: str, data: str, base: str, overrides: str) -> Iterator[Job]:
    """The job's configuration and MLflow run, linked to the Prefect run that executes it."""
    quiet()
    config = load_config(data, base, overrides)
    tags = {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_name": str(flow_run.name)}
    if str(flow_run.ui_url).startswith("http"):  # the temporary server of a run by hand has no UI
        tags["prefect.url"] = str(flow_run.ui_url)
    with tracking.job(name, config, tags) as run_id:
        log.info("%s on %s: MLflow run %s at %s", name, config.data.name, run_id, tracking.address())
        create_markdown_artifact(key="mlflow-run", markdown=tracking.link(run_id), description="The MLflow run of this flow run")
        yield Job(config, run_id)


def quiet() -> None:
    """Our own lines at INFO, everybody else's only when something is wrong."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning)


def run(flow: Callable[..., Any], **arguments: Any) -> None:
    """Runs a flow from the command line: plain log lines, and user mistakes as one message without a stack trace."""
    for known in [logging.getLogger(n) for n in ("", *logging.root.manager.loggerDict)]:
        for console in known.handlers:  # Prefect prints every failure with its trace; it stays in the Prefect UI
            if isinstance(console, PrefectConsoleHandler):
                console.setLevel(logging.CRITICAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("sealr")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    quiet()
    try:
        flow(**arguments)
    except (ValueError, OSError, ArithmeticError, tracking.TrackingError) as error:  # ConfigError, MissingFile, WeightsError, ...
        print(f"\nerror: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where this one stopped", file=sys.stderr)
        raise SystemExit(130) from None
