"""The stages of `sealr.pipeline` as Prefect tasks: with retries, and with artifacts that the Prefect UI shows."""

from __future__ import annotations

from functools import partial

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from sealr import tracking
from sealr.data.manifest import Manifest
from sealr.flows.retry import FIRST_WAIT, RETRIES, worth_retrying
from sealr.pipeline import gladness, refitting, registering, stages
from sealr.pipeline.job import Job
from sealr.report import make

step = partial(
    task,
    cache_policy=NO_CACHE,  # run_stage decides what is unchanged, across runs and servers
    retries=RETRIES,  # a retried stage resumes from its checkpoint
    retry_delay_seconds=exponential_backoff(FIRST_WAIT),
    retry_jitter_factor=0.3,
    retry_condition_fn=worth_retrying,
)

ingest = step(name="ingest")(stages.ingest)
label = step(name="label")(stages.label)
satisfaction = step(name="satisfaction")(gladness.satisfaction)
retrieve = step(name="retrieve")(stages.retrieve)
finetune = step(name="finetune")(stages.finetune)
rerank = step(name="rerank")(stages.rerank)
refit = step(name="refit")(refitting.refit)
register = step(name="register")(registering.register)
report = step(name="report")(make.report)


@step(name="evaluate")
def evaluate(job: Job, reviews: Manifest, labels: Manifest, candidates: Manifest, rankings: Manifest) -> Manifest:
    """`sealr.pipeline.stages.evaluate`, with its table as an artifact."""
    made = stages.evaluate(job, reviews, labels, candidates, rankings)
    table = f"{made.path('results.md').read_text(encoding='utf-8')}\n{tracking.link(job.run_id)}"
    create_markdown_artifact(key="metrics", markdown=table, description=f"Metrics of {job.name} {job.cell}".strip())
    return made


@step(name="drift")
def drift(job: Job, reviews: Manifest, labels: Manifest) -> str:
    """`sealr.pipeline.registering.drift`, with its table as an artifact. Returns what drifted as a sentence."""
    found, report = registering.drift(job, reviews, labels)
    if report:
        create_markdown_artifact(
            key="drift", markdown=report, description=f"Drift of {job.name} from the champion's data"
        )
    return found
