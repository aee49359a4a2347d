"""Initial item embeddings from item co-occurrence.

They are the truncated SVD of the positive pointwise mutual information of nearby items (Levy & Goldberg, NeurIPS
2014), which word2vec, or item2vec for items, factorises implicitly. They take seconds to compute and save a
sequential model the epochs in which it would learn the same from next-item steps.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor

from sealr.data.sequences import Sequences

WINDOW, DECAY = 5, 0.7  # largest distance of a pair, and the factor of its count per step of distance
SMOOTHING = 0.75  # exponent of the context's frequency; keeps rare items from looking informative
SPREAD = 0.1  # standard deviation of the embeddings


def cooccurrence_embeddings(sequences: Sequences, width: int) -> Tensor:
    """(n_items + 1, width) float32 from the training split. Zeros for padding and for items that the split lacks.

    If no two items occur together, the embeddings are random, from torch's generator.
    """
    matrix = positive_pmi(sequences)
    if not matrix.nnz:
        random = torch.randn(matrix.shape[0], width) * SPREAD
        random[0] = 0
        return random
    rank = min(width, sequences.n_items)
    left, values, _ = svds(matrix, k=rank, v0=np.full(matrix.shape[0], matrix.shape[0] ** -0.5))
    order = np.argsort(-values)
    embeddings = np.zeros((matrix.shape[0], width))
    embeddings[:, :rank] = (left[:, order] * np.sqrt(values[order])) * np.sign(left[:, order].sum(0) + 1e-12)
    embeddings[0] = 0
    return torch.from_numpy(embeddings * (SPREAD / max(float(embeddings[1:].std()), 1e-12))).float()


def positive_pmi(sequences: Sequences) -> sparse.csr_matrix:
    """(n_items + 1, n_items + 1) max(0, log p(i, j) / (p(i) q(j))) of training items at most WINDOW positions apart."""
    split = sequences.split("train")
    ends = np.zeros(len(split.flat), dtype=np.int64)  # end of the training history of each interaction, 0 for none
    for start, end in zip(split.starts, split.ends, strict=True):
        ends[start:end] = end
    places, size = np.arange(len(split.flat)), sequences.n_items + 1
    counts = sparse.csr_matrix((size, size))
    for gap in range(1, WINDOW + 1):
        first = places[places + gap < ends]
        pairs = (split.flat[first], split.flat[first + gap])
        counts = (
            counts + sparse.coo_matrix((np.full(len(first), DECAY ** (gap - 1)), pairs), shape=counts.shape).tocsr()
        )
    counts = (counts + counts.T).tocoo()
    occurrences = np.asarray(counts.sum(axis=1)).ravel()  # (n_items + 1,)
    contexts = occurrences**SMOOTHING
    expected = occurrences[counts.row] * contexts[counts.col] / max(contexts.sum(), 1e-12)
    values = np.maximum(np.log(counts.data / expected), 0)
    return sparse.csr_matrix((values, (counts.row, counts.col)), shape=counts.shape)
