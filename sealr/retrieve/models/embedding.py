"""Embeddings that retrievers and the scoring ranker share: of items with their texts, and of the user's feelings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

UNKNOWN = 3.0  # sentiment class of an item without a label, next to -2..2


class ItemEmbedding(nn.Module):
    """An embedding of the item's id, plus a projection of its content vector if there is one.

    ids: n_items + 1 rows of width D, row 0 for padding. content: (n_items + 1, C), from its texts.
    """

    content: Tensor

    def __init__(self, ids: nn.Embedding, content: Tensor | None = None) -> None:
        super().__init__()
        self.ids, self.project = ids, None
        if content is not None:
            self.register_buffer("content", content.float())
            self.project = nn.Linear(content.shape[1], ids.embedding_dim, bias=False)

    def forward(self, items: Tensor) -> Tensor:
        """Items (...) -> (..., D)."""
        x = self.ids(items)
        return x if self.project is None else x + self.project(self.content[items])

    def table(self) -> Tensor:
        """(n_items + 1, D) embeddings of all items."""
        return self.ids.weight if self.project is None else self.ids.weight + self.project(self.content)


class SentimentEmbedding(nn.Module):
    """An embedding of the sentiment class plus a projection of the expected sentiment, both of width D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(6, width)  # -2..2 and UNKNOWN
        self.expected = nn.Linear(1, width, bias=False)

    def forward(self, x: Tensor, feelings: Tensor | None) -> Tensor:
        """Adds the embedded feelings (..., 2), class and expected sentiment, to x (..., D). NaN or None: unknown."""
        known = x.new_full((*x.shape[:-1], 2), torch.nan) if feelings is None else feelings
        classes = known[..., 0].nan_to_num(UNKNOWN).long() + 2
        return x + self.classes(classes) + self.expected(known[..., 1:].nan_to_num(0.0))
