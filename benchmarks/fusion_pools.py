"""The items that can reach the first ten of a fusion, for ``benchmarks.fusion_by_user``: scores and what is known.

As ``sealr.retrieve.fusion.shortlist``, for any split, with the items' ids, the lengths of histories and popularities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sealr.data.sequences import Sequences, Split
from sealr.retrieve.candidates import ranks_among, score_blocks
from sealr.retrieve.fusion import DEPTH, Shortlist
from sealr.retrieve.models.fusion import standardise_items
from sealr.retrieve.retriever import Retriever, popularity


@dataclass(frozen=True)
class Pool:
    """Users whose target is among the DEPTH best of some part, with all those items; other targets are missed.

    near: the scores of M users and K items. users (M,): places in the split. items (M, K): ids. length (M, 1): log of
    the history's length. counts (items + 1,): log of 1 + the item's training users.
    """

    near: Shortlist
    models: list[str]
    users: np.ndarray
    items: Tensor
    length: Tensor
    counts: Tensor

    @property
    def popularity(self) -> Tensor:
        """(M, K) of each item."""
        return self.counts[self.items]

    def ranks(self, total: Tensor) -> np.ndarray:
        """(M, K) sums of scores -> (M,) ranks of the targets."""
        return ranks_among(total.masked_fill(~self.near.real, -torch.inf), self.near.targets).numpy()

    def take(self, wanted: np.ndarray) -> Pool:
        """Only the users among ``wanted``, places in the split."""
        at = torch.from_numpy(np.flatnonzero(np.isin(self.users, wanted)))
        near = Shortlist(self.near.scores[:, at], self.near.real[at], self.near.targets[at])
        return replace(self, near=near, users=self.users[at.numpy()], items=self.items[at], length=self.length[at])

    def shuffled(self, what: str, seed: int) -> Pool:
        """A placebo: "length" deals lengths anew among users, "popularity" counts among items; "" changes nothing."""
        draw = torch.Generator().manual_seed(seed)
        if what == "length":
            return replace(self, length=self.length[torch.randperm(len(self.length), generator=draw)])
        order = torch.randperm(len(self.counts) - 1, generator=draw) + 1
        return replace(self, counts=torch.cat([self.counts[:1], self.counts[order]])) if what else self


def drawn(split: Split, users: int) -> Split:
    """At most so many users of a split, at random with seed 0."""
    at = np.sort(np.random.default_rng(0).permutation(len(split))[:users])
    return replace(split, **{name: getattr(split, name)[at] for name in ("users", "starts", "ends", "targets")})


def pool_of(parts: list[Retriever], sequences: Sequences, part: Split) -> Pool:
    """The pool of a split, without items of the history."""
    last, made = sequences.n_items, []
    blocks = (score_blocks(each, sequences, part, False, None, f"scores of {each.config.model}") for each in parts)
    for together in zip(*blocks, strict=True):
        users = together[0][0]
        scores = torch.stack([standardise_items(block) for _, block in together])  # (P, B, items + 1)
        allowed = torch.ones(scores.shape[1:], dtype=torch.bool)
        allowed[:, 0] = False
        for row, user in enumerate(users):
            allowed[row, torch.from_numpy(part.history(user))] = False
        found = scores.masked_fill(~allowed, -torch.inf).topk(min(DEPTH, last), dim=2).indices
        real = torch.zeros_like(allowed).scatter_(1, found.transpose(0, 1).flatten(1), True) & allowed
        targets = torch.from_numpy(part.targets[users])
        inside = real[torch.arange(len(users)), targets]
        order = torch.arange(last + 1).masked_fill(~real, last + 1)[inside].sort(dim=1).values
        items = order[:, : DEPTH * len(parts)].contiguous()  # in item order, so ties break as everywhere
        column = torch.searchsorted(items, targets[inside, None])[:, 0]
        kept, items = items <= last, items.clamp(max=last)
        near = scores[:, inside].gather(2, items.expand(len(parts), -1, -1))
        made.append((near, kept, column, torch.from_numpy(users)[inside], items))
    scores, real, columns, at, items = (torch.cat(each, int(n == 0)) for n, each in enumerate(zip(*made, strict=True)))
    width = int(real.sum(1).max())
    near = Shortlist(scores[:, :, :width].clone(), real[:, :width], columns)
    length = torch.from_numpy(np.log(part.ends - part.starts)).float()[at, None]
    counts = torch.from_numpy(np.log1p(np.maximum(popularity(sequences), 0))).float()
    return Pool(near, [each.config.model for each in parts], at.numpy(), items[:, :width], length, counts)
