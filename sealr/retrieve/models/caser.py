"""Caser (Tang & Wang, WSDM 2018): convolutions over the image that the last items' embeddings make.

Horizontal filters of heights 1..window span the whole width and are max-pooled over time (equations 3 to 5), vertical ones
weigh the items of the window dimension by dimension (equations 6 and 7); a fully connected layer joins both (equation 9).

Departures from the paper: every position of a row is a training instance, computed once for the whole batch; no user
embedding, since a user who was not trained on must be served too; one output embedding that is also the input's instead of
two (equation 10), which is why a linear map follows equation 9's relu; the full softmax instead of binary
cross-entropy; and targets are the next item alone, not the next T.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sealr.retrieve.models.base import Packed, SequenceModel, initialise
from sealr.settings import RetrieveConfig


class Caser(SequenceModel):
    def __init__(self, n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> None:
        super().__init__(n_items, config, content)
        d, (window, filters, columns) = config.hidden, (config.caser.window, config.caser.horizontal, config.caser.vertical)
        self.horizontal = nn.ModuleList(nn.Conv1d(d, filters, height) for height in range(1, window + 1))
        self.vertical = nn.Linear(window, columns, bias=False)
        self.join = nn.Linear(window * filters + columns * d, d)
        self.out = nn.Linear(d, d)
        self.apply(initialise)

    def encode(self, x: Tensor, packed: Packed) -> Tensor:
        """(N, D) -> (N, D)."""
        images = windows(x, packed, self.config.caser.window).transpose(1, 2)  # (N, D, W)
        across = [F.relu(filters(images)).amax(2) for filters in self.horizontal]  # W x (N, filters)
        down = self.vertical(images).flatten(1)  # (N, D * columns)
        return self.out(F.relu(self.join(self.dropout(torch.cat([*across, down], 1)))))


def windows(x: Tensor, packed: Packed, width: int) -> Tensor:
    """(N, D) -> (N, width, D): each position's last items of its row, oldest first; zeros before the row's start."""
    age = torch.arange(width - 1, -1, -1, device=x.device)  # (W,)
    where = torch.arange(len(x), device=x.device)[:, None] - age  # (N, W)
    where = torch.where(packed.slot[:, None] >= age, where, len(x))
    return torch.cat([x, x.new_zeros(1, x.shape[1])])[where]
