"""Indexes: an exact one equals a full sort, whatever the blocks; an approximate one has its order, scores and exclusions."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from sealr.config import ConfigError
from sealr.retrieve import index as module
from sealr.retrieve.index import ApproximateIndex, ExactIndex, recall, top


@pytest.fixture
def weights() -> torch.Tensor:
    """2,000 items round 40 centres, with norms from 0.3 to 3; many equal items, so that scores tie."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 8, generator=generator)
    weights = centres[torch.randint(40, (2001,), generator=generator)] + 0.3 * torch.randn(2001, 8, generator=generator)
    weights *= torch.empty(2001, 1).uniform_(0.3, 3, generator=generator)
    weights[500:600] = weights[400:500]
    return weights


@pytest.fixture
def queries() -> torch.Tensor:
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def exclude(weights, queries) -> list[np.ndarray]:
    """Each query's own best items, 0 to 29 of them: what a user has seen is what scores high."""
    order = (queries @ weights[1:].T).argsort(1, descending=True).numpy() + 1
    return [order[row, : row % 30] for row in range(len(queries))]


def full_sort(weights, queries, k, exclude=None):
    scores = queries @ weights.T
    scores[:, 0] = -torch.inf
    for row, seen in enumerate(exclude or []):
        scores[row, seen] = -torch.inf
    values, ids = scores.sort(dim=1, descending=True, stable=True)
    return ids[:, :k].numpy(), values[:, :k].numpy()


@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("excluding", [True, False])
def test_exact_equals_a_full_sort(weights, queries, exclude, k, excluding, monkeypatch):
    monkeypatch.setattr(module, "QUERIES", 16)  # several blocks of queries and items, the last ones short
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 16 * 192)
    # Whole numbers, so that a product does not depend on the shape of the block and ties are ties
    weights, queries = (4 * weights).round(), (4 * queries).round()
    ids, scores = ExactIndex(weights).search(queries, k, exclude if excluding else None)
    expected = full_sort(weights, queries, k, exclude if excluding else None)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(scores, expected[1])
    assert ids.dtype == np.int64 and scores.dtype == np.float32 and (np.diff(scores) == 0).any() == (k > 1)


@pytest.mark.parametrize("kind", [ExactIndex, ApproximateIndex])
def test_fewer_items_than_wanted(kind, weights, queries):
    if kind is ApproximateIndex:
        pytest.importorskip("faiss")
    index = kind(weights[:6])
    ids, scores = index.search(queries[:2], 100, [np.array([2, 4, 2]), np.array([1, 2, 3, 4, 5])])
    assert ids.shape == scores.shape == (2, 5)
    assert sorted(ids[0, :3].tolist()) == [1, 3, 5] and ids[0, 3:].tolist() == [0, 0] and not ids[1].any()
    assert np.isneginf(scores[0, 3:]).all() and np.isneginf(scores[1]).all() and np.isfinite(scores[0, :3]).all()


def test_the_padding_row_is_never_found(weights, queries):
    weights[0] = 100 * queries[0]
    assert (ExactIndex(weights).search(queries, 50)[0] > 0).all()
    pytest.importorskip("faiss")
    assert (ApproximateIndex(weights).search(queries, 50)[0] > 0).all()


def test_approximate_finds_most_with_exact_scores(weights, queries, exclude):
    pytest.importorskip("faiss")
    exact, index = ExactIndex(weights), ApproximateIndex(weights, probe=0.2)
    assert index.lists > 20 and index.file.nprobe < index.lists / 4
    assert recall(index, exact, queries, 20) > 0.9
    ids, scores = index.search(queries, 20, exclude)
    products = (queries @ weights.T).numpy()
    for row, seen in enumerate(exclude):
        assert not np.isin(seen, ids[row]).any() and len(set(ids[row].tolist())) == 20
        np.testing.assert_allclose(scores[row], products[row, ids[row]], rtol=1e-4, atol=1e-5)
        assert (np.lexsort((ids[row], -scores[row])) == np.arange(20)).all()
    assert recall(index, exact, queries, 20, exclude) > 0.9


def test_more_probes_find_more_and_all_of_them_everything(weights, queries):
    pytest.importorskip("faiss")
    exact = ExactIndex(weights)
    shares = [recall(ApproximateIndex(weights, probe=probe), exact, queries, 50) for probe in (0.02, 0.2, 1.0)]
    assert shares[0] < shares[1] < shares[2] and shares[2] > 0.999  # rounding may swap equal items at the end


def test_recall_is_of_what_there_is_to_find(weights, queries):
    class Half:
        def search(self, queries, k, exclude=None):
            ids, scores = ExactIndex(weights).search(queries, k, exclude)
            return np.where(np.arange(ids.shape[1]) % 2, 0, ids), scores

    assert recall(Half(), ExactIndex(weights), queries, 10) == pytest.approx(0.5)
    nothing = [np.arange(1, 2001)] + [np.array([], dtype=np.int64)] * 49
    assert recall(Half(), ExactIndex(weights), queries, 10, nothing) == pytest.approx(0.5)


def test_top_is_the_order_of_both(weights, queries):
    scores = queries @ weights.T
    scores[:, 0] = -torch.inf
    assert (top(scores, 30)[0] == full_sort(weights, queries, 30)[0]).all()


def test_memory_is_bounded_over_items():
    """50 MB of items; all scores of 512 queries at once would be 400 MB more."""
    code = """
import resource, torch
from sealr.retrieve.index import ExactIndex
torch.manual_seed(0)
weights, queries = torch.randn(200_001, 64), torch.randn(512, 64)
ExactIndex(weights[:1000]).search(queries, 10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ExactIndex(weights).search(queries, 100)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100


def test_without_faiss_the_error_says_what_to_do(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"-e '\.\[index\]'.*retrieve.index=exact"):
        ApproximateIndex(weights)
