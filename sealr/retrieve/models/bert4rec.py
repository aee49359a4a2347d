"""BERT4Rec (Sun et al., CIKM 2019): bidirectional self-attention, trained to guess hidden items of a row.

Training (section 3.6, the cloze task): some items of a row are replaced by a mask, and the hidden states at the masks are
compared with the items that were there. To recommend, a mask is put after the newest item. The share of the rows in which
only the last item is hidden, as when recommending, is LAST_ONLY; with ``objective: last`` it is all of them.

Places count from the newest one, so that the mask of a recommendation always stands at the same (the original pads on the left).

Shapes: a row of L items and the item after it are L + 1 places, of which M are masked, at least one of a row.

Departures from the paper: masks are drawn anew every epoch; blocks are pre-LN; the mask has a place beyond max_len,
so that max_len items are read as in the other models; no bias per item in the output (equation 7); linear layers start from torch's weights, which at these widths are three times the
original's: a mask knows of no item but through attention, which with the small ones stays even for many epochs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sealr.retrieve.models.base import Packed, SequenceModel, initialise
from sealr.retrieve.models.layers import Block
from sealr.settings import RetrieveConfig

LAST_ONLY = 0.1


class BERT4Rec(SequenceModel):
    causal = False

    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__(n_items, config, content)
        self.positions = nn.Embedding(config.max_len + 1, config.hidden)
        self.mask = nn.Parameter(torch.randn(config.hidden) * 0.02)
        blocks = (Block(config.hidden, config.heads, config.dropout, causal=False) for _ in range(config.layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.hidden)
        self.out = nn.Linear(config.hidden, config.hidden)
        self.out_norm = nn.LayerNorm(config.hidden)
        for table in (self.items, self.positions):
            initialise(table)

    def encode(self, x: Tensor, packed: Packed) -> Tensor:
        """(N, D) -> (N, D), equations 1 to 6 and the inner part of 7."""
        x = self.dropout(x + self.positions(packed.age))
        for block in self.blocks:
            x = block(x, packed)
        return self.out_norm(F.gelu(self.out(self.norm(x))))

    def encode_masked(self, packed: Packed, masked: Tensor, feelings: Tensor | None) -> Tensor:
        """Hidden states (M, D) of the places where masked (N,) is true. feelings: as in ``forward``.

        At a mask the network sees neither the item nor how the user felt about it.
        """
        x = self.embed(packed.items, None if feelings is None else packed.take(feelings))  # (N, D)
        return self.encode(torch.where(masked[:, None], self.mask, x), packed)[masked]

    def encode_last(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, D): hidden states of a mask after each row's newest item. Zeros for a row without items."""
        real = sequences > 0
        if (longest := int(real.sum(1).max())) > self.config.max_len:
            raise ValueError(f"a sequence has {longest} items, the model reads {self.config.max_len}")
        packed = Packed(torch.cat([sequences, real.any(1, keepdim=True).long()], 1))  # any item can stand where the mask will
        hidden = self.mask.new_zeros(len(sequences), self.config.hidden)
        if not packed.groups:
            return hidden
        masked = torch.zeros_like(packed.items, dtype=torch.bool)
        masked[packed.last] = True
        felt = None if feelings is None else F.pad(feelings, (0, 0, 0, 1), value=torch.nan)
        return hidden.index_copy(0, packed.rows, self.encode_masked(packed, masked, felt))

    def training_pairs(self, inputs: Tensor, targets: Tensor, feelings: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states (M, D) at masked places of the full rows, and the items that were there (M,)."""
        packed = Packed(torch.cat([inputs[:, :1], targets], 1))  # (B, L + 1) places
        last_only = 1.0 if self.config.objective == "last" else LAST_ONLY
        masked = draw_masks(packed, len(inputs), self.config.bert4rec.mask_share, last_only)
        felt = None  # nothing is known of how the user will feel about the last item
        if feelings is not None:
            felt = F.pad(feelings.masked_fill(inputs[..., None] == 0, torch.nan), (0, 0, 0, 1), value=torch.nan)
        return self.encode_masked(packed, masked, felt), packed.items[masked]


def draw_masks(packed: Packed, rows: int, share: float, last_only: float) -> Tensor:
    """(N,) bool: each place with probability ``share`` and at least one of a row; of ``last_only`` of the rows the last alone."""
    where = packed.items.device
    draw = torch.rand(len(packed.items), device=where)  # (N,)
    least = torch.full((rows,), torch.inf, device=where).scatter_reduce(0, packed.row, draw, "amin")[packed.row]  # (N,)
    last = torch.zeros_like(draw, dtype=torch.bool)
    last[packed.last] = True
    alone = (torch.rand(rows, device=where) < last_only)[packed.row]  # (N,)
    return torch.where(alone, last, (draw < share) | (draw == least))
