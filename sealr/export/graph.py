"""A retriever as one graph of tensor operations, for histories of one length without padding.

`Packed` sorts rows by length, so its shapes depend on values, which a graph cannot have. Histories of one length need
no sorting. The networks are the trained ones: their ``encode`` is called, and only the steps around it are here again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sealr.retrieve.models.bert4rec import BERT4Rec
from sealr.retrieve.models.fusion import Fusion, reads_feelings, standardise_items
from sealr.retrieve.models.gru4rec import GRU4Rec
from sealr.retrieve.models.neighbours import NeighbourModel
from sealr.retrieve.models.popularity import Popularity
from sealr.retrieve.retriever import Retriever


class Graph(nn.Module):
    """``(items (B, L) int64, feelings (B, L, 2)) -> (B, n_items + 1)`` scores, -inf at padding.

    1 <= L <= max_len, oldest item first. feelings: sentiment class and expected sentiment, NaN if unknown; only for a
    retriever that reads them. Parts of weight 0 are left out.
    """

    def __init__(self, retriever: Retriever) -> None:
        super().__init__()
        model, self.max_len = retriever.model, retriever.config.max_len
        self.fused, self.appended = isinstance(model, Fusion), getattr(model, "appended", 0)
        parts = [(model, 1.0, self.max_len)]
        if self.fused:
            parts = list(zip(model.parts, model.weights.tolist(), model.max_len, strict=True))
        self.kept = [(weight, length) for _, weight, length in parts if weight]
        self.parts = nn.ModuleList(_part(part) for part, weight, _ in parts if weight)
        self.reads_feelings = reads_feelings(retriever.config)

    def forward(self, items: Tensor, feelings: Tensor | None = None) -> Tensor:
        total: Any = 0.0
        for part, (weight, length) in zip(self.parts, self.kept, strict=True):
            fewer = length < self.max_len  # than the fusion reads
            felt = feelings[:, -length:] if fewer and feelings is not None else feelings
            scores = part(items[:, -length:] if fewer else items, felt)
            total = total + weight * standardise_items(scores, self.appended) if self.fused else scores
        padding = torch.arange(total.shape[1], device=total.device) == 0
        return total.masked_fill(padding, -torch.inf)


class EqualRows:
    """What `Packed` says of B rows of L items, none of them padding."""

    def __init__(self, rows: int, length: int, device: torch.device) -> None:
        places = torch.arange(length, device=device)
        self.groups = [(rows, length)]
        self.position_ids = places.repeat(rows)  # (B L,)
        self.positions_from_end = (length - 1 - places).repeat(rows)

    def split(self, x: Tensor) -> tuple[Tensor]:
        """The one group."""
        return (x,)


class _Neural(nn.Module):
    """A `SequenceModel` with its item table, in which texts of items are contained."""

    table: Tensor  # (n_items + 1, D)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.register_buffer("table", model.item_weights().detach().clone())

    def forward(self, items: Tensor, feelings: Tensor | None) -> Tensor:
        rows, length = items.shape
        x = self.table[items.flatten()]  # (B L, D)
        if self.model.sentiment_embedding is not None:
            x = self.model.sentiment_embedding(x, None if feelings is None else feelings.flatten(0, 1))
        return self.last(x, rows, length) @ self.table.T

    def last(self, x: Tensor, rows: int, length: int) -> Tensor:
        """(B L, D) -> (B, D), the state after the newest item."""
        if isinstance(self.model, BERT4Rec):  # a mask follows the newest item
            x = torch.cat([x.view(rows, length, -1), self.model.mask.expand(rows, 1, -1)], 1).flatten(0, 1)
            length = length + 1
        states: Tensor = self.model.encode(x, EqualRows(rows, length, x.device))
        return states.view(rows, length, -1)[:, -1]


class _Recurrent(_Neural):
    """A `GRU4Rec` whose layers are ONNX's own operator, because a ``PackedSequence`` has no counterpart there.

    The operator's gates are in the order update, reset, new; torch's are reset, update, new.
    """

    def __init__(self, model: GRU4Rec) -> None:
        super().__init__(model)
        for layer in range(model.gru.num_layers):
            values = [getattr(model.gru, f"{name}_l{layer}").detach() for name in ("weight_ih", "weight_hh")]
            values.append(
                torch.cat([getattr(model.gru, f"{name}_l{layer}").detach()[None] for name in ("bias_ih", "bias_hh")])
            )
            for name, value in zip(("input", "state"), values, strict=False):
                reset, update, new = value.chunk(3)
                self.register_buffer(f"{name}{layer}", torch.cat([update, reset, new])[None])
            reset, update, new = values[2].chunk(3, dim=1)  # (2, D) each: of the input, of the state
            self.register_buffer(f"bias{layer}", torch.cat([update, reset, new], 1).flatten()[None])

    def last(self, x: Tensor, rows: int, length: int) -> Tensor:
        x = x.view(rows, length, -1).transpose(0, 1)  # (L, B, D)
        width = x.shape[2]
        for layer in range(self.model.gru.num_layers):
            inputs = [x, *(getattr(self, f"{name}{layer}") for name in ("input", "state", "bias"))]
            attributes: dict[str, Any] = {"hidden_size": width, "linear_before_reset": 1}
            shape = (length, 1, rows, width)
            x = torch.onnx.ops.symbolic("GRU", inputs, attributes, dtype=x.dtype, shape=shape, version=18).squeeze(1)
        return self.model.out(x[-1])


class _Neighbours(nn.Module):
    """A `NeighbourModel`: of a repeated item only the newest occurrence counts."""

    def __init__(self, model: NeighbourModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, feelings: Tensor | None) -> Tensor:
        places = torch.arange(items.shape[1], device=items.device)
        again = (items[:, :, None] == items[:, None, :]) & (places[:, None] < places)  # (B, L, L)
        newest = ~again.any(2)  # (B, L)
        from_end = newest.flip(1).cumsum(1).flip(1) - 1  # (B, L) how many of them are newer
        decay = torch.where(newest, self.model.decay ** from_end.float(), 0.0)
        weights = self.model.weights[items] * decay[:, :, None]  # (B, L, K)
        scores = weights.new_zeros(items.shape[0], self.model.weights.shape[0])
        return scores.scatter_add(1, self.model.indices[items].long().flatten(1), weights.flatten(1))


class _Popularity(nn.Module):
    def __init__(self, model: Popularity) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, feelings: Tensor | None) -> Tensor:
        return self.model.counts + torch.zeros_like(items[:, :1], dtype=torch.float32)


def _part(model: Any) -> nn.Module:
    if isinstance(model, NeighbourModel):
        return _Neighbours(model)
    if isinstance(model, Popularity):
        return _Popularity(model)
    return _Recurrent(model) if isinstance(model, GRU4Rec) else _Neural(model)
