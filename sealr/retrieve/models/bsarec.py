"""BSARec (Shin et al., AAAI 2024): self-attention plus a low-pass filter, against over-smoothed item histories.

A layer mixes two views of a row (equation 9): a * A(x) + (1 - a) * attention(x). A keeps the low frequencies of the
row's Fourier transform and rescales the rest by a learned b^2 (equations 7 and 8).

The low-pass filter of a row of L positions is a circular convolution with a fixed kernel. It is computed without a
Fourier transform, as a (length, length) matrix between real positions.

Departures from the paper: the kernel covers only the past, so all positions are trained at once, many times faster.
The original's kernel sees the future as well, which is why it trains only on the last position of every prefix; for
the newest item both kernels agree in the first layer. Padding counts as zeros; in the original it holds the layers'
outputs. Position embeddings count from the oldest item that is read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sealr.retrieve.models.base import Dropout, Packed, SequenceModel, initialise
from sealr.retrieve.models.layers import Attention, FeedForward
from sealr.settings import RetrieveConfig


class BSARec(SequenceModel):
    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__(n_items, config, content)
        self.positions = nn.Embedding(config.max_len, config.hidden)
        self.norm = nn.LayerNorm(config.hidden)
        self.blocks = nn.ModuleList(BSALayer(config) for _ in range(config.layers))
        self.apply(initialise)

    def encode(self, x: Tensor, packed: Packed) -> Tensor:
        """(N, D) -> (N, D)."""
        x = self.dropout(self.norm(x + self.positions(packed.position_ids)))
        for block in self.blocks:
            x = block(x, packed)
        return x


class BSALayer(nn.Module):
    """Equations 7 to 10, post-LN as in the original."""

    def __init__(self, config: RetrieveConfig) -> None:
        super().__init__()
        self.alpha = config.bsarec.alpha
        self.attention = Attention(config.hidden, config.heads, config.dropout)
        self.filter = FrequencyFilter(config.hidden, config.max_len, config.bsarec.cutoff)
        self.feed = FeedForward(config.hidden)
        self.attention_norm, self.filter_norm = nn.LayerNorm(config.hidden), nn.LayerNorm(config.hidden)
        self.feed_norm = nn.LayerNorm(config.hidden)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        attended = self.attention_norm(x + self.dropout(self.attention(x, packed)))
        filtered = self.filter_norm(x + self.dropout(self.filter(x, packed)))
        x = self.alpha * filtered + (1 - self.alpha) * attended
        return self.feed_norm(x + self.dropout(self.feed(x)))


class FrequencyFilter(nn.Module):
    """low(x) + b^2 * (x - low(x)); low keeps the ``cutoff // 2 + 1`` lowest frequencies of ``max_len`` positions."""

    kernel: Tensor  # (max_len, max_len)

    def __init__(self, hidden: int, max_len: int, cutoff: int) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.randn(hidden))  # b of equation 8, per dimension
        distance = torch.arange(max_len)[:, None] - torch.arange(max_len)[None]  # (L, L) between two positions
        frequencies = range(1, min(cutoff // 2, max_len // 2) + 1)  # max_len positions have no higher ones
        sides = [1 if 2 * f == max_len else 2 for f in frequencies]  # the highest of an even length has no mirror image
        waves = [n * torch.cos(2 * math.pi * f / max_len * distance) for n, f in zip(sides, frequencies, strict=True)]
        kernel = (1 + sum(waves, torch.zeros(max_len, max_len))) / max_len  # (L, L)
        self.register_buffer("kernel", kernel.tril(), persistent=False)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        """(N, D) -> (N, D)."""
        parts = zip(packed.groups, packed.split(x), strict=True)
        low = torch.cat(
            [(self.kernel[:n, :n] @ part.view(rows, n, -1)).reshape(rows * n, -1) for (rows, n), part in parts]
        )
        return low + self.root**2 * (x - low)
