"""The k best items of many queries whose scores are inner products: exactly, or approximately with an inverted file.

Both return the order of ``top`` and exact scores; the approximate index may miss items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sealr.config import ConfigError

QUERIES = 256  # answered together
PROBE = 0.1  # share of the lists that a search reads: more lists find more items and take longer
FEW = 2**16  # allowed items up to which all of them are scored, which takes milliseconds


class ApproximateIndex:
    """An inverted file (faiss, ``pip install -e '.[index]'``): items in lists around k-means centres.

    A search reads the nearest lists. With inner products such indexes miss items of large norm, so each item gets one
    more coordinate that brings all items to the same norm (Bachrach et al., RecSys 2014). Queries are 0 there, so the
    nearest neighbour is the item with the largest inner product.

    weights (n_items + 1, D): item i is row i; row 0 is padding and never found. Raises ConfigError without faiss.
    """

    def __init__(self, weights: Tensor, probe: float = PROBE, seed: int = 0) -> None:
        self.faiss = faiss()
        self.weights = weights.detach().float().cpu()
        items = self.weights[1:]
        norms = items.square().sum(1)
        level = (norms.max() - norms).clamp_(min=0).sqrt_()  # (n,)
        points = torch.cat([items, level[:, None]], 1).numpy()  # (n, D + 1)
        self.lists = max(1, min(int(4 * math.sqrt(len(items))), len(items) // 39))  # k-means needs 39 points per centre
        self.file = self.faiss.IndexIVFFlat(self.faiss.IndexFlatL2(points.shape[1]), points.shape[1], self.lists)
        self.file.cp.niter, self.file.cp.max_points_per_centroid, self.file.cp.seed = 8, 64, seed
        self.file.nprobe = max(1, round(probe * self.lists))
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        self.file.train(points)
        self.file.add(points)

    @torch.inference_mode()
    def search(
        self,
        queries: Tensor,
        k: int,
        exclude: Sequence[np.ndarray] | None = None,
        allowed: Sequence[np.ndarray | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """queries (N, D) -> items int64 and scores float32, both (N, min(k, items)), best first.

        exclude: item indices that each query must not get. Index 0 with score -inf fills rows with too few items.
        allowed: (items + 1,) bool for each query, None for all items. Such a query gets k items wherever k are allowed.
        """
        k = min(k, len(self.weights) - 1)
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        found = []
        for start in range(0, len(queries), QUERIES):
            block = queries[start : start + QUERIES].to(self.weights)
            excluded = exclude[start : start + QUERIES] if exclude is not None else [np.empty(0, np.int64)] * len(block)
            found.append(self._search(block, k, [torch.from_numpy(np.unique(items)) for items in excluded]))
            for row, mask in enumerate(allowed[start : start + QUERIES] if allowed is not None else ()):
                if mask is not None:
                    mask = mask.copy()
                    mask[0] = mask[excluded[row]] = False
                    found[-1][0][row], found[-1][1][row] = self._among(block[row], k, mask)
        ids, scores = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        return ids, scores

    def _among(self, query: Tensor, k: int, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Items and scores (k,) of one query (D,) among the items of a mask (items + 1,).

        Few allowed items are all scored. Of many, the file finds the best in the lists it reads; if these lists hold
        too few, all are scored after all.
        """
        few = int(mask.sum()) <= FEW
        ids = torch.from_numpy(np.flatnonzero(mask) if few else self._selected(query, k, mask))
        if not few and len(ids) < k:
            ids = torch.from_numpy(np.flatnonzero(mask))
        scores = F.pad(self.weights[ids] @ query, (1, k), value=-torch.inf)  # (1 + n + k,): before and after, no item
        columns, values = _top(scores[None], k)
        return F.pad(ids, (1, k))[columns[0]], values[0]

    def _selected(self, query: Tensor, k: int, mask: np.ndarray) -> np.ndarray:
        """At most k items of the mask, by index, from the lists that are nearest to the query."""
        bits = np.packbits(mask[1:], bitorder="little")
        chosen = self.faiss.IDSelectorBitmap(len(mask) - 1, self.faiss.swig_ptr(bits))
        how = self.faiss.SearchParametersIVF(sel=chosen, nprobe=self.file.nprobe)
        found = self.file.search(F.pad(query[None], (0, 1)).numpy(), k, params=how)[1][0]
        return np.sort(found[found >= 0] + 1)

    def _search(self, queries: Tensor, k: int, exclude: list[Tensor]) -> tuple[Tensor, Tensor]:
        wanted = min(k + max(map(len, exclude)), len(self.weights) - 1)
        _, found = self.file.search(F.pad(queries, (0, 1)).numpy(), wanted)
        ids = F.pad(torch.from_numpy(found + 1).sort(1).values, (1, 0))  # (b, wanted + 1); 0 where too few were found
        scores = torch.einsum("bd,bkd->bk", queries, self.weights[ids])
        scores[ids == 0] = -torch.inf
        for row, items in enumerate(exclude):
            scores[row, torch.isin(ids[row], items)] = -torch.inf
        columns, scores = _top(scores, k)
        return ids.gather(1, columns), scores


def top(scores: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of scores (B, items + 1): items int64 and scores float32, both (B, min(k, items)), best first.

    Equal scores are ordered by item index. Scores must not be NaN. Items at -inf are no candidates; index 0 fills their
    places at the end of the row.
    """
    ids, values = _top(scores, k)
    return ids.cpu().numpy(), values.cpu().numpy()


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``topk`` returns equal scores in any order, so it only provides the k-th best score here."""
    best = scores.topk(min(k, scores.shape[1] - 1)).values  # (B, k)
    last = best[:, -1:]
    kept = scores >= last  # (B, items + 1); more than k per row where items tie for the last place
    surplus = kept.sum(1) - best.shape[1]  # (B,)
    for row in surplus.nonzero()[:, 0]:
        tied = (scores[row] == last[row]).nonzero()[:, 0]
        kept[row, tied[-surplus[row] :]] = False
    ids = kept.nonzero()[:, 1].view(best.shape)  # ascending in each row
    values, order = scores.gather(1, ids).sort(dim=1, descending=True, stable=True)
    return ids.gather(1, order).masked_fill_(values == -torch.inf, 0), values


def keep(scores: Tensor, mask: np.ndarray | None) -> None:
    """Sets the scores (items + 1,) of items outside the mask to -inf, in place. None keeps all."""
    if mask is not None:
        scores.masked_fill_(torch.from_numpy(~mask).to(scores.device), -torch.inf)


def faiss() -> Any:
    """The faiss library, an optional dependency. Raises ConfigError when it is not installed."""
    try:
        import faiss as library
    except ImportError:
        raise ConfigError(
            "retrieve.index is approximate, and faiss is not installed: pip install -e '.[index]', "
            "or set retrieve.index=exact"
        ) from None
    return library
