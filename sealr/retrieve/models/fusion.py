"""A weighted sum of several retrievers' z-scores, as one model. ``sealr.retrieve.fusion`` finds the weights.

score = sum over parts p of weight_p * (score_p - mean(score_p)) / std(score_p), mean and deviation over all items of a row.
Standardised so, scores of different kinds can be added, and a weight means the same for every user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sealr.config import ConfigError, from_dict, merged, to_dict
from sealr.settings import RetrieveConfig


class Fusion(nn.Module):
    """parts: models, each with the ``max_len`` of its own configuration. Until weights are found, the first part alone counts."""

    def __init__(self, config: RetrieveConfig, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.max_len = [part.max_len for part in part_configs(config)]
        self.register_buffer("weights", torch.eye(len(parts))[0])

    def score(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, n_items + 1), -inf at padding. Parts of weight 0 are not asked."""
        total: Tensor | None = None
        for part, weight, max_len in zip(self.parts, self.weights.tolist(), self.max_len, strict=True):
            if weight:
                scores = weight * standardise(part.score(newest(sequences, max_len), feelings))
                total = scores if total is None else total + scores
        total[:, 0] = -torch.inf
        return total

    def similarity(self, item: int, others: Tensor) -> Tensor:
        """(H,) in the first part's terms."""
        return self.parts[0].similarity(item, others)


def newest(sequences: Tensor, count: int) -> Tensor:
    """Rows (B, L) with all but their ``count`` newest items made padding."""
    real = (sequences > 0).long()
    return sequences.masked_fill(real.flip(1).cumsum(1).flip(1) > count, 0)


def standardise(scores: Tensor) -> Tensor:
    """(B, n_items + 1) -> z-scores over the items of each row, 0 at padding; all 0 where a row's scores are equal."""
    real = scores[:, 1:]
    spread, mean = torch.std_mean(real, dim=1, correction=0, keepdim=True)  # (B, 1)
    z = torch.zeros_like(scores)
    z[:, 1:] = torch.where(spread > 1e-6 * mean.abs(), (real - mean) / spread, 0.0)  # below that, spread is rounding
    return z


def part_configs(config: RetrieveConfig) -> list[RetrieveConfig]:
    """The configuration of each part: that of the fusion with what ``parts`` says. Raises ConfigError naming part and field."""
    if not config.parts:
        raise ConfigError("retrieve.parts: a fusion needs parts, e.g. retrieve.parts=[{model: sasrec}, {model: ease}]")
    parts = [_part(config, number, values) for number, values in enumerate(config.parts)]
    kinds = {part.sentiment for part in (config, *parts)} - {"none"}
    seeds = {part.seed for part in parts if part.sentiment == "shuffled"}
    if len(kinds) > 1 or seeds - {config.seed}:  # one array of feelings goes to all of them
        raise ConfigError(
            "retrieve.parts: those that read feelings must read the same: one retrieve.sentiment, and if that is shuffled, the "
            "fusion's seed"
        )
    if any(part.tuning_users != config.tuning_users for part in parts):
        raise ConfigError("retrieve.parts: all must learn from the same users: set retrieve.tuning_users of the fusion, not of a part")
    return parts


def _part(config: RetrieveConfig, number: int, values: dict[str, Any]) -> RetrieveConfig:
    name = f"retrieve.parts[{number}]"
    if values.get("model", "fusion") == "fusion" or values.get("parts"):
        raise ConfigError(f"{name}: every part needs a model other than fusion, got {values}")
    part: RetrieveConfig = from_dict(RetrieveConfig, merged(to_dict(config) | {"parts": ()}, values), name)
    if part.max_len > config.max_len:
        raise ConfigError(f"{name}.max_len: {part.max_len} is more than the {config.max_len} items that the fusion reads")
    return part
