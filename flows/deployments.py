"""The deployments of prefect.yaml for sites without work pools: one process waits for runs and starts them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import yaml
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.schedules import Cron

FILE = Path(__file__).with_name("prefect.yaml")


def deployments(data: str = "", base: str = "", overrides: str = "", cron: str = "") -> list[RunnerDeployment]:
    """The deployments that prefect.yaml describes.

    data, base, overrides: replace the parameters of deployments that have them. cron: replaces the time of schedules.
    """
    given = {name: value for name, value in (("data", data), ("base", base), ("overrides", overrides)) if value}
    found = []
    for entry in yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]:
        module, _, function = entry["entrypoint"].rpartition(".")
        parameters = entry["parameters"]
        found.append(
            getattr(importlib.import_module(module), function).to_deployment(
                entry["name"],
                description=entry["description"],
                tags=entry["tags"],
                parameters=parameters | {name: value for name, value in given.items() if name in parameters},
                schedules=[_schedule(schedule, cron) for schedule in entry["schedules"]],
                concurrency_limit=ConcurrencyLimitConfig(**entry["concurrency_limit"]),
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    return found


def serve_deployments(data: str = "", base: str = "", overrides: str = "", cron: str = "") -> None:
    """Serves `deployments` until Ctrl-C, one run at a time. Ctrl-C also pauses the schedules."""
    serve(*deployments(data, base, overrides, cron), limit=1)


def _schedule(entry: dict[str, Any], cron: str) -> Cron:
    return Cron(cron or entry["cron"], timezone=entry["timezone"], active=entry["active"])
