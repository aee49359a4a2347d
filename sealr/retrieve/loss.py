"""Training losses. ``softmax_loss`` is cross-entropy over the whole catalogue without a (positions, items) matrix.

The catalogue's logits are the most expensive part of training: 1,500 positions x 12,101 items take 73 MB, which
autograd writes and reads several times. Here each block of positions goes through logits, softmax and both gradients
while it is in the cache. On a CPU this is about three times faster, and memory does not grow with the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Rows = Callable[[Tensor], Tensor]  # items (...) int64 in 0..V-1 -> their weights (..., D), without those of all items
BLOCK_ELEMENTS = {"cpu": 2**20, "cuda": 2**27}  # logits held at a time


def softmax_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(hidden @ weight.T)[target].

    hidden (N, D), weight (V, D), targets (N,) int64 in 0..V-1 -> scalar. Differentiable once, in hidden and weight.
    """
    return _SoftmaxLoss.apply(hidden, weight, targets)


def sampled_loss(hidden: Tensor, rows: Rows, vocabulary: int, targets: Tensor, negatives: int) -> Tensor:
    """Mean of an estimate of -log softmax(hidden @ weight.T)[target] from items drawn once for all positions.

    A uniform sample of K items stands for the other V - 1 items: its exponentials are scaled by (V - 1) / K.
    vocabulary: V; other shapes as in ``softmax_loss``. Cost and memory grow with N x K instead of N x V.
    """
    drawn = torch.randint(vocabulary, (negatives,), device=hidden.device)  # (K,)
    logits = hidden @ rows(drawn).T + math.log((vocabulary - 1) / negatives)  # (N, K)
    logits = logits.masked_fill(drawn == targets[:, None], -torch.inf)
    wanted = (hidden * rows(targets)).sum(1, keepdim=True)  # (N, 1)
    return (torch.cat([wanted, logits], 1).logsumexp(1) - wanted[:, 0]).mean()


def binary_loss(hidden: Tensor, rows: Rows, vocabulary: int, targets: Tensor, negatives: int) -> Tensor:
    """Binary cross-entropy of each target against ``negatives`` random items of its own (SASRec, equation 7: one)."""
    drawn = torch.randint(vocabulary, (len(targets), negatives), device=hidden.device)  # (N, K)
    against = torch.einsum("nd,nkd->nk", hidden, rows(drawn))
    against = against.masked_fill(drawn == targets[:, None], -torch.inf)
    return F.softplus(-(hidden * rows(targets)).sum(1)).mean() + F.softplus(against).sum(1).mean()


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        n, vocabulary = len(hidden), len(weight)
        block = max(16, BLOCK_ELEMENTS.get(hidden.device.type, 2**20) // vocabulary)
        buffer = hidden.new_empty(min(block, n), vocabulary)
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        total = hidden.new_zeros(())
        for start in range(0, n, block):
            h, t = hidden[start : start + block], targets[start : start + block]  # (b, D), (b,)
            logits = torch.mm(h, weight.T, out=buffer[: len(h)])  # (b, V)
            wanted = logits.gather(1, t[:, None])  # (b, 1)
            top = logits.amax(1, keepdim=True)  # (b, 1), keeps exp from overflowing
            scale = logits.sub_(top).exp_().sum(1, keepdim=True)  # (b, 1); logits are now scale * softmax
            total += (scale.log() + top - wanted).sum()
            grad_hidden[start : start + block] = torch.mm(logits, weight) / scale
            grad_weight.addmm_(logits.T, h / scale)
        # d loss / d logits = softmax - one_hot(target): the second term, for all positions at once
        grad_hidden -= weight[targets]
        grad_weight.index_add_(0, targets, hidden, alpha=-1)
        ctx.save_for_backward(grad_hidden.div_(n), grad_weight.div_(n))
        return total / n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad * grad_hidden, grad * grad_weight, None
