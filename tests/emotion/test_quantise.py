"""8 bits: close to single precision, whatever else is in the batch, and refused where it was not measured."""

import numpy as np
import pytest
import torch
from torch import nn

from sealr.config import LabelConfig
from sealr.emotion import backends, quantise
from sealr.emotion.label import Labeller
from tests import toys

pytestmark = pytest.mark.skipif(not quantise.supported(), reason="8-bit labelling needs an x86 CPU and a PyTorch with oneDNN")
TEXTS = ["I love it", "It broke and I am angry and disappointed. " * 3, "fine", "ok " * 30, "1,2,3"]


def both(folder):
    return [Labeller.from_config(LabelConfig(model=str(folder), precision=p)) for p in ("float32", "int8")]


def test_a_linear_layer_is_close_and_rows_do_not_meet():
    torch.manual_seed(0)
    one, two = nn.Linear(64, 48), nn.Linear(64, 16)
    layer, x = quantise.Int8Linear(one, two), torch.randn(10, 64)
    x[3] *= 1000  # an outlier must not cost the other rows their precision
    expected = torch.cat([one(x), two(x)], 1).detach()
    y = layer(x)
    assert (y - expected).norm(dim=1).div(expected.norm(dim=1)).max() < 0.03
    assert torch.equal(layer(x[5:6]), y[5:6])
    assert torch.equal(layer(torch.zeros(1, 64)), layer.bias[None])


def test_the_largest_values_do_not_overflow():
    layer = nn.Linear(256, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -1, 1, -1])[:, None].expand(4, 256))
        layer.bias.zero_()
    y = quantise.Int8Linear(layer)(torch.stack([torch.ones(256), -torch.ones(256)]))
    torch.testing.assert_close(y, layer(torch.stack([torch.ones(256), -torch.ones(256)])).detach(), rtol=0.01, atol=0)


def test_classifier_and_embedded_labeller_say_nearly_the_same(toy_labeller, tmp_path):
    embedded = toys.toy_embedded(tmp_path / "labeller", toys.toy_encoder(tmp_path / "base"))
    for folder in (toy_labeller, embedded):  # a pooler and a head on [CLS]; mean pooling
        exact, fast = both(folder)
        p, q = exact.probabilities(TEXTS), fast.probabilities(TEXTS)
        assert exact.identity != fast.identity and fast.backend.source.precision == "int8"
        assert 0 < np.abs(p - q).max() < 0.2 and np.abs(p - q).mean() < 0.03
        alone = np.concatenate([fast.probabilities([t]) for t in TEXTS])
        np.testing.assert_allclose(q, alone, atol=0.01)  # a last bit of attention may move a value to the next level


def test_auto_follows_the_card(toy_labeller, tmp_path, monkeypatch):
    from sealr.data.tables import read_json, write_json

    embedded = toys.toy_embedded(tmp_path / "labeller", toys.toy_encoder(tmp_path / "base"))
    assert backends.find(str(embedded)).precision == "float32" and backends.find(str(toy_labeller)).precision == "float32"
    write_json(read_json(embedded / "labeller.json") | {"precision": "int8"}, embedded / "labeller.json")
    backends.find.cache_clear()
    assert backends.find(str(embedded)).precision == "int8"
    backends.find.cache_clear()
    monkeypatch.setattr(backends, "supported", lambda: False)
    assert backends.find(str(embedded)).precision == "float32"
    backends.find.cache_clear()


def test_other_machines_and_architectures_are_refused(monkeypatch, tmp_path):
    from transformers import DistilBertConfig, DistilBertModel

    with pytest.raises(quantise.QuantiseError, match="distilbert"):
        quantise.quantised(DistilBertModel(DistilBertConfig(vocab_size=50, dim=16, n_heads=2, n_layers=1, hidden_dim=16)))
    monkeypatch.setattr(quantise.platform, "machine", lambda: "arm64")
    with pytest.raises(quantise.QuantiseError, match="x86"):
        quantise.quantised(nn.Linear(1, 1))
