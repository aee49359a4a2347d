"""What texts say about each item: a vector of its title, brand and categories, and one of its training reviews.

A review profile is the mean vector of the item's newest reviews in the *training split*. So neither the review of a
held-out target nor any later one is in it. Both kinds of profiles are standardised per dimension over all texts and
scaled to length 1. Items without text have zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from sealr.data.sequences import Sequences
from sealr.data.tables import atomic_path
from sealr.settings import Content

FILE = "content.safetensors"
KINDS = ("metadata", "reviews")
Parts = Callable[[list[str]], Iterable[tuple[int, np.ndarray]]]  # `vector_parts` with a reader and a cache


@dataclass(frozen=True)
class Profiles:
    """Profiles (n_items + 1, C) float32 by kind, row 0 for padding, and what a new item's profile is made with.

    mean, deviation (C,): over the texts of each kind.
    """

    vectors: dict[str, Tensor]
    mean: dict[str, Tensor]
    deviation: dict[str, Tensor]

    def table(self, choice: Content, scale: float, seed: int) -> Tensor:
        """(n_items + 1, C) vectors of length ``scale``, chosen as in ``retrieve.content``; "both" has 2 C columns.

        seed: permutes the items for "shuffled". Raises ValueError when no item has such a text.
        """
        found = [vectors for kind in kinds(choice) if (vectors := self.vectors[kind]).any()]
        if not found:
            missing = {"metadata": "no item has a title, brand or categories", "both": "no item has any text"}
            reason = missing.get(choice, "no training review has a text")
            raise ValueError(f"retrieve.content={choice} needs texts, but {reason}: set retrieve.content=none")
        table = scale * torch.cat(found, dim=1)
        if choice != "shuffled":
            return table
        order = np.random.default_rng(seed).permutation(len(table) - 1) + 1
        return table[np.concatenate([[0], order])]

    def of_texts(self, kind: str, vectors: np.ndarray) -> Tensor:
        """(C,) profile of an item outside the catalogue from the vectors (N, C) of its texts."""
        return self.standardised(kind, torch.from_numpy(vectors.astype(np.float32)).mean(0, keepdim=True))[0]

    def standardised(self, kind: str, means: Tensor) -> Tensor:
        """(N, C) mean vectors of items' texts -> (N, C) profiles of length 1."""
        return _standardised(means, self.mean[kind], self.deviation[kind])

    def save(self, folder: Path) -> None:
        state = {
            f"{name}.{kind}": t for name in ("vectors", "mean", "deviation") for kind, t in getattr(self, name).items()
        }
        with atomic_path(folder / FILE) as temporary:
            save_file(state, temporary)

    @classmethod
    def load(cls, folder: Path) -> Profiles:
        state: dict[str, dict[str, Tensor]] = {"vectors": {}, "mean": {}, "deviation": {}}
        for key, tensor in load_file(folder / FILE).items():
            name, kind = key.split(".")
            state[name][kind] = tensor
        return cls(**state)


def kinds(choice: Content) -> tuple[str, ...]:
    """The kinds of profiles that a choice of ``retrieve.content`` reads."""
    return {"none": (), "metadata": ("metadata",), "both": KINDS}.get(choice, ("reviews",))


def build_profiles(
    items: pd.DataFrame, texts: np.ndarray, timestamps: np.ndarray, sequences: Sequences, max_reviews: int, read: Parts
) -> Profiles:
    """Profiles of the catalogue. texts, timestamps (interactions,): aligned with ``sequences.flat``.

    items: columns item, title, brand, categories, null if unknown. max_reviews: newest training reviews of an item.
    Memory is that of two profile tables and one part, however many reviews there are.
    """
    rows = profiled_rows(sequences, timestamps, texts, max_reviews)
    titles = item_texts(items, sequences.items)
    named = np.flatnonzero([bool(text) for text in titles])
    sources = {
        "metadata": ([titles[i] for i in named], named + 1),
        "reviews": (texts[rows].tolist(), sequences.flat[rows]),
    }
    made: dict[str, Any] = {"vectors": {}, "mean": {}, "deviation": {}}
    for kind, (given, owners) in sources.items():
        sums, mean, deviation = _sums(read(given), owners, sequences.n_items)
        made["mean"][kind], made["deviation"][kind] = mean, deviation
        made["vectors"][kind] = _standardised(sums, mean, deviation)
    return Profiles(**made)


def profiled_rows(sequences: Sequences, timestamps: np.ndarray, texts: np.ndarray, most: int) -> np.ndarray:
    """Rows of ``sequences.flat`` whose reviews are in the profiles: `newest_training_rows` that have a text."""
    rows = newest_training_rows(sequences, timestamps, most)
    return rows[[bool(text.strip()) for text in texts[rows]]]


def newest_training_rows(sequences: Sequences, timestamps: np.ndarray, most: int) -> np.ndarray:
    """Rows of ``sequences.flat`` in the training split, at most the newest ``most`` of each item, in order."""
    split = sequences.split("train")
    training = np.zeros(len(sequences.flat) + 1, np.int64)
    np.add.at(training, split.starts, 1)
    np.add.at(training, split.ends, -1)
    rows = np.flatnonzero(training[:-1].cumsum() > 0)
    order = np.lexsort((-timestamps[rows], sequences.flat[rows]))  # by item, the newest first; ties keep their order
    items = sequences.flat[rows][order]
    first = np.searchsorted(items, items)  # place of each item's newest review
    return np.sort(rows[order[np.arange(len(items)) - first < most]])


def item_texts(items: pd.DataFrame, order: list[str]) -> list[str]:
    """One text per item of ``order``: "title, by brand. categories"; empty if the table has none of them."""
    table = items.drop_duplicates("item").set_index("item").reindex(order)
    columns = (table[name].astype(object).where(table[name].notna(), "") for name in ("title", "brand", "categories"))
    return [item_text(*(str(value).strip() for value in row)) for row in zip(*columns, strict=True)]


def item_text(title: str, brand: str = "", categories: str = "") -> str:
    """What is read of an item's metadata."""
    name = ", ".join([part for part in (title, brand and f"by {brand}") if part])
    return ". ".join(part for part in (name, categories) if part)


def _sums(parts: Iterable[tuple[int, np.ndarray]], owners: np.ndarray, n_items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean vector of each item's texts (n_items + 1, C), and mean and deviation (C,) over the texts.

    owners (texts,): the item of each text.
    """
    sums = None
    counts = np.zeros((n_items + 1, 1), np.float32)
    for start, vectors in parts:
        if sums is None:
            sums = np.zeros((n_items + 1, vectors.shape[1]), np.float32)
            total, squares = np.zeros((2, vectors.shape[1]))
        owned = owners[start : start + len(vectors)]
        np.add.at(sums, owned, vectors)
        np.add.at(counts, owned, 1.0)
        total += vectors.sum(0, dtype=np.float64)
        squares += (vectors.astype(np.float64) ** 2).sum(0)
    if sums is None or not len(owners):
        return torch.zeros(n_items + 1, 1), torch.zeros(1), torch.ones(1)
    mean = total / len(owners)
    deviation = np.sqrt(np.maximum(squares / len(owners) - mean**2, 0.0))
    deviation[deviation < 1e-6] = 1.0
    means = torch.from_numpy(sums / np.maximum(counts, 1.0))
    means[counts[:, 0] == 0] = torch.nan  # no text: zeros, not the mean, once standardised
    return means, torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _standardised(means: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return F.normalize((means - mean) / deviation, dim=1).nan_to_num(0.0)
