"""Computes the parts of a labelling run in this process or on the workers of a Ray cluster (label.engine)."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

import numpy as np
import torch

from sealr.emotion.labeller import Labeller
from sealr.settings import LabelConfig

Part = tuple[int, list[str]]  # number and cleaned texts
RESTARTS = 3  # of a lost worker, and further attempts at its part; a text that kills every worker must end the run


class ClusterError(RuntimeError):
    """Ray is not installed, or its workers were lost too often."""


def label_parts(labeller: Labeller, config: LabelConfig, parts: list[Part]) -> Iterator[tuple[int, np.ndarray]]:
    """Number and (n, 28) probabilities of each part, in the order in which parts finish."""
    if config.engine == "ray":
        yield from _on_ray(labeller, config, parts)
        return
    workers = config.workers or torch.get_num_threads()
    for number, texts in parts:
        yield number, labeller.predict_texts(texts, workers)


class Worker:
    """A labeller in a Ray worker process, with its own copy of the weights."""

    def __init__(self, config: LabelConfig, identity: str) -> None:
        torch.set_num_threads(1)
        self.labeller = Labeller.from_config(config)
        if self.labeller.identity != identity:
            raise ClusterError(
                f"{platform.node()} has another labeller for label.model={config.model} ({self.labeller.name}): "
                "install the same package versions and weights on all machines of the cluster"
            )

    def run(self, number: int, texts: list[str]) -> tuple[int, np.ndarray]:
        return number, self.labeller.predict_texts(texts)


def _on_ray(labeller: Labeller, config: LabelConfig, parts: list[Part]) -> Iterator[tuple[int, np.ndarray]]:
    """Each worker computes one part at a time.

    The cluster is the one that RAY_ADDRESS names, else a local one for this run. Its machines need the same package
    versions and weights. Ray restarts a worker that dies, and the worker computes its part again.
    """
    try:
        import ray
    except ImportError:
        raise ClusterError(
            "label.engine is ray, and ray is not installed: pip install 'sealr[ray]', or set label.engine=local"
        ) from None
    started = not ray.is_initialized()
    workers = config.workers or 2
    if started:
        local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, configure_logging=False, **local)
    try:
        remote = ray.remote(num_cpus=1, max_restarts=RESTARTS, max_task_retries=RESTARTS)(Worker)
        actors = [remote.remote(config, labeller.identity) for _ in range(workers)]
        waiting = iter(parts)
        running = {}
        for actor in actors:
            if part := next(waiting, None):
                running[actor.run.remote(*part)] = actor
        while running:
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(done)
            try:
                number, probabilities = ray.get(done)
            except ray.exceptions.RayActorError as error:
                raise ClusterError(
                    f"a labelling worker did not start or was lost {RESTARTS + 1} times: {error}"
                ) from None
            if part := next(waiting, None):
                running[actor.run.remote(*part)] = actor
            yield number, probabilities
        for actor in actors:
            ray.kill(actor)
    finally:
        if started:
            ray.shutdown()
