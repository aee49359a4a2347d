"""Training in several processes: each computes a share of every batch, and gradients are added up (data parallelism).

Every process holds the whole model and takes the same steps, so a step's batch is as large as in one process. Only what
is trained is exchanged, in one piece a step: of a LoRA adapter that is some megabytes, so nothing is gained by hiding it
behind the backward pass. Where no process group was joined, there is one process and all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")


def rank() -> int:
    """This process's number. Number 0 writes files and logs."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def share(batch: Sequence[T]) -> Sequence[T]:
    """This process's part of a batch that all have; empty where there are fewer rows than processes."""
    return batch[rank() :: size()]


def add_up(values: Tensor) -> Tensor:
    """The sum of every process's tensor, element by element, the same in all of them."""
    if size() > 1:
        distributed.all_reduce(values := values.clone())
    return values


def add_up_gradients(parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    """Replaces every parameter's gradient by the sum over all processes, and returns the sum of their losses."""
    if size() == 1:
        return loss.detach()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = add_up(torch.cat([g.flatten().float() for g in gradients] + [loss.detach().flatten().float()]))
    *parts, loss = flat.split([g.numel() for g in gradients] + [1])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)
    return loss[0]
