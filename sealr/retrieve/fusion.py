"""Fusion of trained retrievers: finds weights on the validation items and saves the weighted sum as a retriever.

Neural parts start with weight 1, because independently trained models make different errors and their mean is a good
guess. Other parts start with 0. The first part keeps weight 1. Each other part in turn gets the weight of WEIGHTS
with the best validation NDCG@10, given the current weights of the others, if the cross-fitted gain over its current
weight is clear of 0; PASSES repeat this. ``benchmarks/studies/fusion-weights.md`` compares this with other rules.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sealr.data.manifest import StageResult
from sealr.data.sequences import Sequences
from sealr.evaluate.crossfit import best, held_out_gain
from sealr.evaluate.metrics import ndcg
from sealr.evaluate.statistics import shown
from sealr.retrieve.candidates import ranks_among, score_blocks
from sealr.retrieve.models import build
from sealr.retrieve.models.fusion import part_configs, standardise_items
from sealr.retrieve.retriever import Retriever, device, save
from sealr.retrieve.train import validate
from sealr.settings import VECTOR_MODELS, RetrieveConfig

log = logging.getLogger(__name__)
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0)
PASSES = 2
DEPTH = 100  # best items of each part that can reach the first ten of the sum
USERS = 30_000  # users on whom weights are tried; the scores of seven parts take 600 MB


def fuse(
    config: RetrieveConfig,
    parts: list[Retriever],
    sequences: Sequences,
    folder: Path,
    feelings: np.ndarray | None = None,
    weights: list[float] | None = None,
) -> StageResult:
    """Finds the weights of ``parts``, trained with ``part_configs(config)``, and writes what ``load`` reads.

    feelings: as in ``train``. weights: of the parts, where they are known; then nothing is validated. Raises ValueError
    when a part has another configuration, or without users to validate on.
    """
    for number, (part, wanted) in enumerate(zip(parts, part_configs(config), strict=True)):
        if part.config != wanted:
            raise ValueError(f"part {number} ({part.config.model}) was not trained with the settings in retrieve.parts")
    if weights is None and not len(sequences.split("valid")):
        raise ValueError(
            "no user has three items and held-out ones: there is nothing to tune the weights of a fusion on"
        )
    chosen = tune_weights(parts, sequences, config.exclude_seen, feelings) if weights is None else weights
    contents = [dict(part.model.named_buffers()).get("items.content") for part in parts]
    with torch.random.fork_rng():  # spares the caller's generator the draws of weights that are overwritten
        model: Any = build(config, sequences.n_items, contents).to(device()).eval()
    for mine, part in zip(model.parts, parts, strict=True):
        mine.load_state_dict(part.model.state_dict())
    model.weights.copy_(torch.tensor(chosen))
    epochs = tuple(count for part in parts for count in part.epochs)
    retriever = Retriever(config, sequences.items, model, parts[0].popularity, epochs)
    reached = validate(retriever, sequences, feelings) if weights is None else {}
    save(retriever, folder, {"best": reached, "weights": chosen})
    metrics = {f"valid_{name}": value for name, value in reached.items()}
    metrics |= {f"weight_{number}_{part.config.model}": chosen[number] for number, part in enumerate(parts)}
    return StageResult({"users": len(sequences), "items": sequences.n_items}, metrics)


def tune_weights(
    parts: list[Retriever], sequences: Sequences, exclude_seen: bool, feelings: np.ndarray | None = None
) -> list[float]:
    """The weight of each part, 1 for the first."""
    return choose_weights(shortlist(parts, sequences, exclude_seen, feelings), [part.config.model for part in parts])


def choose_weights(near: Shortlist, models: list[str]) -> list[float]:
    """The weight of each part of a shortlist, 1 for the first. models: what the parts are."""
    weights = [1.0] + [1.0 if model in VECTOR_MODELS else 0.0 for model in models[1:]]
    for number in [*range(1, len(models))] * PASSES:
        tried, now = near.try_weights(weights, number).T, weights[number]  # (len(WEIGHTS), N)
        gain, wanted = held_out_gain(tried, WEIGHTS.index(now)), WEIGHTS[best(tried)]
        if gain[1] > 0:
            weights[number] = wanted
        text = "fusion: %s at weight %g: weight %g against %g has a cross-fitted gain in validation NDCG@10 of %s"
        log.info(text, models[number], weights[number], wanted, now, shown(*gain))
    return weights


@dataclass(frozen=True)
class Shortlist:
    """Standardised scores of the items that can rank high, to try weights without scoring the catalogue again.

    scores (P, N, K): of P parts for N users. real (N, K): False for seen or repeated items. targets (N,): their
    columns.
    """

    scores: Tensor
    real: Tensor
    targets: Tensor

    def ndcg(self, total: Tensor) -> np.ndarray:
        """(N, K) sums of scores -> (N,) NDCG@10. Columns are in item order, so ties break as everywhere."""
        total = total.masked_fill(~self.real, -torch.inf)
        return ndcg(ranks_among(total, self.targets).numpy(), 10)

    def try_weights(self, weights: list[float], number: int) -> np.ndarray:
        """(N, len(WEIGHTS)) NDCG@10 with each weight in place of ``weights[number]``."""
        base = sum(w * self.scores[n] for n, w in enumerate(weights) if w and n != number)  # includes the first part
        return np.stack([self.ndcg(base + weight * self.scores[number]) for weight in WEIGHTS], axis=1)


def shortlist(
    parts: list[Retriever], sequences: Sequences, exclude_seen: bool, feelings: np.ndarray | None = None
) -> Shortlist:
    """The DEPTH best items of every part and the target, for all validation users or a sample of USERS."""
    valid = sequences.split("valid")
    drawn = np.sort(np.random.default_rng(0).permutation(len(valid))[:USERS])
    valid = replace(valid, **{name: getattr(valid, name)[drawn] for name in ("users", "starts", "ends", "targets")})
    blocks = (
        score_blocks(part, sequences, valid, False, feelings, f"scores of {part.config.model}", exclude_unknown=False)
        for part in parts
    )
    made = []
    for together in zip(*blocks, strict=True):
        users = together[0][0]
        scores = torch.stack([standardise_items(block) for _, block in together])  # (P, B, items + 1)
        allowed = torch.ones(scores.shape[1:], dtype=torch.bool)
        allowed[:, 0] = False
        if sequences.cuts is not None:
            allowed &= torch.from_numpy(sequences.known)
        if exclude_seen:
            histories = [valid.history(user) for user in users]
            rows = torch.from_numpy(np.repeat(np.arange(len(users)), [len(h) for h in histories]))
            allowed[rows, torch.from_numpy(np.concatenate(histories))] = False
        best = (
            scores.masked_fill(~allowed, -torch.inf).topk(min(DEPTH, scores.shape[2] - 1), dim=2).indices
        )  # (P, B, D)
        targets = torch.from_numpy(valid.targets[users])  # (B,)
        items = torch.cat([*best, targets[:, None]], dim=1).sort(dim=1).values  # (B, P * D + 1)
        real = allowed.gather(1, items)
        real[:, 1:] &= items[:, 1:] != items[:, :-1]
        column = torch.searchsorted(items, targets[:, None])[:, 0]  # the first of repeated items is the real one
        made.append((torch.stack([s.gather(1, items) for s in scores]), real, column))
    return Shortlist(
        torch.cat([m[0] for m in made], 1), torch.cat([m[1] for m in made]), torch.cat([m[2] for m in made])
    )
