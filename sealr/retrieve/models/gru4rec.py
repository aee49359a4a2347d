"""GRU4Rec (Hidasi et al., ICLR 2016): a recurrent network over a user's items.

h_t = GRU(x_t, h_{t-1}); an item's score is the dot product of its embedding with a linear map of h_t.

Departures from the paper: the full softmax instead of the TOP1 and BPR losses over the other sessions of a batch
(section 3.2.2), whose later form does worse (Hidasi & Karatzoglou 2018); whole rows instead of session-parallel
batches (3.1), so every state is trained through its whole past; inputs are item embeddings shared with the output
instead of one-hot vectors; AdamW instead of Adagrad.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sealr.retrieve.models.base import Packed, SequenceModel, initialise
from sealr.settings import RetrieveConfig


class GRU4Rec(SequenceModel):
    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__(n_items, config, content)
        between = config.dropout if config.layers > 1 else 0.0  # torch warns about dropout with a single layer
        self.gru = nn.GRU(config.hidden, config.hidden, config.layers, dropout=between)
        self.out = nn.Linear(config.hidden, config.hidden)
        self.apply(initialise)

    def encode(self, x: Tensor, packed: Packed) -> Tensor:
        """(N, D) -> (N, D)."""
        order = timesteps(packed)  # (N,)
        sizes = packed.position_ids.bincount().cpu()  # (longest,) rows that continue at each step
        states = self.gru(PackedSequence(self.dropout(x)[order], sizes))[0].data  # (N, D)
        return self.out(self.dropout(torch.empty_like(states).index_copy(0, order, states)))


def timesteps(packed: Packed) -> Tensor:
    """(N,) positions by time step: all first items, then all second ones, longer rows first as torch requires."""
    rows = len(packed.nonempty)
    descending = torch.arange(rows - 1, -1, -1, device=packed.lengths.device)  # the longest row gets 0
    return (packed.position_ids * rows + descending.repeat_interleave(packed.lengths)).argsort()
