"""The model: shapes, causality, and that padding costs and changes nothing."""

import pytest
import torch

from sealr.config import RetrieveConfig
from sealr.retrieve.models import build
from sealr.retrieve.models.sasrec import SASRec


@pytest.fixture
def model() -> SASRec:
    torch.manual_seed(0)
    return SASRec(n_items=20, hidden=16, layers=2, heads=2, max_len=8, dropout=0.5).eval()


def test_shapes_and_padding_column(model):
    sequences = torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]])
    hidden, scores = model(sequences), model.score(sequences)
    assert hidden.shape == (2, 4, 16) and scores.shape == (2, 21)
    assert (hidden[sequences == 0] == 0).all()
    assert (scores[:, 0] == -torch.inf).all() and torch.isfinite(scores[:, 1:]).all()


@pytest.mark.parametrize("padded", [[5, 6, 7, 0, 0, 0, 0], [0, 0, 0, 5, 6, 7], [0, 5, 0, 6, 7, 0]])
def test_padding_does_not_change_scores(model, padded):
    plain = model.score(torch.tensor([[5, 6, 7]]))
    among_others = model.score(torch.tensor([padded + [0] * (8 - len(padded)), [1, 2, 3, 4, 5, 6, 7, 8]]))
    torch.testing.assert_close(among_others[:1], plain)


def test_padding_row_of_the_embedding_is_never_used(model):
    before = model(torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6]]))
    model.items.weight.data[0] = torch.nan
    torch.testing.assert_close(model(torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6]])), before)


def test_causal(model):
    one, other = model(torch.tensor([[1, 2, 3, 4]])), model(torch.tensor([[1, 2, 3, 9]]))
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


def test_order_matters(model):
    assert not torch.allclose(model.score(torch.tensor([[1, 2, 3]])), model.score(torch.tensor([[2, 1, 3]])))


def test_empty_row_beside_a_real_one(model):
    scores = model.score(torch.tensor([[0, 0, 0], [1, 2, 3]]))
    assert (scores[0, 1:] == 0).all()
    torch.testing.assert_close(scores[1:], model.score(torch.tensor([[1, 2, 3]])))


def test_too_long_and_bad_heads(model):
    with pytest.raises(ValueError, match="9 items, the model reads 8"):
        model(torch.arange(1, 10)[None])
    with pytest.raises(ValueError, match="heads=3"):
        SASRec(5, hidden=16, heads=3)


def test_registry():
    model = build(RetrieveConfig(hidden=8, layers=1, max_len=4), n_items=3)
    assert isinstance(model, SASRec) and model.items.weight.shape == (4, 8) and len(model.blocks) == 1
