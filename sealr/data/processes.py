"""Runs tasks in one process per core, and again those whose process is killed."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

log = logging.getLogger(__name__)
TRIES = 3  # of a task whose process is killed


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Places of tasks and their results, as they end. A single task runs in this process.

    work: a function of a module, because processes start anew. Raises what it raises, and MemoryError if processes are
    killed again and again.
    """
    if len(tasks) == 1:
        yield 0, work(tasks[0])
        return
    left = dict(enumerate(tasks))
    for attempt in range(1, TRIES + 1):
        with ProcessPoolExecutor(min(len(left), cores()), multiprocessing.get_context("spawn")) as pool:
            running = {pool.submit(work, task): place for place, task in left.items()}
            try:
                for done in as_completed(running):
                    result = done.result()
                    del left[running[done]]
                    yield running[done], result
                return
            except BrokenProcessPool:
                if attempt == TRIES:
                    raise MemoryError(f"a process was killed {TRIES} times: is there too little memory?") from None
                log.warning("a process was killed; its task runs again")
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
