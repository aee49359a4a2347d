"""Where item embeddings start from: the singular vectors of which items occur near each other.

Truncated SVD of the positive pointwise mutual information of pairs (Levy & Goldberg, NeurIPS 2014: what word2vec, on
items item2vec, factorises implicitly). It is in place in seconds, and saves a sequential model the epochs in which it would
find out the same from next-item steps.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor

from sealr.data.sequences import Sequences

WINDOW, DECAY = 5, 0.7  # places apart that still count as near, and how much less each place counts
SMOOTHING = 0.75  # exponent on the context's frequency, which keeps rare items from looking informative
SPREAD = 0.1  # standard deviation of the entries


def cooccurrence_embeddings(sequences: Sequences, width: int) -> Tensor:
    """(n_items + 1, width) float32 from the training split; row 0 is zero, as are items that it does not have.

    Where no two items occur together there is nothing to start from: random ones, from torch's generator.
    """
    matrix = positive_pmi(sequences)
    if not matrix.nnz:
        embeddings = torch.randn(matrix.shape[0], width) * SPREAD
        embeddings[0] = 0
        return embeddings
    rank = min(width, sequences.n_items)
    left, values, _ = svds(matrix, k=rank, v0=np.full(matrix.shape[0], matrix.shape[0] ** -0.5))
    order = np.argsort(-values)
    embeddings = np.zeros((matrix.shape[0], width))
    embeddings[:, :rank] = (left[:, order] * np.sqrt(values[order])) * np.sign(left[:, order].sum(0) + 1e-12)
    embeddings[0] = 0
    return torch.from_numpy(embeddings * (SPREAD / max(embeddings[1:].std(), 1e-12))).float()


def positive_pmi(sequences: Sequences) -> sparse.csr_matrix:
    """(n_items + 1, n_items + 1) max(0, log p(i, j) / (p(i) q(j))) over pairs of training items at most WINDOW places apart."""
    split = sequences.split("train")
    ends = np.zeros(len(split.flat), dtype=np.int64)  # of the training history that a place belongs to, 0 for none
    for start, end in zip(split.starts, split.ends, strict=True):
        ends[start:end] = end
    places, size = np.arange(len(split.flat)), sequences.n_items + 1
    counts = sparse.csr_matrix((size, size))
    for gap in range(1, WINDOW + 1):
        first = places[places + gap < ends]
        pairs = (split.flat[first], split.flat[first + gap])
        counts = counts + sparse.coo_matrix((np.full(len(first), DECAY ** (gap - 1)), pairs), shape=counts.shape).tocsr()
    counts = (counts + counts.T).tocoo()
    occurrences = np.asarray(counts.sum(axis=1)).ravel()  # (n_items + 1,)
    contexts = occurrences**SMOOTHING
    expected = occurrences[counts.row] * contexts[counts.col] / max(contexts.sum(), 1e-12)
    values = np.maximum(np.log(counts.data / expected), 0)
    return sparse.csr_matrix((values, (counts.row, counts.col)), shape=counts.shape)
