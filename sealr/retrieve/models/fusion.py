"""A weighted sum of several retrievers' z-scores, as one model. ``sealr.retrieve.fusion`` finds the weights.

score = sum over parts p of weight_p * (score_p - mean(score_p)) / std(score_p), with mean and deviation over all
items of a row. Standardised scores of different kinds can be added, and a weight has the same meaning for every user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sealr.config import ConfigError, from_dict, merged, to_dict
from sealr.settings import RetrieveConfig


class Fusion(nn.Module):
    """parts: models, each with the ``max_len`` of its own configuration. Initially only the first part has a weight."""

    weights: Tensor  # (parts,)

    def __init__(self, config: RetrieveConfig, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)
        self.max_len = [part.max_len for part in part_configs(config)]
        self.register_buffer("weights", torch.eye(len(parts))[0])
        self.appended = 0  # items at the end that training has not seen; they leave the others' z-scores as they are

    def score(self, sequences: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, n_items + 1), -inf at padding. Skips parts of weight 0."""
        weighted = [part for part in zip(self.parts, self.weights.tolist(), self.max_len, strict=True) if part[1]]
        scores = (w * standardise_items(p.score(newest(sequences, n), feelings), self.appended) for p, w, n in weighted)
        total: Tensor = reduce(torch.add, scores)
        total[:, 0] = -torch.inf
        return total

    def similarity(self, item: int, others: Tensor) -> Tensor:
        """(H,) as the first part measures it."""
        return self.parts[0].similarity(item, others)


def newest(sequences: Tensor, count: int) -> Tensor:
    """Rows (B, L) with padding in place of all but their ``count`` newest items."""
    real = (sequences > 0).long()
    return sequences.masked_fill(real.flip(1).cumsum(1).flip(1) > count, 0)


def standardise(scores: Tensor, uncounted: int = 0) -> Tensor:
    """(..., n) -> z-scores over the last dimension; all 0 where the scores of a row are equal.

    uncounted: scores at the end that have no part in mean and deviation.
    """
    counted = scores[..., : scores.shape[-1] - uncounted]
    spread, mean = torch.std_mean(counted, dim=-1, correction=0, keepdim=True)  # (..., 1)
    return torch.where(spread > 1e-6 * mean.abs(), (scores - mean) / spread, 0.0)  # a smaller spread is rounding


def standardise_items(scores: Tensor, uncounted: int = 0) -> Tensor:
    """(B, n_items + 1) -> z-scores over the items of each row, 0 at padding. uncounted: as in `standardise`."""
    return F.pad(standardise(scores[:, 1:], uncounted), (1, 0))


def part_configs(config: RetrieveConfig, setting: str = "retrieve.parts") -> list[RetrieveConfig]:
    """The configuration of each part: the fusion's with the part's changes. Raises ConfigError naming the part.

    setting: where the user wrote the parts.
    """
    if not config.parts:
        raise ConfigError("retrieve.parts: a fusion needs parts, e.g. retrieve.parts=[{model: sasrec}, {model: ease}]")
    parts = [_part(config, f"{setting}[{number}]", values) for number, values in enumerate(config.parts)]
    kinds = {part.sentiment for part in (config, *parts)} - {"none"}
    seeds = {part.seed for part in parts if part.sentiment == "shuffled"}
    if len(kinds) > 1 or seeds - {config.seed}:  # all parts get the same array of feelings
        raise ConfigError(
            f"{setting}: parts with sentiment must read the same feelings: set one retrieve.sentiment, and with "
            "shuffled no other seed than the fusion's"
        )
    if any(part.tuning_users != config.tuning_users for part in parts):
        raise ConfigError(
            f"{setting}: all parts must learn from the same users: set retrieve.tuning_users, and no part's own"
        )
    return parts


def parts_of(config: RetrieveConfig) -> list[RetrieveConfig]:
    """The configurations of a fusion's parts; empty for any other model."""
    return part_configs(config) if config.model == "fusion" else []


def teacher_of(config: RetrieveConfig) -> RetrieveConfig | None:
    """The fusion that teaches a retriever, with the retriever's settings where its parts name no others.

    Raises ConfigError naming the part that cannot be one.
    """
    if not config.teacher:
        return None
    teacher = replace(config, model="fusion", parts=config.teacher, teacher=(), index="exact")
    for number, part in enumerate(part_configs(teacher, "retrieve.teacher")):
        if part.sentiment != "none" or part.content != config.content:
            raise ConfigError(
                f"retrieve.teacher[{number}]: a teacher reads no sentiments, and of items what its pupil reads: "
                "remove sentiment and content from it, and set retrieve.content"
            )
    return teacher


def built_on(config: RetrieveConfig) -> list[RetrieveConfig]:
    """The retrievers that are trained before this one: its parts, or its teacher after the teacher's parts."""
    teacher = teacher_of(config)
    return [*parts_of(teacher), teacher] if teacher else parts_of(config)


def reads_feelings(config: RetrieveConfig) -> bool:
    """Whether a retriever, or a part of it, reads sentiments."""
    return any(part.sentiment != "none" for part in (config, *parts_of(config)))


def _part(config: RetrieveConfig, name: str, values: dict[str, Any]) -> RetrieveConfig:
    if values.get("model", "fusion") == "fusion" or values.get("parts") or values.get("teacher"):
        raise ConfigError(f"{name}: every part needs a model other than fusion, and no teacher, got {values}")
    part: RetrieveConfig = from_dict(
        RetrieveConfig, merged(to_dict(config) | {"parts": (), "teacher": ()}, values), name
    )
    if part.max_len > config.max_len:
        raise ConfigError(f"{name}.max_len: {part.max_len} is more than retrieve.max_len, which is {config.max_len}")
    return part
