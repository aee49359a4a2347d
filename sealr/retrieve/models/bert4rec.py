"""BERT4Rec (Sun et al., CIKM 2019): bidirectional self-attention, trained to predict masked items of a row.

Training (section 3.6, the cloze task) replaces some items of a row by a mask and compares the hidden states at the
masks with the original items. In a share LAST_ONLY of the rows only the last item is masked, as in recommendation,
where a mask follows the newest item.

Positions count from the newest item, so the mask of a recommendation has the same position in every row. (The original
gets this effect by padding on the left.)

Shapes: a row of L items and its next item are L + 1 positions, of which M are masked, at least one per row.

Departures from the paper: masks are drawn anew in every epoch; blocks are pre-LN; the mask has a position of its own
beyond max_len, so max_len items are read as in the other models; the output has no bias per item (equation 7). Linear
layers keep torch's initial weights, which at these widths are three times larger than the original's. A mask sees items
only through attention, and with the small weights that attention stays uniform for many epochs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sealr.retrieve.models.base import Packed, SequenceModel, initialise
from sealr.retrieve.models.layers import Block
from sealr.settings import RetrieveConfig

MASK_SHARE = 0.2  # of a row's items in training
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
        for table in (self.items.ids, self.positions):
            initialise(table)

    def encode(self, x: Tensor, packed: Packed) -> Tensor:
        """(N, D) -> (N, D), equations 1 to 6 and the inner part of 7."""
        x = self.dropout(x + self.positions(packed.positions_from_end))
        for block in self.blocks:
            x = block(x, packed)
        return self.out_norm(F.gelu(self.out(self.norm(x))))

    def encode_masked(self, packed: Packed, masked: Tensor, feelings: Tensor | None) -> Tensor:
        """Hidden states (M, D) of the positions where masked (N,) is true. feelings: as in ``forward``.

        A mask hides both the item and the user's feelings about it.
        """
        x = self.embed(packed, feelings)  # (N, D)
        return self.encode(torch.where(masked[:, None], self.mask, x), packed)[masked]

    def encode_last(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, D) hidden states of a mask after each row's newest item. Zeros for an empty row."""
        real = sequences > 0
        if (longest := int(real.sum(1).max())) > self.config.max_len:
            raise ValueError(f"a sequence has {longest} items, the model reads {self.config.max_len}")
        packed = Packed(torch.cat([sequences, real.any(1, keepdim=True).long()], 1))  # item 1 stands in for the mask
        hidden = self.mask.new_zeros(len(sequences), self.config.hidden)
        if not packed.groups:
            return hidden
        masked = torch.zeros_like(packed.items, dtype=torch.bool)
        masked[packed.last] = True
        feelings = None if feelings is None else F.pad(feelings, (0, 0, 0, 1), value=torch.nan)
        return hidden.index_copy(0, packed.nonempty, self.encode_masked(packed, masked, feelings))

    def training_pairs(self, inputs: Tensor, targets: Tensor, feelings: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states (M, D) at masked positions of the full rows, and the original items there (M,)."""
        packed = Packed(torch.cat([inputs[:, :1], targets], 1))  # (B, L + 1)
        masked = draw_masks(packed, len(inputs), MASK_SHARE, LAST_ONLY)
        if feelings is not None:  # the feelings about the last item are unknown
            feelings = F.pad(feelings.masked_fill(inputs[..., None] == 0, torch.nan), (0, 0, 0, 1), value=torch.nan)
        return self.encode_masked(packed, masked, feelings), packed.items[masked]


def draw_masks(packed: Packed, rows: int, share: float, last_only: float) -> Tensor:
    """(N,) bool: each position with probability ``share``, at least one per row.

    In a share ``last_only`` of the rows only the last position is masked.
    """
    device = packed.items.device
    draw = torch.rand(len(packed.items), device=device)  # (N,)
    lowest = torch.full((rows,), torch.inf, device=device).scatter_reduce(0, packed.row, draw, "amin")[
        packed.row
    ]  # (N,)
    last = torch.zeros_like(draw, dtype=torch.bool)
    last[packed.last] = True
    only_last = (torch.rand(rows, device=device) < last_only)[packed.row]  # (N,)
    return torch.where(only_last, last, (draw < share) | (draw == lowest))
