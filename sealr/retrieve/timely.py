"""Ranks of targets where items are known only by reviews that were written before the target was taken.

Leave-one-out lets an item's profile hold training reviews that are younger than another user's target. Here profiles
grow with time. Users are ranked in the order of their targets' times; before each, the profiles of items with
new reviews are made anew. The weights are those of the trained retriever.
"""

from __future__ import annotations

import numpy as np
import torch

from sealr.content.profiles import Profiles
from sealr.data.sequences import Sequences
from sealr.progress import progress_bar
from sealr.retrieve.candidates import ranks_among
from sealr.retrieve.models.embedding import ItemEmbedding
from sealr.retrieve.retriever import Retriever


def timely_ranks(
    retriever: Retriever,
    sequences: Sequences,
    profiles: Profiles,
    rows: np.ndarray,
    vectors: np.ndarray,
    timestamps: np.ndarray,
    feelings: np.ndarray | None = None,
) -> np.ndarray:
    """(test users,) ranks of the targets, as in `target_ranks`. The retriever's content vectors are changed in place.

    rows (R,): places in ``sequences.flat`` of the reviews that the profiles were made from. vectors (R, C): of these
    reviews. timestamps (interactions,). Raises ValueError unless all content of the retriever is ``reviews``.
    """
    readers = [m for m in retriever.model.modules() if isinstance(m, ItemEmbedding) and m.project is not None]
    width = profiles.vectors["reviews"].shape[1]
    if not readers or any(reader.content.shape[1] != width for reader in readers):
        raise ValueError("ranks by time need a retriever with retrieve.content=reviews")
    scale = retriever.config.content_scale
    for reader in readers:
        reader.content.zero_()
    part = sequences.split("test")
    sums, counts = np.zeros((sequences.n_items + 1, width)), np.zeros(sequences.n_items + 1)
    by_age, ranks, at = np.argsort(timestamps[rows], kind="stable"), np.zeros(len(part), np.int64), 0
    owners, ages = sequences.flat[rows][by_age], timestamps[rows][by_age]
    for user in progress_bar(np.argsort(timestamps[part.ends], kind="stable"), label="rank by time", unit="users"):
        end = int(np.searchsorted(ages, timestamps[part.ends[user]]))  # strictly before: the same day may be later
        if end > at:
            np.add.at(sums, owners[at:end], vectors[by_age[at:end]].astype(np.float64))
            np.add.at(counts, owners[at:end], 1)
            changed = np.unique(owners[at:end])
            means = torch.from_numpy(sums[changed] / counts[changed, None]).float()
            made = scale * profiles.standardised("reviews", means)
            for reader in readers:
                reader.content[torch.from_numpy(changed)] = made.to(reader.content.device)
            at = end
        history = part.history(user)
        scores = torch.from_numpy(
            retriever.score([history], None if feelings is None else [part.history(user, feelings)])
        )
        if retriever.config.exclude_seen:
            scores[0, torch.from_numpy(history)] = -torch.inf
        ranks[user] = ranks_among(scores, torch.from_numpy(part.targets[[user]]))[0]
    return ranks
