"""The bar on the page of a flow run in Prefect: how many of its tasks are done."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

_bars: dict[str, tuple[UUID, int, int]] = {}  # flow run -> (artifact, tasks done, tasks in all)


def start(flow_run_id: str, tasks: int) -> None:
    """Shows an empty bar. tasks: that the flow will run."""
    made = create_progress_artifact(progress=0.0, key="progress", description=f"Tasks done, of {tasks}")
    _bars[flow_run_id] = (made, 0, tasks)


def task_done(_task: Any, run: Any, _state: Any) -> None:
    """Moves the bar of the flow run that a task belongs to. A hook of tasks, called after each one that completed."""
    if bar := _bars.get(str(run.flow_run_id)):
        artifact, done, tasks = bar[0], bar[1] + 1, bar[2]
        _bars[str(run.flow_run_id)] = (artifact, done, tasks)
        update_progress_artifact(artifact, progress=min(100.0, 100.0 * done / tasks))
