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
    made: tuple[list[int], Tensor] | None = None  # versions of the weights, and the table that they made

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

    def rows(self, items: Tensor) -> Tensor:
        """Items (...) -> (..., D) as in ``table``, without making the rest of it."""
        return self.ids.weight[items] if self.project is None else self(items)

    def table(self) -> Tensor:
        """(n_items + 1, D) embeddings of all items. In evaluation and inference mode it is made once.

        Projecting the content of a catalogue takes longer than the scores of a few users.
        """
        if self.project is None:
            return self.ids.weight
        if self.training or not torch.is_inference_mode_enabled():
            return self.ids.weight + self.project(self.content)
        # Torch counts changes in place, such as those by averaged weights; another tensor lies elsewhere
        parts = self.ids.weight, self.project.weight, self.content
        versions = [number for part in parts for number in (part.data_ptr(), part._version)]
        if self.made is None or self.made[0] != versions:
            self.made = versions, self.ids.weight + self.project(self.content)
        return self.made[1]

    def train(self, mode: bool = True) -> ItemEmbedding:
        """Forgets the table, because fused optimizers change weights without counting."""
        self.made = None
        return super().train(mode)


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
