"""Caser (Tang & Wang, WSDM 2018): convolutions over the embeddings of the last items, read as an image.

Horizontal filters of heights 1..WINDOW span the full width and are max-pooled over time (equations 3 to 5). Vertical
filters weight the items of the window in each dimension (equations 6 and 7). A fully connected layer joins both
(equation 9).

Departures from the paper: every position of a row is a training instance, computed once for the whole batch; there is
no user embedding, since new users must be served too; input and output share one item embedding instead of two
(equation 10), so a linear map follows the ReLU of equation 9; the loss is the full softmax instead of binary
cross-entropy; the target is the next item, not the next T items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sealr.retrieve.models.base import Packed, SequenceModel, initialise
from sealr.settings import RetrieveConfig

WINDOW = 5  # most recent items that a position sees
HORIZONTAL = 16  # filters of each height
VERTICAL = 4  # filters over the whole window


class Caser(SequenceModel):
    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__(n_items, config, content)
        d = config.hidden
        self.horizontal = nn.ModuleList(nn.Conv1d(d, HORIZONTAL, height) for height in range(1, WINDOW + 1))
        self.vertical = nn.Linear(WINDOW, VERTICAL, bias=False)
        self.join = nn.Linear(WINDOW * HORIZONTAL + VERTICAL * d, d)
        self.out = nn.Linear(d, d)
        self.apply(initialise)

    def encode(self, x: Tensor, packed: Packed) -> Tensor:
        """(N, D) -> (N, D)."""
        images = windows(x, packed, WINDOW).transpose(1, 2)  # (N, D, WINDOW)
        across = [F.relu(filters(images)).amax(2) for filters in self.horizontal]  # WINDOW x (N, HORIZONTAL)
        down = self.vertical(images).flatten(1)  # (N, D * VERTICAL)
        return self.out(F.relu(self.join(self.dropout(torch.cat([*across, down], 1)))))


def windows(x: Tensor, packed: Packed, width: int) -> Tensor:
    """(N, D) -> (N, width, D): the last items of each position's row, oldest first; zeros before the row's start."""
    back = torch.arange(width - 1, -1, -1, device=x.device)  # (width,)
    count = x.shape[0]  # len() of a tensor is a constant in an exported graph
    source = torch.arange(count, device=x.device)[:, None] - back  # (N, width)
    source = torch.where(packed.position_ids[:, None] >= back, source, count)
    return torch.cat([x, x.new_zeros(1, x.shape[1])])[source]
