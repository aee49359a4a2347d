"""What /metrics tells Prometheus."""

from __future__ import annotations

from fastapi import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from sealr.serving.calls import Call, Refusal

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
CALLS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Of one server. No label holds what callers send."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.seconds = Histogram(
            "sealr_call_seconds", "Seconds from the first byte of a call to its answer", ["status"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.passes = Histogram(
            "sealr_batch_calls", "Calls that were answered in one pass", buckets=CALLS, registry=registry
        )
        self.stages = Histogram(
            "sealr_stage_seconds", "Seconds of a part of an answer; calls of one pass share all but wait", ["stage"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.users = Counter(
            "sealr_requests", "Answered requests, by whether the model has a history of the user", ["user"],
            registry=registry,
        )  # fmt: skip
        self.refused = Counter("sealr_refused_calls", "Calls that were refused", ["reason"], registry=registry)
        self.model = Gauge("sealr_model_info", "The version that answers", ["model", "version"], registry=registry)
        self.waiting = Gauge("sealr_waiting_calls", "Calls that wait for a worker", registry=registry)

    def done(self, response: Response, seconds: float, call: Call | None) -> None:
        """Counts a call. call: None if it could not be read."""
        self.seconds.labels(str(response.status_code)).observe(seconds)
        if isinstance(response, Refusal):
            self.refused.labels(response.reason).inc()
        elif call is not None:
            for stage in call.stages:
                self.stages.labels(stage.name).observe((stage.ended - stage.began) / 1e9)
            for user in call.users:
                known = isinstance(user, str) and call.served.knows(user)
                self.users.labels("known" if known else "new").inc()

    def page(self, model: str, version: str | None) -> Response:
        """In Prometheus' text format."""
        self.model.clear()
        if version is not None:
            self.model.labels(model, version).set(1)
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
