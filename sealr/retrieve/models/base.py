"""What every sequential model shares: real positions without padding, the item table, feelings, and scores.

A model file holds its paper's network alone: a ``SequenceModel`` subclass with one method, ``encode``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sealr.settings import RetrieveConfig


class Packed:
    """The N real positions of a batch of rows (B, L), where item id 0 is padding and may stand anywhere.

    Rows are sorted by their number of items, so that all rows of one length lie together: ``groups`` lists (rows, length),
    and a slice of N viewed as (rows, length, D) needs no padding and no mask. Nothing is ever computed on padding.
    """

    def __init__(self, sequences: Tensor) -> None:
        real = sequences > 0  # (B, L)
        lengths, order = real.sum(1).sort(stable=True)  # (B,), (B,)
        order, lengths = order[lengths > 0], lengths[lengths > 0]
        row, self.column = real[order].nonzero(as_tuple=True)  # (N,), (N,)
        self.row = order[row]  # (N,) row of the batch
        self.rows, self.lengths = order, lengths  # (R,) the rows that have items
        ends = lengths.cumsum(0)  # (R,)
        self.last = ends - 1  # (R,) where the newest item of each of ``rows`` is in N
        self.slot = torch.arange(len(row), device=row.device) - (ends - lengths)[row]  # (N,) place in its row, from 0
        self.age = lengths.repeat_interleave(lengths) - 1 - self.slot  # (N,) items after it in its row
        distinct, counts = lengths.unique_consecutive(return_counts=True)
        self.groups = list(zip(counts.tolist(), distinct.tolist(), strict=True))
        self.items = self.take(sequences)  # (N,)

    def take(self, values: Tensor) -> Tensor:
        """(B, L, ...) -> (N, ...)."""
        return values[self.row, self.column]

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, ...) -> one (rows * length, ...) of each group."""
        return x.split([rows * length for rows, length in self.groups])


class SequenceModel(nn.Module):
    """Items 1..n_items, padding 0; width D; input and output item embeddings are the same.

    content: (n_items + 1, C) text embeddings, used where ``config.content``: an item is then its id embedding plus a
    projection of its text embedding, on both sides. Where ``config.sentiment`` is not "none", the sentiment class and the
    expected sentiment of each past item are added to its embedding.
    """

    causal = True  # a hidden state depends on the items up to its own, not on later ones

    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(n_items + 1, config.hidden)
        self.dropout = Dropout(config.dropout)
        if config.content:
            if content is None or len(content) != n_items + 1:
                found = "none" if content is None else f"{len(content)} rows"
                raise ValueError(f"retrieve.content needs text embeddings of {n_items + 1} rows (padding first), got {found}")
            self.register_buffer("content", content.float())
            self.project = nn.Linear(content.shape[1], config.hidden, bias=False)
        if config.sentiment != "none":
            self.felt = nn.Embedding(6, config.hidden)  # classes -2..2, and 5 for none
            self.expected = nn.Linear(1, config.hidden, bias=False)

    def encode(self, x: Tensor, packed: Packed) -> Tensor:
        """Embedded items (N, D) -> hidden states (N, D). To be defined by the model."""
        raise NotImplementedError

    def item_weights(self) -> Tensor:
        """(n_items + 1, D) the item embeddings, as input and as output layer."""
        return self.items.weight + self.project(self.content) if self.config.content else self.items.weight

    def forward(self, packed: Packed, feelings: Tensor | None = None) -> Tensor:
        """Hidden states (N, D) of the packed positions.

        feelings: (B, L, 2) float sentiment class and expected sentiment of each item, NaN where not known. Raises
        ValueError when a row has more than max_len items.
        """
        longest = int(packed.lengths[-1]) if len(packed.lengths) else 0
        if longest > self.config.max_len:
            raise ValueError(f"a sequence has {longest} items, the model reads {self.config.max_len}")
        return self.encode(self.embed(packed.items, None if feelings is None else packed.take(feelings)), packed)

    def embed(self, items: Tensor, feelings: Tensor | None) -> Tensor:
        """Items (N,), feelings (N, 2) or None -> (N, D)."""
        x = self.items(items)
        if self.config.content:
            x = x + self.project(self.content[items])
        if self.config.sentiment != "none":
            known = feelings if feelings is not None else x.new_full((len(items), 2), torch.nan)
            classes = torch.where(known[:, 0].isnan(), 3, known[:, 0]).long() + 2  # (N,)
            x = x + self.felt(classes) + self.expected(known[:, 1:].nan_to_num(0.0))
        return x

    def encode_last(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, D): what a row's next item is compared with. Zeros for a row without items."""
        packed = Packed(sequences)
        hidden = self.items.weight.new_zeros(len(sequences), self.config.hidden)
        if not packed.groups:  # nobody has a history
            return hidden
        return hidden.index_copy(0, packed.rows, self(packed, feelings)[packed.last])

    def score(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> logits of the next item (B, n_items + 1), -inf at padding. A row without items scores 0 everywhere."""
        logits = self.encode_last(sequences, feelings) @ self.item_weights().T  # (B, n_items + 1)
        logits[:, 0] = -torch.inf
        return logits

    def training_pairs(self, inputs: Tensor, targets: Tensor, feelings: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What a training step learns from a batch: hidden states (M, D), and the item each shall lead to (M,).

        inputs, targets (B, L): the target at a position is the item after it. See ``objective`` of the configuration.
        """
        packed = Packed(inputs)
        hidden, wanted = self(packed, feelings), packed.take(targets)
        return (hidden[packed.last], wanted[packed.last]) if self.config.objective == "last" else (hidden, wanted)

    def similarity(self, item: int, others: Tensor) -> Tensor:
        """(H,) int64 item indices -> (H,) cosine of the item's embedding and theirs."""
        weights = self.item_weights()
        return torch.cosine_similarity(weights[item][None], weights[others])


class Dropout(nn.Module):
    """Dropout that draws one random byte for an element instead of one float, which takes a fraction of the time on a CPU.

    The probability is rounded to 1/256, and the scale with it. Follows torch's global generator.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.threshold = round(p * 256)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.threshold:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        scales = x.new_zeros(256)  # by byte
        scales[self.threshold :] = 256 / (256 - self.threshold)
        keep = scales.index_select(0, words.view(torch.uint8)[: x.numel()].int())
        return x * keep.view_as(x)


def initialise(module: nn.Module) -> None:
    """Small normal weights, zero biases: for use with ``nn.Module.apply``."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
