"""Learning from disliked targets at training time, beside ranking by predicted satisfaction.

``python benchmarks/negative_feedback.py REVIEWS`` trains SASRec (ids only) on the reviews of an ingested data set
with stars, in five ways, and prints a table of hits on liked and disliked test targets. Weights of the losses are
chosen on validation targets, by HR@10 on liked minus disliked ones with HR@10 of all kept, as for satisfaction.

* all targets: every next item is a target, as everywhere else.
* liked targets: disliked items stay in the histories and are no targets.
* liked items: disliked items are in neither.
* not to recommend: -log(1 - p) on disliked targets (Wang et al., RecSys 2023, arXiv 2308.12256).
* contrast: after PNFRec (RecSys 2025): a second transformer predicts the disliked items, and a contrastive term prefers
  the next liked item to the user's disliked ones. The schedule and sizes are ours.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from sealr.data.sequences import Sequences, build
from sealr.data.tables import read_table
from sealr.evaluate.gladness import Gladness, gladness
from sealr.evaluate.liking import liking
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import shown
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.models import build as build_model
from sealr.retrieve.models.base import Packed
from sealr.retrieve.retriever import Retriever, device, popularity
from sealr.retrieve.train import NextItem, trainer_options
from sealr.settings import RetrieveConfig
from sealr.trainer import Trainer

WEIGHTS = (0.1, 0.3, 1.0)  # of a loss, tried on validation with the first seed
HARM = 0.02  # share of all hits that a way may lose on validation
TEMPERATURE = 0.5
WAYS = ("all targets", "liked targets", "liked items", "not to recommend", "contrast")


class Taught(NextItem):
    """The retriever's task with losses that know which items were disliked.

    liked (interactions,): 1, 0 or NaN. An unknown item counts as liked.
    """

    def __init__(self, retriever: Retriever, sequences: Sequences, liked: np.ndarray, way: str, weight: float) -> None:
        following = np.append(liked[1:], np.nan)  # the target of a position is the next interaction
        super().__init__(retriever, sequences, np.stack([liked, following], axis=1).astype(np.float32))
        self.feelings, self.way, self.weight = None, way, weight  # validation reads no feelings
        self.other = copy.deepcopy(self.model) if way == "contrast" else None
        if self.other is not None:
            self.other.items = self.model.items  # both transformers share the items
            self.model.other = self.other

    def loss(self, shard: tuple[Tensor | None, ...], batch: object, epoch: int) -> tuple[Tensor, float]:
        inputs, targets, felt = shard
        assert inputs is not None and targets is not None and felt is not None
        packed = Packed(inputs)
        hidden, wanted = self.model(packed), packed.take(targets)  # (M, D), (M,)
        disliked = packed.take(felt)[:, 1] == 0  # (M,)
        logits = hidden @ self.model.item_weights()[1:].T  # (M, V)
        each = F.cross_entropy(logits, wanted - 1, reduction="none")
        if self.way == "all targets" or not disliked.any():
            return each.mean(), len(wanted)
        loss = each[~disliked].mean()
        if self.way == "not to recommend":
            avoid = torch.log1p(-torch.exp(-each[disliked]).clamp(max=1 - 1e-6))
            loss = loss - self.weight * avoid.mean()
        elif self.way == "contrast":
            assert self.other is not None
            against = self.other(packed)[disliked] @ self.model.item_weights()[1:].T
            loss = loss + self.weight * F.cross_entropy(against, wanted[disliked] - 1)
            bad = torch.where((felt[..., 0] == 0) & (inputs > 0), inputs, 0)[packed.row]  # (M, L) disliked, same user
            vectors = F.normalize(self.model.item_weights(), dim=1)
            query = F.normalize(hidden, dim=1)
            near = torch.einsum("md,mld->ml", query, vectors[bad]) / TEMPERATURE
            near = near.masked_fill(bad == 0, -torch.inf)
            own = (query * vectors[wanted]).sum(1, keepdim=True) / TEMPERATURE
            terms = torch.cat([own, near], 1).logsumexp(1) - own[:, 0]
            loss = loss + self.weight * terms[~disliked].mean()
        return loss, len(wanted)


def without_disliked(sequences: Sequences, liked: np.ndarray) -> Sequences:
    """The sequences without disliked items, but with everybody's last two, which are held out."""
    kept = (liked != 0) | np.isin(np.arange(len(liked)), np.r_[sequences.offsets[1:] - 1, sequences.offsets[1:] - 2])
    lengths = np.add.reduceat(kept.astype(np.int64), sequences.offsets[:-1])
    return replace(sequences, flat=sequences.flat[kept], offsets=np.r_[0, np.cumsum(lengths)])


