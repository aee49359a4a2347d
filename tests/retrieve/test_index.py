"""The order of the best items, and an approximate index with that order, exact scores and exclusions."""

import sys

import numpy as np
import pytest
import torch

from sealr.config import ConfigError
from sealr.retrieve import index as module
from sealr.retrieve.index import ApproximateIndex, top


@pytest.fixture
def weights() -> torch.Tensor:
    """2,000 items around 40 centres, with norms from 0.3 to 3; some are equal, so that scores tie."""
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
    """Each query's own best items, 0 to 29 of them: what a user has seen scores high."""
    order = (queries @ weights[1:].T).argsort(1, descending=True).numpy() + 1
    return [order[row, : row % 30] for row in range(len(queries))]


def masked_scores(weights, queries, exclude=None):
    scores = queries @ weights.T
    scores[:, 0] = -torch.inf
    for row, seen in enumerate(exclude or []):
        scores[row, seen] = -torch.inf
    return scores


def full_sort(scores, k):
    values, ids = scores.sort(dim=1, descending=True, stable=True)
    return ids[:, :k].numpy(), values[:, :k].numpy()


def recall(index, weights, queries, k, exclude=None):
    """Share of the k best items that the index finds."""
    best = full_sort(masked_scores(weights, queries, exclude), k)[0]
    found = index.search(queries, k, exclude)[0]
    return np.mean([np.isin(b, f).mean() for b, f in zip(best, found, strict=True)])


@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("excluding", [True, False])
def test_top_equals_a_full_sort(weights, queries, exclude, k, excluding):
    # Whole numbers make many ties
    scores = masked_scores((4 * weights).round(), (4 * queries).round(), exclude if excluding else None)
    ids, values = top(scores, k)
    expected = full_sort(scores, k)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(values, expected[1])
    assert ids.dtype == np.int64 and values.dtype == np.float32 and (np.diff(values) == 0).any() == (k > 1)


def test_top_of_equal_scores_and_of_hardly_any():
    scores = torch.zeros(3, 500)
    scores[:, 0] = -torch.inf
    scores[1, 400] = 1
    scores[2, 3:498] = -torch.inf
    ids, values = top(scores, 5)
    assert ids.tolist() == [[1, 2, 3, 4, 5], [400, 1, 2, 3, 4], [1, 2, 498, 499, 0]]
    assert values[2].tolist() == [0, 0, 0, 0, -np.inf]


def test_fewer_items_than_wanted(weights, queries):
    pytest.importorskip("faiss")
    index = ApproximateIndex(weights[:6])
    ids, scores = index.search(queries[:2], 100, [np.array([2, 4, 2]), np.array([1, 2, 3, 4, 5])])
    assert ids.shape == scores.shape == (2, 5)
    assert sorted(ids[0, :3].tolist()) == [1, 3, 5] and ids[0, 3:].tolist() == [0, 0] and not ids[1].any()
    assert np.isneginf(scores[0, 3:]).all() and np.isneginf(scores[1]).all() and np.isfinite(scores[0, :3]).all()


def test_the_padding_row_is_never_found(weights, queries):
    pytest.importorskip("faiss")
    weights[0] = 100 * queries[0]
    assert (ApproximateIndex(weights).search(queries, 50)[0] > 0).all()


def test_approximate_finds_most_with_exact_scores(weights, queries, exclude, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(module, "QUERIES", 16)  # several blocks of queries, the last one short
    index = ApproximateIndex(weights, probe=0.2)
    assert index.lists > 20 and index.file.nprobe < index.lists / 4
    assert recall(index, weights, queries, 20) > 0.9
    ids, scores = index.search(queries, 20, exclude)
    products = (queries @ weights.T).numpy()
    for row, seen in enumerate(exclude):
        assert not np.isin(seen, ids[row]).any() and len(set(ids[row].tolist())) == 20
        np.testing.assert_allclose(scores[row], products[row, ids[row]], rtol=1e-4, atol=1e-5)
        assert (np.lexsort((ids[row], -scores[row])) == np.arange(20)).all()
    assert recall(index, weights, queries, 20, exclude) > 0.9


def test_more_probes_find_more_and_all_of_them_everything(weights, queries):
    pytest.importorskip("faiss")
    shares = [recall(ApproximateIndex(weights, probe=probe), weights, queries, 50) for probe in (0.02, 0.2, 1.0)]
    assert shares[0] < shares[1] < shares[2] and shares[2] > 0.999  # rounding may swap equal items at the end


def test_without_faiss_the_error_says_what_to_do(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"-e '\.\[index\]'.*retrieve.index=exact"):
        ApproximateIndex(weights)
