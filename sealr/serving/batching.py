"""The queue between calls and workers: calls that wait are answered together.

A pass over many requests costs little more than a pass over one, so the longer the queue, the more calls a worker
takes at a time. A call on an idle server waits for no others. Workers take from the queue themselves: a hand-over by
the event loop would cost them a turn of the interpreter lock for each pass.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from fastapi import Response

from sealr.serving.calls import Call, Refusal, answer, read_call
from sealr.serving.follower import Served
from sealr.serving.limits import Limits

log = logging.getLogger("sealr.serve")
TOGETHER = 256 * 1024  # bytes of the bodies that one worker takes: a giant delays no small calls


@dataclass(eq=False)
class Job:
    """A call in the queue. ``call`` is known once a worker has read it."""

    served: Served
    body: bytes
    content_type: str
    answer: asyncio.Future[Response] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    call: Call | None = None

    def finish(self, response: Response) -> None:
        if not self.answer.done():  # else its caller has gone
            self.answer.set_result(response)


class Batcher:
    def __init__(self, workers: int, batch: int, limits: Limits, on_pass: Callable[[int], None]) -> None:
        """workers: threads that answer. batch: calls in one pass, at most. on_pass: told how many calls it has.

        limits: of one call. A pass keeps them, too, because the model cannot tell it from a call.
        """
        self.workers, self.batch, self.limits, self.on_pass = workers, batch, limits, on_pass
        self.waiting: deque[Job] = deque()
        self._changed, self._stopped = threading.Condition(), False
        names = [f"predict-{n}" for n in range(workers)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Waits for the workers, who answer what is in the queue."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    async def answer(self, job: Job) -> Response:
        """Waits for the answer. A cancelled call leaves the queue; if a pass has it, its answer is dropped."""
        with self._changed:
            self.waiting.append(job)
            self._changed.notify()
        try:
            return await job.answer
        except asyncio.CancelledError:
            with self._changed:
                if job in self.waiting:
                    self.waiting.remove(job)
            raise

    def _work(self) -> None:
        while jobs := self._take():
            try:
                for group in self._groups(jobs):
                    if group := [job for job in group if not job.answer.done()]:
                        self.on_pass(len(group))
                        self._deliver(group, answer([job.call for job in group if job.call]))
            except Exception as error:  # a mistake of ours must not cost the server a worker
                log.exception("a worker failed")
                said = f"the server failed on this call ({type(error).__name__})"
                self._deliver(jobs, [Refusal(500, said) for _ in jobs])  # one each: it gets the call's own headers

    def _take(self) -> list[Job]:
        """A worker's share of the queue, the oldest first; none when the server stops."""
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self._stopped)
            most = min(self.batch, math.ceil(len(self.waiting) / self.workers))
            taken: list[Job] = []
            size = 0
            while len(taken) < most:
                size += len(self.waiting[0].body)
                if taken and size > TOGETHER:
                    break
                taken.append(self.waiting.popleft())
            return taken

    def _groups(self, jobs: list[Job]) -> Iterator[list[Job]]:
        """Reads the calls, answers those that are refused, and yields the others by pass."""
        open_groups: dict[tuple[int, str], tuple[list[Job], Counter[str]]] = {}
        for job in jobs:
            if job.answer.done():  # its caller has gone
                continue
            found = read_call(job.served, job.body, job.content_type, self.limits)
            job.body = b""
            if isinstance(found, Refusal):
                self._deliver([job], [found])
                continue
            job.call = found
            if found.key is None:
                yield [job]
                continue
            group, total = open_groups.get(found.key, ([], Counter()))
            total = total + Counter(found.counts)
            if group and any(count > getattr(self.limits, name) for name, count in total.items()):
                yield group
                group, total = [], Counter(found.counts)
            open_groups[found.key] = ([*group, job], total)
        for group, _ in open_groups.values():
            yield group

    def _deliver(self, jobs: Sequence[Job], responses: Sequence[Response]) -> None:
        """One turn of the event loop for all."""

        def finish() -> None:
            for job, response in zip(jobs, responses, strict=True):
                job.finish(response)

        jobs[0].answer.get_loop().call_soon_threadsafe(finish)
