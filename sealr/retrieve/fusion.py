"""Fusion of trained retrievers: weights found on validation, one part at a time, and the sum kept as a retriever of its own.

The first part has weight 1. Each other part gets the weight of WEIGHTS with the best validation NDCG@10 beside the
others' current weights, but only where its gain over weight 0 is clear of 0 by a paired 95 % interval over the validation
users: among several weights some always looks a little better. A second pass looks at each part again.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from sealr.config import RetrieveConfig
from sealr.data.manifest import Output
from sealr.data.sequences import Sequences
from sealr.evaluate.metrics import ndcg
from sealr.evaluate.statistics import paired_bootstrap
from sealr.retrieve.candidates import ranks_among, score_blocks
from sealr.retrieve.models import build
from sealr.retrieve.models.fusion import part_configs, standardise
from sealr.retrieve.retriever import Retriever, device, save
from sealr.retrieve.train import validate

log = logging.getLogger(__name__)
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0)
PASSES = 2


def fuse(
    config: RetrieveConfig, parts: list[Retriever], sequences: Sequences, folder: Path, feelings: np.ndarray | None = None
) -> Output:
    """Finds the weights of ``parts``, trained with ``part_configs(config)``, and writes what ``load`` reads.

    feelings: as in ``train``. Raises ValueError when a part has another configuration or catalogue, or nobody validates.
    """
    for number, (part, wanted) in enumerate(zip(parts, part_configs(config), strict=True)):
        if part.config != wanted:
            raise ValueError(
                f"part {number} ({part.config.model}) was not trained with the configuration that retrieve.parts says"
            )
    if not len(sequences.split("valid")):
        raise ValueError("no user has three items: there is nothing to find the weights of a fusion on")
    weights = tune_weights(parts, sequences, config.exclude_seen, feelings)
    content = next((buffer for part in parts for name, buffer in part.model.named_buffers() if name == "content"), None)
    with torch.random.fork_rng():  # the fresh weights are overwritten
        model = build(config, sequences.n_items, content).to(device()).eval()
    for mine, part in zip(model.parts, parts, strict=True):
        mine.load_state_dict(part.model.state_dict())
    model.weights.copy_(torch.tensor(weights))
    retriever = Retriever(config, sequences.items, model, parts[0].popularity)
    best = validate(retriever, sequences, feelings)
    save(retriever, folder, {"best": best, "weights": weights})
    metrics = {f"valid_{name}": value for name, value in best.items()}
    metrics |= {f"weight_{number}_{part.config.model}": weights[number] for number, part in enumerate(parts)}
    return Output({"users": len(sequences), "items": sequences.n_items}, metrics)


def tune_weights(
    parts: list[Retriever], sequences: Sequences, exclude_seen: bool, feelings: np.ndarray | None = None
) -> list[float]:
    """The weight of each part, 1 for the first."""
    weights = [1.0] + [0.0] * (len(parts) - 1)
    known: dict[tuple[float, ...], float] = {}  # others' weights, with -1 for the part that was tried -> its weight
    for number in [*range(1, len(parts))] * PASSES:
        others = tuple(-1.0 if n == number else weight for n, weight in enumerate(weights))
        if others not in known:
            values = _try_weights(parts, weights, number, sequences, exclude_seen, feelings)  # (users, len(WEIGHTS))
            best = int(values.mean(0).argmax())  # the lowest of equal ones
            gain, low, high = paired_bootstrap(values[:, best], values[:, 0])
            known[others] = WEIGHTS[best] if low > 0 else 0.0
            text = "fusion: %s at its best weight %g: validation NDCG@10 %+.4f (%+.4f to %+.4f), so its weight is %g"
            log.info(text, parts[number].config.model, WEIGHTS[best], gain, low, high, known[others])
        weights[number] = known[others]
    return weights


def _try_weights(
    parts: list[Retriever],
    weights: list[float],
    number: int,
    sequences: Sequences,
    exclude_seen: bool,
    feelings: np.ndarray | None,
) -> np.ndarray:
    """(validation users, len(WEIGHTS)) NDCG@10 with each weight in the place of ``weights[number]``. One pass over the users."""
    valid = sequences.split("valid")
    used = [n for n, weight in enumerate(weights) if weight and n != number]
    asked = [number, *used]
    blocks = (score_blocks(parts[n], sequences, valid, False, feelings, f"weight of {parts[number].config.model}") for n in asked)
    values = np.zeros((len(valid), len(WEIGHTS)))
    for together in zip(*blocks, strict=True):
        users = together[0][0]
        mine, *rest = (standardise(scores) for _, scores in together)  # (B, items + 1)
        base = sum(weights[n] * scores for n, scores in zip(used, rest, strict=True))  # the first part is always among them
        if exclude_seen:
            histories = [valid.history(user) for user in users]
            rows = torch.from_numpy(np.repeat(np.arange(len(users)), [len(h) for h in histories]))
            base[rows, torch.from_numpy(np.concatenate(histories))] = -torch.inf
        base[:, 0] = -torch.inf
        targets = torch.from_numpy(valid.targets[users])
        for column, weight in enumerate(WEIGHTS):
            values[users, column] = ndcg(ranks_among(base + weight * mine, targets).numpy(), 10)
    return values
