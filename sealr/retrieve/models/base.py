"""What all sequential models share: real positions without padding, the embeddings of items and feelings, and scores.

A model file contains only the network of its paper: a ``SequenceModel`` subclass with one method, ``encode``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sealr.retrieve.models.embedding import ItemEmbedding, SentimentEmbedding
from sealr.settings import RetrieveConfig


class Packed:
    """The N real positions of a batch of rows (B, L), without padding. Item id 0 is padding and may stand anywhere.

    Rows are sorted by length, so a slice of N can be viewed as (rows, length, D) without padding or mask::

        sequences      items                5 | 7 8 | 2 9 4     groups    (1, 1) (1, 2) (1, 3), each (rows, length)
        [[7 8 0 0]     row                  2 | 0 0 | 1 1 1     nonempty  2, 0, 1: rows of the batch that have items
         [2 0 9 4]     position_ids         0 | 0 1 | 0 1 2     lengths   1, 2, 3
         [0 5 0 0]]    positions_from_end   0 | 1 0 | 2 1 0     last      0, 2, 5: where their newest items are in N
    """

    def __init__(self, sequences: Tensor) -> None:
        real = sequences > 0  # (B, L)
        lengths, order = real.sum(1).sort(stable=True)  # (B,), (B,)
        order, lengths = order[lengths > 0], lengths[lengths > 0]
        row, self.column = real[order].nonzero(as_tuple=True)  # (N,), (N,)
        self.row = order[row]  # (N,)
        self.nonempty, self.lengths = order, lengths  # (R,)
        ends = lengths.cumsum(0)  # (R,)
        self.last = ends - 1  # (R,)
        self.position_ids = torch.arange(len(row), device=row.device) - (ends - lengths)[row]  # (N,)
        self.positions_from_end = lengths.repeat_interleave(lengths) - 1 - self.position_ids  # (N,)
        distinct, counts = lengths.unique_consecutive(return_counts=True)
        self.groups = list(zip(counts.tolist(), distinct.tolist(), strict=True))
        self.items = self.take(sequences)  # (N,)

    def take(self, values: Tensor) -> Tensor:
        """(B, L, ...) -> (N, ...)."""
        return values[self.row, self.column]

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, ...) -> one (rows * length, ...) per group."""
        return x.split([rows * length for rows, length in self.groups])


class SequenceModel(nn.Module):
    """Items 1..n_items, padding 0; width D; input and output share the item embeddings.

    content: (n_items + 1, C) vectors of the items' texts (`sealr.content.profiles`). Where ``config.content`` is not
    "none", their projection is added to the item embeddings.
    With ``config.sentiment`` the user's feelings about past items are added to the input.
    """

    causal = True  # a hidden state depends only on the items up to its own

    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        reads = config.content != "none"
        if reads and (content is None or len(content) != n_items + 1):
            found = "none" if content is None else f"{len(content)} rows"
            raise ValueError(
                f"retrieve.content={config.content} needs vectors of {n_items + 1} rows, row 0 for padding; got {found}"
            )
        self.items = ItemEmbedding(nn.Embedding(n_items + 1, config.hidden), content if reads else None)
        self.dropout = Dropout(config.dropout)
        self.sentiment_embedding = SentimentEmbedding(config.hidden) if config.sentiment != "none" else None

    def encode(self, x: Tensor, packed: Packed) -> Tensor:
        """Embedded items (N, D) -> hidden states (N, D). Defined by the model."""
        raise NotImplementedError

    def item_weights(self) -> Tensor:
        """(n_items + 1, D) item embeddings, of the input and of the output layer."""
        return self.items.table()

    def forward(self, packed: Packed, feelings: Tensor | None = None) -> Tensor:
        """Hidden states (N, D) of the packed positions.

        feelings: (B, L, 2) sentiment class and expected sentiment of each item, NaN if unknown. Raises ValueError when
        a row has more than max_len items.
        """
        longest = int(packed.lengths[-1]) if len(packed.lengths) else 0
        if longest > self.config.max_len:
            raise ValueError(f"a sequence has {longest} items, the model reads {self.config.max_len}")
        return self.encode(self.embed(packed, feelings), packed)

    def embed(self, packed: Packed, feelings: Tensor | None) -> Tensor:
        """(N, D) items with the feelings (B, L, 2) about them."""
        x = self.items(packed.items)
        if self.sentiment_embedding is None:
            return x
        return self.sentiment_embedding(x, None if feelings is None else packed.take(feelings))

    def encode_last(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, D) vectors whose dot products with the items' are the scores. Zeros for an empty row."""
        packed = Packed(sequences)
        hidden = self.items.ids.weight.new_zeros(len(sequences), self.config.hidden)
        if not packed.groups:  # all histories are empty
            return hidden
        return hidden.index_copy(0, packed.nonempty, self(packed, feelings)[packed.last])

    def score(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> logits of the next item (B, n_items + 1), -inf at padding. An empty row scores 0 everywhere."""
        logits = self.encode_last(sequences, feelings) @ self.item_weights().T  # (B, n_items + 1)
        logits[:, 0] = -torch.inf
        return logits

    def training_pairs(self, inputs: Tensor, targets: Tensor, feelings: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states (M, D) and the item that each must predict (M,).

        inputs, targets: (B, L); the target of a position is the next item.
        """
        packed = Packed(inputs)
        return self(packed, feelings), packed.take(targets)

    def similarity(self, item: int, others: Tensor) -> Tensor:
        """(H,) int64 items -> (H,) cosine of the item's embedding and theirs."""
        vectors = self.items(torch.cat([others.new_tensor([item]), others]))  # not the whole catalogue's
        return torch.cosine_similarity(vectors[:1], vectors[1:])


class Dropout(nn.Module):
    """Dropout that draws one random byte per element instead of one float, which is several times faster on a CPU.

    The probability is rounded to 1/256, and the scale with it. Uses torch's global generator.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.threshold = round(p * 256)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.threshold:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        scales = x.new_zeros(256)  # scale of each byte
        scales[self.threshold :] = 256 / (256 - self.threshold)
        keep = scales.index_select(0, words.view(torch.uint8)[: x.numel()].int())
        return x * keep.view_as(x)


def initialise(module: nn.Module) -> None:
    """Small normal weights and zero biases, for ``nn.Module.apply``."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
