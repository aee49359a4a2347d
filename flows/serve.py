"""The deployments of prefect.yaml on a site without work pools: one process that waits for runs and starts them.

``python -m sealr.flows.serve`` needs PREFECT_API_URL. It stays in the foreground; Ctrl-C pauses the schedules and ends it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL

FILE = Path(__file__).with_name("prefect.yaml")


def deployments(data: str = "", base: str = "", overrides: str = "", cron: str = "") -> list[RunnerDeployment]:
    """What prefect.yaml describes. Arguments that are given replace its parameters, and the time of what is scheduled."""
    found = []
    for entry in yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]:
        module, _, function = entry["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), function)
        given = {"data": data, "base": base, "overrides": overrides}
        found.append(
            flow.to_deployment(
                entry["name"],
                description=entry["description"],
                tags=entry["tags"],
                parameters=entry["parameters"] | {k: v for k, v in given.items() if v and k in entry["parameters"]},
                schedules=[_schedule(s, cron) for s in entry["schedules"]],
                concurrency_limit=ConcurrencyLimitConfig(**entry["concurrency_limit"]),
            )
        )
    return found


def _schedule(entry: dict[str, Any], cron: str) -> Any:
    return Cron(cron or entry["cron"], timezone=entry["timezone"], active=entry["active"])


def main(
    data: Annotated[str, typer.Option(help="Data set for all deployments, instead of the one in prefect.yaml.")] = "",
    base: Annotated[str, typer.Option(help="Base model for all deployments.")] = "",
    overrides: Annotated[str, typer.Option("--set", help='Overrides, e.g. "registry.drift.hold=true".')] = "",
    cron: Annotated[str, typer.Option(help='When refresh runs, e.g. "0 3 * * *" (UTC).')] = "",
) -> None:
    """Serve the deployments of prefect.yaml from this process, one run at a time."""
    if not PREFECT_API_URL.value():
        raise SystemExit("error: set PREFECT_API_URL to a Prefect server, such as http://127.0.0.1:4200/api")
    serve(*deployments(data, base, overrides, cron), limit=1)


if __name__ == "__main__":
    typer.run(main)
