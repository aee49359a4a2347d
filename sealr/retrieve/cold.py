"""Items that training has not seen: appending them to a trained retriever by their content, and how well that works.

Protocol: `hold_out_items` draws items and takes them out of catalogue and histories. A retriever is trained on what is
left, the drawn items are appended as new ones are in service, and users whose target is one of them judge the result
(cf. Schein et al., SIGIR 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sealr.data.sequences import Sequences, Split
from sealr.retrieve.candidates import ranks_among, score_blocks
from sealr.retrieve.models import build
from sealr.retrieve.models.embedding import ItemEmbedding
from sealr.retrieve.models.fusion import parts_of
from sealr.retrieve.retriever import Retriever
from sealr.settings import RetrieveConfig

READS = ("metadata", "reviews", "both")  # choices of ``retrieve.content`` that say something about an item


def reads_content(config: RetrieveConfig) -> list[RetrieveConfig]:
    """The retriever's configuration, or those of a fusion's parts, that read what texts say about an item."""
    return [part for part in parts_of(config) or [config] if part.content in READS]


def append_items(retriever: Retriever, names: Sequence[str], content: Sequence[Tensor | None]) -> Retriever:
    """The retriever with N more items at the end. Nothing is trained, and the scores of the other items stay.

    content: vectors (N, C) of the new items' texts, for the retriever or for each part of a fusion; None where one
    reads none. A neural part knows a new item by its content only: the embedding of its id is 0. Item-item models give
    it no neighbours, and nobody has taken it yet. Raises ValueError when the retriever has an item already.
    """
    if known := [name for name in names if name in retriever.item_to_id]:
        raise ValueError(f"item {known[0]!r} is in the catalogue already")
    items, state = [*retriever.items, *names], retriever.model.state_dict()
    prefixes = [f"parts.{number}." for number in range(len(content))] if retriever.config.model == "fusion" else [""]
    tables: list[Any] = []
    for prefix, rows in zip(prefixes, content, strict=True):
        old = state.get(f"{prefix}items.content")
        tables.append(None if old is None or rows is None else torch.cat([old.cpu(), rows]))
    given = tables if retriever.config.model == "fusion" else tables[0]
    with torch.random.fork_rng():  # spares the caller's generator the draws of weights that are overwritten
        model: Any = build(retriever.config, len(items), given)
    for name, grown in model.state_dict().items():
        if not name.endswith("items.content"):
            grown.zero_()[tuple(map(slice, state[name].shape))] = state[name]  # old values first, the rest stays 0
    if hasattr(model, "appended"):
        model.appended = retriever.model.appended + len(names)
    popularity = np.concatenate([retriever.popularity, np.zeros(len(names), np.float32)])
    return replace(retriever, items=items, model=model.to(retriever.device).eval(), popularity=popularity)


@dataclass(frozen=True)
class HeldOut:
    """Items that a retriever will not see.

    sequences: without these items, to train on. names: the held-out items. order (n_items + 1,): ids in the whole
    catalogue, those of ``sequences`` first and the held-out ones last, which is the order after `append_items`.
    """

    sequences: Sequences
    names: list[str]
    order: np.ndarray
    whole: Sequences

    def learned(self, content: Tensor) -> Tensor:
        """Rows of a content table (n_items + 1, C) of the whole catalogue for the items to train on."""
        return content[self.order[: self.sequences.n_items + 1]]

    def new(self, content: Tensor) -> Tensor:
        """Rows of the held-out items."""
        return content[self.order[self.sequences.n_items + 1 :]]

    def targets(self, split: str, held_out: bool) -> Split:
        """Users of "valid" or "test" whose target is held out, or is not. Histories are without held-out items.

        Ids are those after `append_items`. A user whose items are mostly held out learns from all that are left, so
        such users judge held-out targets only.
        """
        part, kept = self.whole.split(split), np.isin(self.whole.flat, self.order[: self.sequences.n_items + 1])
        ids, before = np.argsort(self.order), np.concatenate([[0], np.cumsum(kept)])
        targets = ids[part.targets]
        chosen = targets > self.sequences.n_items
        if not held_out:
            chosen = ~chosen & np.isin(part.users, self.sequences.split(split).users)
        spans = (before[part.starts[chosen]], before[part.ends[chosen]])
        return Split(part.users[chosen], *spans, targets[chosen], self.sequences.flat)


def hold_out_items(sequences: Sequences, share: float, seed: int) -> HeldOut:
    """Draws this share of the items and takes them out of catalogue and histories; the users stay.

    Raises ValueError when no item would be held out, or none be left.
    """
    count = round(share * sequences.n_items)
    if not 0 < count < sequences.n_items:
        raise ValueError(f"a share of {share} of {sequences.n_items} items is {count}: hold out some and leave some")
    drawn = np.random.default_rng(seed).permutation(np.arange(1, sequences.n_items + 1))
    cold, left = np.sort(drawn[:count]), np.sort(drawn[count:])
    order = np.concatenate([[0], left, cold])
    kept = np.isin(sequences.flat, left)
    flat, offsets = np.argsort(order)[sequences.flat[kept]], np.concatenate([[0], np.cumsum(kept)])[sequences.offsets]
    names = np.array(sequences.items, dtype=object)
    reduced = replace(sequences, items=names[left - 1].tolist(), flat=flat, offsets=offsets)
    return HeldOut(reduced, names[cold - 1].tolist(), order, sequences)


def ranks_of(retriever: Retriever, part: Split, first: int = 1) -> np.ndarray:
    """(N,) ranks, from 1, of the targets of `HeldOut.targets` among the items from ``first`` on.

    Items of the history do not count.
    """
    ranks = np.zeros(len(part), np.int64)
    like = Sequences([], retriever.items, part.flat, np.zeros(1, np.int64))  # only its catalogue is read
    for users, scores in score_blocks(retriever, like, part, True, None, "ranks"):
        scores[:, :first] = -torch.inf
        ranks[users] = ranks_among(scores, torch.from_numpy(part.targets[users])).numpy()
    return ranks


def embeddings(retriever: Retriever) -> list[ItemEmbedding]:
    """The item embeddings of a neural retriever, or of the neural parts of a fusion."""
    return [module for module in retriever.model.modules() if isinstance(module, ItemEmbedding)]
