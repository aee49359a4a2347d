"""The stages of `sealr.pipeline` as Prefect tasks: with retries, and with artifacts that the Prefect UI shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from prefect import Task, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from sealr import tracking
from sealr.data.manifest import Manifest
from sealr.data.tables import read_json
from sealr.flows.progress import task_done
from sealr.flows.retry import FIRST_WAIT, RETRIES, worth_retrying
from sealr.pipeline import gladness, refitting, registering, stages
from sealr.pipeline.job import Job
from sealr.report import make

Result = TypeVar("Result")
_step = partial(
    task,
    cache_policy=NO_CACHE,  # run_stage decides what is unchanged, across runs and servers
    retries=RETRIES,  # a retried stage resumes from its checkpoint
    retry_delay_seconds=exponential_backoff(FIRST_WAIT),
    retry_jitter_factor=0.3,
    retry_condition_fn=worth_retrying,
    on_completion=[task_done],
)


def step(work: Callable[..., Result]) -> Task[..., Result]:
    """A stage function as a task, under the name that MLflow shows, too."""
    return _step(name=tracking.title(work.__name__))(work)


ingest = step(stages.ingest)
label = step(stages.label)
satisfaction = step(gladness.satisfaction)
retrieve = step(stages.retrieve)
finetune = step(stages.finetune)
rerank = step(stages.rerank)
refit = step(refitting.refit)
register = step(registering.register)
report = step(make.report)


@step
def evaluate(job: Job, reviews: Manifest, labels: Manifest, candidates: Manifest, rankings: Manifest) -> Manifest:
    """`sealr.pipeline.stages.evaluate`, with its table as an artifact."""
    made = stages.evaluate(job, reviews, labels, candidates, rankings)
    table = f"{made.path('results.md').read_text(encoding='utf-8')}\n{tracking.link(job.run_id)}"
    title = f"Metrics of {job.name} {job.cell}".strip()
    create_markdown_artifact(key="metrics", markdown=table, description=title)
    rows = [row for row in read_json(made.path("results.json"))["rows"] if row["protocol"] == "full"]
    columns = ("system", "users", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
    create_table_artifact(
        key="results", table=[{c: _short(row[c]) for c in columns} for row in rows], description=f"{title}, all items"
    )
    return made


@step
def drift(job: Job, reviews: Manifest, labels: Manifest) -> str:
    """`sealr.pipeline.registering.drift`, with its table as an artifact. Returns what drifted as a sentence."""
    found, report = registering.drift(job, reviews, labels)
    if report:
        create_markdown_artifact(
            key="drift", markdown=report, description=f"Drift of {job.name} from the champion's data"
        )
    return found


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
