"""Layers that several models use. All work on packed positions (N, D), see ``Packed``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sealr.retrieve.models.base import Dropout, Packed


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) within each row, causal or over the whole row."""

    def __init__(self, hidden: int, heads: int, dropout: float, causal: bool = True) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"heads={heads} does not divide hidden={hidden}")
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        """(N, D) -> (N, D)."""
        d = x.shape[1]
        q, k, v = self.qkv(x).split(d, dim=1)  # 3 x (N, D)
        q = q * (d // self.heads) ** -0.5
        longest = packed.groups[-1][1] if packed.groups else 0
        causal_mask = torch.full((longest, longest), -torch.inf, device=x.device).triu(1) if self.causal else None
        parts = zip(packed.groups, packed.split(q), packed.split(k), packed.split(v), strict=True)
        return self.out(torch.cat([self._attend(*part, causal_mask) for part in parts]))

    def _attend(self, group: tuple[int, int], q: Tensor, k: Tensor, v: Tensor, causal_mask: Tensor | None) -> Tensor:
        """Rows of one length, (rows * length, D) each -> (rows * length, D)."""
        rows, length = group
        if length == 1:
            return self.dropout(v.new_ones(rows, self.heads)).repeat_interleave(v.shape[1] // self.heads, dim=1) * v

        def split(t: Tensor) -> Tensor:  # -> (rows * heads, length, D / heads)
            return t.view(rows, length, self.heads, -1).transpose(1, 2).reshape(rows * self.heads, length, -1)

        logits = split(q) @ split(k).transpose(1, 2)  # (rows * heads, length, length)
        if causal_mask is not None:
            logits = logits + causal_mask[:length, :length]
        mixed = self.dropout(logits.softmax(-1)) @ split(v)  # (rows * heads, length, D / heads)
        return mixed.view(rows, self.heads, length, -1).transpose(1, 2).reshape(rows * length, -1)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them; the inner width is four times the outer."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden, 4 * hidden)
        self.down_proj = nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(x)))


class Block(nn.Module):
    """Pre-LN attention and feed-forward layers with residual connections."""

    def __init__(self, hidden: int, heads: int, dropout: float, causal: bool = True) -> None:
        super().__init__()
        self.attention = Attention(hidden, heads, dropout, causal)
        self.feed = FeedForward(hidden)
        self.attention_norm, self.feed_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), packed))
        return x + self.dropout(self.feed(self.feed_norm(x)))
