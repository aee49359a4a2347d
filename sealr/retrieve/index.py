"""The k best items of many queries, where a score is an inner product: exactly, or nearly so with an inverted file.

Both kinds of index answer in the order of ``top``, with the same exact scores; an approximate one may miss items. Memory
is bounded over items as well as queries: no (users, items) matrix is held, whatever the catalogue's size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sealr.config import ConfigError

BLOCK_ELEMENTS = 2**20  # scores held at a time: 4 MB, which stay in the cache
QUERIES = 256  # answered together
GROUP = 64  # scores that are first looked at as one


class Index(Protocol):
    def search(self, queries: Tensor, k: int, exclude: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """queries (B, D) -> item indices int64 and scores float32, both (B, min(k, items)), best first.

        exclude: for each query the item indices it must not get. Where fewer items are left, index 0 with score -inf
        stands at the end of the row.
        """
        ...


class ExactIndex:
    """All items, a block at a time. Only scores above the k-th best so far are looked at again.

    weights (n_items + 1, D): the item with index i is row i; row 0 is padding and never found.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights.detach()

    def search(self, queries: Tensor, k: int, exclude: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
        return _in_blocks(self._search, queries, min(k, len(self.weights) - 1), exclude)

    def _search(self, queries: Tensor, k: int, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """rows, items: the pairs that are not to be found."""
        n, size = len(self.weights), GROUP * max(-(-(k + 1) // GROUP), BLOCK_ELEMENTS // len(queries) // GROUP)
        queries = queries.to(self.weights)
        rows, items = rows.to(queries.device), items.to(queries.device)
        for start in range(0, n, size):
            block = queries @ self.weights[start : start + size].T  # (b, size)
            inside = (items >= start) & (items < start + size)
            block[rows[inside], items[inside] - start] = -torch.inf
            if start == 0:
                block[:, 0] = -torch.inf
                ids, scores = _top(block, k)  # (b, k)
                continue
            row, column = _above(block, scores[:, -1])
            if not len(row):
                continue
            counts = torch.bincount(row, minlength=len(queries))  # (b,)
            slot = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row] + k + 1
            width = k + 1 + int(counts.max())
            # Padding, the best so far, the new ones: among equal scores, columns are in the order of the item indices.
            pool_ids, pool = ids.new_zeros(len(queries), width), scores.new_full((len(queries), width), -torch.inf)
            pool_ids[:, 1 : k + 1], pool[:, 1 : k + 1] = ids, scores
            pool_ids[row, slot], pool[row, slot] = column + start, block[row, column]
            columns, scores = _top(pool, k)
            ids = pool_ids.gather(1, columns)
        return ids, scores


class ApproximateIndex:
    """An inverted file (faiss, ``pip install -e '.[index]'``): items in lists around k-means centres; the nearest are searched.

    Inverted files and graphs find nearest neighbours, and with inner products they lose the items of great norm. So each
    item gets one more coordinate that brings all of them to the same norm (Bachrach et al., RecSys 2014): the nearest
    neighbour is then the item of the greatest inner product, since a query has zero there.

    weights: as for ``ExactIndex``. probe: share of the lists that is searched: more finds more, and takes longer.
    Raises ConfigError without faiss.
    """

    def __init__(self, weights: Tensor, probe: float = 0.1, seed: int = 0) -> None:
        self.faiss = faiss()
        self.weights = weights.detach().float().cpu()
        items = self.weights[1:]
        norms = items.square().sum(1)
        level = (norms.max() - norms).clamp_(min=0).sqrt_()  # (n,)
        points = torch.cat([items, level[:, None]], 1).numpy()  # (n, D + 1)
        self.lists = max(1, min(int(4 * math.sqrt(len(items))), len(items) // 39))  # k-means wants 39 points a centre
        self.file = self.faiss.IndexIVFFlat(self.faiss.IndexFlatL2(points.shape[1]), points.shape[1], self.lists)
        self.file.cp.niter, self.file.cp.max_points_per_centroid, self.file.cp.seed = 8, 64, seed
        self.file.nprobe = max(1, round(probe * self.lists))
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        self.file.train(points)
        self.file.add(points)

    def search(self, queries: Tensor, k: int, exclude: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
        return _in_blocks(self._search, queries, min(k, len(self.weights) - 1), exclude)

    def _search(self, queries: Tensor, k: int, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        queries = queries.to(self.weights)
        # As many more as a query may lose to its excluded items.
        wanted = min(k + int(torch.bincount(rows, minlength=1).max()), len(self.weights) - 1)
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        _, found = self.file.search(torch.nn.functional.pad(queries, (0, 1)).numpy(), wanted)
        ids = torch.from_numpy(found + 1).sort(1).values  # (b, wanted); 0 where the searched lists held too few
        ids = torch.nn.functional.pad(ids, (1, 0))
        scores = torch.einsum("bd,bkd->bk", queries, self.weights[ids])
        n = len(self.weights)
        taken = torch.isin(ids + n * torch.arange(len(ids))[:, None], items + n * rows)
        columns, scores = _top(scores.masked_fill((ids == 0) | taken, -torch.inf), k)
        return ids.gather(1, columns), scores


def recall(index: Index, exact: Index, queries: Tensor, k: int, exclude: Sequence[np.ndarray] | None = None) -> float:
    """Share of the k items found by ``exact`` that ``index`` finds, mean over the queries that have any."""
    found, wanted = index.search(queries, k, exclude)[0], exact.search(queries, k, exclude)[0]
    shares = [np.isin(w[w > 0], f).mean() for f, w in zip(found, wanted, strict=True) if w.any()]
    return float(np.mean(shares))


def top(scores: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of scores (B, items + 1): item indices int64 and scores float32, both (B, min(k, items)).

    Higher scores first, equal ones by lower index. Items at -inf are not candidates; index 0 stands in their place, at
    the end of the row.
    """
    ids, values = _top(scores, k)
    return ids.cpu().numpy(), values.cpu().numpy()


def _above(scores: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns, in that order, where scores (B, n) are above threshold (B,); an equal one comes after it in the order.

    Nearly none are: the greatest score of each group tells where to look, at a tenth of the cost of looking everywhere.
    """
    if scores.shape[1] % GROUP:
        scores = torch.nn.functional.pad(scores, (0, -scores.shape[1] % GROUP), value=-torch.inf)
    groups = scores.view(len(scores), -1, GROUP)
    row, group = (groups.amax(2) > threshold[:, None]).nonzero(as_tuple=True)
    hit, place = (groups[row, group] > threshold[row, None]).nonzero(as_tuple=True)
    return row[hit], group[hit] * GROUP + place


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    k = min(k, scores.shape[1] - 1)
    # torch.topk orders ties as it likes. A float's bits sort like an integer once negative ones are flipped; with the
    # item index in the lower half every key is different, and topk has one answer.
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    bits ^= (bits >> 31) & 0x7FFFFFFF
    descending = torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
    ids = bits.long().mul_(2**32).add_(descending).topk(k).indices  # (B, k)
    values = scores.gather(1, ids)
    ids[values == -torch.inf] = 0
    return ids, values


@torch.inference_mode()
def _in_blocks(search: Any, queries: Tensor, k: int, exclude: Sequence[np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
    """``search(queries, k, rows, items)`` of blocks of queries, where an item of ``items`` is excluded for the row beside it."""
    ids, scores = np.zeros((len(queries), k), dtype=np.int64), np.full((len(queries), k), -np.inf, dtype=np.float32)
    for start in range(0, len(queries), QUERIES):
        block = queries[start : start + QUERIES]
        lists = [np.unique(seen) for seen in exclude[start : start + QUERIES]] if exclude is not None else []
        rows = torch.from_numpy(np.repeat(np.arange(len(lists)), [len(seen) for seen in lists]))
        items = torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int64), *lists]))
        found = search(block, k, rows, items)
        ids[start : start + len(block)], scores[start : start + len(block)] = found[0].cpu().numpy(), found[1].cpu().numpy()
    return ids, scores


def faiss() -> Any:
    """The library, which is an extra. Raises ConfigError where it is not installed."""
    try:
        import faiss as library
    except ImportError:
        raise ConfigError(
            "retrieve.index is approximate, and faiss is not installed: pip install -e '.[index]', or set retrieve.index=exact"
        ) from None
    return library
