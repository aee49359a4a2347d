import numpy as np
import torch
from toy_sequences import make_sequences

from sealr.retrieve.start import DECAY, SMOOTHING, cooccurrence_embeddings, positive_pmi


def test_pmi_by_hand():
    # the last two items are held out: u0 has 1 2 3 to train on, u1 has 1 2
    matrix = positive_pmi(make_sequences([[1, 2, 3, 4, 5], [1, 2, 3, 3]], 5)).toarray()
    counts = np.array([[0, 2, DECAY], [2, 0, 1], [DECAY, 1, 0]])
    seen = counts.sum(1)
    expected = np.outer(seen, seen**SMOOTHING) / (seen**SMOOTHING).sum()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(matrix[1:4, 1:4], np.maximum(np.log(counts / expected), 0))
    assert not matrix[4:].any() and not matrix[0].any()


def test_items_of_one_neighbourhood_start_close(cycle):
    vectors = cooccurrence_embeddings(cycle, 8)
    again = cooccurrence_embeddings(cycle, 8)
    assert (vectors == again).all() and not vectors[0].any() and vectors.shape == (13, 8)
    unit = vectors[1:] / vectors[1:].norm(dim=1, keepdim=True)
    close = unit @ unit.T
    assert close[0, 1] > close[0, 6] and close[5, 6] > close[5, 0]


def test_without_pairs_the_start_is_random():
    torch.manual_seed(0)
    vectors = cooccurrence_embeddings(make_sequences([[1, 2, 3], [2, 1, 3]], 3), 8)  # one training item each
    assert not vectors[0].any() and 0.05 < vectors[1:].std() < 0.2


def test_a_catalogue_smaller_than_the_width_is_padded(cycle):
    assert not cooccurrence_embeddings(make_sequences([[1, 2, 3, 1, 2]], 3), 8)[:, 3:].any()