def train(way: str, weight: float, seed: int, sequences: Sequences, glad: Gladness) -> tuple[np.ndarray, np.ndarray]:
    """Validation and test ranks of all users with held-out items."""
    config = RetrieveConfig(seed=seed)
    learned = without_disliked(sequences, glad.liked) if way == "liked items" else sequences
    liked = np.zeros(len(learned.flat), np.float32) + 1 if way == "liked items" else glad.liked
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        model = build_model(config, sequences.n_items).to(device())
        retriever = Retriever(config, sequences.items, model, popularity(sequences))
        task = Taught(retriever, learned, liked, way, weight)
        options = trainer_options(config, len(task.training))
        Trainer(task, options, Path(folder) / "retriever.pt", {"way": way, "weight": weight, "seed": seed}).fit(None)
        model.eval()
        return target_ranks(retriever, sequences, "valid", True), target_ranks(retriever, sequences, "test", True)


def utility(ranks: np.ndarray, liked: np.ndarray) -> float:
    hits = hit_rate(ranks, 10)
    return float(hits[liked == 1].mean() - hits[liked == 0].mean())


def main(
    reviews: Annotated[Path, typer.Argument(help="reviews.parquet of an ingested data set with stars.")],
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...")] = 3,
    only: Annotated[str, typer.Option(help="Comma-separated ways; empty: all.")] = "",
) -> None:
    """Train SASRec in several ways that know disliked items, and compare hits on liked and disliked targets."""
    table = read_table(reviews, "reviews")
    sequences = build(table)
    glad = gladness(table, None, sequences)
    if glad is None:
        raise SystemExit(f"error: {reviews} has no stars")
    valid, test = (glad.take(sequences.split(name).ends) for name in ("valid", "test"))
    ways = [way.strip() for way in only.split(",") if way.strip()] or list(WAYS)
    rows, found = [], {}
    plain_hits = np.nan
    for way in ways:
        weight, tried = 0.0, {}
        if way in ("not to recommend", "contrast"):
            for each in WEIGHTS:
                ranks = train(way, each, 0, sequences, glad)[0]
                tried[each] = (utility(ranks, valid.liked), float(hit_rate(ranks, 10).mean()))
            allowed = {w: u for w, (u, hits) in tried.items() if not hits < (1 - HARM) * plain_hits} or {
                w: hits for w, (_, hits) in tried.items()
            }
            weight = max(allowed, key=lambda w: allowed[w])
            print(f"{way}: weight {weight:g} of {tried}", flush=True)
        runs = [train(way, weight, seed, sequences, glad) for seed in range(seeds)]
        judged = np.stack([r[0] for r in runs]), np.stack([r[1] for r in runs])
        if way == "all targets":
            plain_hits = float(hit_rate(judged[0][0], 10).mean())
        found[way] = judged[1]
        figures = liking(judged[1], test)
        row = {"way": way, "weight": weight, "valid HR@10": hit_rate(judged[0], 10).mean()}
        row |= {"valid liked minus disliked": np.mean([utility(r, valid.liked) for r in judged[0]])}
        row |= {"HR@10": hit_rate(judged[1], 10).mean(), "NDCG@10": ndcg(judged[1], 10).mean()}
        for name in ("HR@10 liked", "HR@10 disliked", "HR@10 liked minus disliked"):
            row[name] = f"{figures[name][0]:.4f}"
        if way != ways[0]:
            paired = liking(judged[1], test, other=found[ways[0]])["HR@10 liked minus disliked"]
            row[f"difference, minus {ways[0]}"] = shown(*paired)
        rows.append(row)
        print(markdown_table(pd.DataFrame(rows)), flush=True)


if __name__ == "__main__":
    typer.run(main)
