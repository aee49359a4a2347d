"""Fine-tuning in several processes of one machine, one per GPU, with accelerate; without GPUs they use the CPU.

Every process holds the whole model and computes its part of each batch; gradients are summed after each step. Only
trained weights are exchanged, some megabytes for a LoRA adapter, so one message per step suffices.

The stage stays one process, which waits and forwards epochs. Process 0 writes checkpoints and the adapter.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing import ProcessContext, start_processes
from torch.multiprocessing.spawn import ProcessException

from sealr.data.manifest import StageResult
from sealr.trainer import OnEpoch, SingleProcess

USER_ERRORS = (ValueError, FloatingPointError, OSError)  # raised again in the stage; others become ChildProcessError


class Processes(SingleProcess):
    """This process as one of those that share every batch."""

    def __init__(self) -> None:
        from accelerate import PartialState

        state = PartialState()
        self.rank, self.size = state.process_index, state.num_processes

    def shard(self, batch: Sequence[Any]) -> Sequence[Any]:
        return batch[self.rank :: self.size]

    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        from accelerate.utils import reduce

        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = reduce(torch.cat([g.flatten().float() for g in [*gradients, loss.detach()]]), "sum")
        *parts, total = flat.split([g.numel() for g in gradients] + [1])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
        return total[0]


def launch(
    work: Callable[..., StageResult], *arguments: Any, processes: int = 1, on_epoch: OnEpoch | None = None
) -> StageResult:
    """``work(*arguments, on_epoch=..., processes=...)`` in that many processes; arguments must be picklable.

    When one process fails, all end. Raises its error if that is one of USER_ERRORS, else ChildProcessError with its
    traceback.
    """
    if processes == 1:
        return work(*arguments, on_epoch=on_epoch)
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise ValueError(f"rerank.processes is {processes}, but this machine has {torch.cuda.device_count()} GPUs")
    messages = multiprocessing.get_context("spawn").SimpleQueue()
    received: dict[str, Any] = {}

    def receive() -> None:
        while not messages.empty():
            kind, value = messages.get()
            received.setdefault(kind, value)  # of several errors, the first one caused the others
            if kind == "epoch" and on_epoch:
                on_epoch(*value)

    with TemporaryDirectory() as folder:
        given = (processes, Path(folder) / "rendezvous", messages, work, arguments)
        group: ProcessContext = start_processes(_run, given, processes, join=False, start_method="spawn")
        try:
            while not group.join(timeout=0.5):
                receive()
        except ProcessException as error:
            receive()
            raise received.get("error") or ChildProcessError(
                f"fine-tuning in {processes} processes: {error}"
            ) from error
        finally:
            for process in group.processes:
                process.kill()
    receive()
    return received["result"]


def _run(
    rank: int, size: int, rendezvous: Path, messages: Any, work: Callable[..., StageResult], arguments: Any
) -> None:
    """One of the processes."""
    from accelerate import PartialState

    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    if not torch.cuda.is_available():  # they share the cores
        torch.set_num_threads(max(1, torch.get_num_threads() // size))
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # or accelerate warns
    group = {"init_method": rendezvous.as_uri(), "rank": rank, "world_size": size}
    state = PartialState(cpu=not torch.cuda.is_available(), **group)  # also selects the GPU
    if state.num_processes != size:
        raise RuntimeError(f"{state.num_processes} of {size} processes joined the group: each would train alone")
    if rank == 0:
        logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
        logging.getLogger("sealr").setLevel(logging.INFO)
    try:
        on_epoch = (lambda *epoch: messages.put(("epoch", epoch))) if rank == 0 else None
        result = work(*arguments, on_epoch=on_epoch, processes=Processes())
    except USER_ERRORS as error:
        messages.put(("error", error))
        raise
    if rank == 0:
        messages.put(("result", result))
    state.destroy_process_group()


def _exit_with_parent() -> None:
    """Ends this process as soon as the stage ends, even by SIGKILL and while others are being waited for."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
