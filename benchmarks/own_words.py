"""Do users' own words about past items tell what they take next? SASRec with review content, and one more input.

``python benchmarks/own_words.py REVIEWS LABELS`` trains SASRec on the tables of a data set. Beside each
item of the history it reads nothing, 28 probabilities of the user's review, calibrated stars, or the vector of its
text; and each of these shuffled between interactions, a placebo. Validation decides; test is reported.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor, nn

from sealr.content.profiles import build_profiles
from sealr.content.readers import Reader
from sealr.content.vectors import text_vectors, vector_parts
from sealr.data.sequences import Sequences, build
from sealr.data.tables import EMOTIONS, read_table
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import paired_bootstrap, shown
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.models import build as build_model
from sealr.retrieve.retriever import Retriever, device, popularity
from sealr.retrieve.train import NextItem, trainer_options
from sealr.satisfaction.calibration import review_stars
from sealr.satisfaction.effects import training_mask
from sealr.settings import ContentConfig, RetrieveConfig
from sealr.trainer import Trainer


class Words(nn.Module):
    """Adds a projection of what the user wrote (..., C) to the item's embedding x (..., D)."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(inner, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, words: Tensor | None) -> Tensor:
        return x if words is None else x + self.project(words.nan_to_num(0.0))


def train(seed: int, sequences: Sequences, content: Tensor, words: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Validation and test ranks. words (interactions, C) float32 or None."""
    config = RetrieveConfig(seed=seed, content="reviews")
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        model = build_model(config, sequences.n_items, content)
        if words is not None:
            model.sentiment_embedding = Words(words.shape[1], config.hidden)
        retriever = Retriever(config, sequences.items, model.to(device()), popularity(sequences))
        task = NextItem(retriever, sequences, words)
        options = trainer_options(config, len(task.training))
        Trainer(task, options, Path(folder) / "retriever.pt", {"seed": seed}).fit(None)
        model.eval()
        return tuple(target_ranks(retriever, sequences, split, True, words) for split in ("valid", "test"))  # type: ignore[return-value]


def main(
    reviews: Annotated[Path, typer.Argument(help="reviews.parquet of an ingested data set.")],
    labels: Annotated[Path, typer.Argument(help="labels.parquet of the same data set.")],
    cache: Annotated[Path, typer.Option(help="Folder that keeps vectors of texts.")] = Path(".sealr/vector-cache"),
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...")] = 3,
) -> None:
    """Compare what SASRec may read of the user's own reviews, each with its placebo."""
    table, labelled, reading = read_table(reviews, "reviews"), read_table(labels, "labels"), ContentConfig()
    sequences = build(table)
    texts, times = sequences.values(table, "text"), sequences.values(table, "timestamp")
    nothing = pd.DataFrame({"item": sequences.items, "title": None, "brand": None, "categories": None})
    parts = partial(vector_parts, reader=Reader(reading), cache=cache)
    profiles = build_profiles(nothing, texts, times, sequences, reading.max_reviews, parts)
    content = profiles.table("reviews", RetrieveConfig().content_scale, 0)
    vectors = text_vectors(texts.tolist(), reading, cache).astype(np.float32)
    named = [sequences.values(labelled, f"p_{emotion}") for emotion in EMOTIONS]
    probabilities = np.stack(named, 1).astype(np.float32)
    rating, expected = (sequences.values(*c).astype(np.float32) for c in ((table, "rating"), (labelled, "expected")))
    stars = review_stars(rating, probabilities, expected, vectors, training_mask(sequences))
    mean, deviation = vectors.mean(0), vectors.std(0)
    inputs = {
        "28 probabilities": np.log(np.clip(probabilities, 1e-4, 1)) / 4,
        "stars": ((stars - np.nanmean(stars)) / np.nanstd(stars))[:, None].astype(np.float32),
        "text": ((vectors - mean) / deviation / vectors.shape[1] ** 0.5 * 8).astype(np.float32),
    }
    systems: dict[str, np.ndarray | None] = {"nothing": None}
    for name, values in inputs.items():
        systems[name] = values
        systems[f"{name}, shuffled"] = np.random.default_rng(0).permutation(values)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    rows = []
    for name, words in systems.items():
        runs = [train(seed, sequences, content, words) for seed in range(seeds)]
        found[name] = np.stack([v for v, _ in runs]), np.stack([t for _, t in runs])
        valid, test = (ndcg(ranks, 10) for ranks in found[name])
        row = {"user's words": name, "valid NDCG@10": valid.mean(), "HR@10": hit_rate(found[name][1], 10).mean()}
        row |= {"NDCG@10": test.mean()}
        if name != "nothing":
            base = ndcg(found["nothing"][0], 10)
            row["validation, minus nothing"] = shown(*paired_bootstrap(valid, base))
        rows.append(row)
        print(markdown_table(pd.DataFrame(rows)), flush=True)


if __name__ == "__main__":
    typer.run(main)
