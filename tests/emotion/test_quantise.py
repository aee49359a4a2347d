"""8 bits: close to single precision, whatever else is in the batch, and refused where it was not measured."""

import numpy as np
import pytest
import torch
from torch import nn

from sealr.emotion import backends, quantise
from sealr.emotion.label import Labeller
from sealr.settings import LabelConfig
from tests import toys

pytestmark = pytest.mark.skipif(not quantise.supported(), reason="8-bit labelling needs an x86 CPU and a PyTorch with oneDNN")
TEXTS = ["I love it", "It broke and I am angry and disappointed. " * 3, "fine", "ok " * 30, "1,2,3"]


def both(folder):
    return [Labeller.from_config(LabelConfig(model=str(folder), precision=p)) for p in ("float32", "int8")]


def test_a_linear_layer_is_close_and_rows_do_not_meet():
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48), torch.randn(10, 64)
    x[:, 5] *= 30  # an outlier channel must not cost the others their precision
    expected = linear(x).detach()
    with torch.no_grad():
        unit = quantise._unit(x.abs().amax(0), linear.weight)
        layer = quantise.Int8Linear(linear.weight * unit, linear.bias)
    levels = quantise._levels(x / unit + quantise.HALF)
    y = layer(levels)
    assert (y - expected).norm(dim=1).div(expected.norm(dim=1)).max() < 0.05
    assert torch.equal(layer(levels[5:6]), y[5:6])
    nothing = quantise._levels(torch.full((1, 64), quantise.HALF))
    torch.testing.assert_close(layer(nothing), linear.bias.detach()[None])


def test_levels_are_rounded_and_cut_off():
    x = torch.tensor([0.0, 0.4, 0.6, -0.6, 127.0, 1e6, -128.0, -1e6])
    assert quantise._levels(x + quantise.HALF).tolist() == [128, 128, 129, 127, 255, 255, 0, 0]


def test_gelu_is_computed_inside_the_product():
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 16), torch.randn(8, 32) * 3
    unit = quantise._unit(x.abs().amax(0), linear.weight.detach())
    size = float(linear(x).detach().max() - quantise.GELU_LOW) / 255
    with torch.no_grad():
        layer = quantise.Int8Linear(linear.weight * unit, linear.bias, gelu=size)
    y = layer(quantise._levels(x / unit + quantise.HALF))
    assert y.dtype == torch.uint8
    close = (y.float() - round(-quantise.GELU_LOW / size)) * size
    torch.testing.assert_close(close, nn.functional.gelu(linear(x)).detach(), atol=0.06, rtol=0.02)


def test_the_largest_values_do_not_overflow():
    """A CPU without VNNI adds two neighbouring products in 16 bits."""
    weight = torch.tensor([1.0, -1, 1, -1])[:, None].repeat(1, 256)
    layer = quantise.Int8Linear(weight, torch.zeros(4))
    levels = torch.tensor([[255], [0]], dtype=torch.uint8).repeat(1, 256)
    expected = (levels.float() - quantise.ZERO) @ weight.T
    torch.testing.assert_close(layer(levels), expected, rtol=0.01, atol=0)


def test_identity_names_method_and_levels(toy_labeller, monkeypatch):
    digests = set()
    for levels in (64, 127):
        monkeypatch.setattr(backends, "weight_levels", lambda levels=levels: levels)
        backends.resolve_labeller.cache_clear()
        digests |= {backends.resolve_labeller(str(toy_labeller), p).digest for p in ("float32", "int8")}
    backends.resolve_labeller.cache_clear()
    assert len(digests) == 3  # float32 is the same everywhere


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
    assert backends.resolve_labeller(str(embedded)).precision == "float32" and backends.resolve_labeller(str(toy_labeller)).precision == "float32"
    write_json(read_json(embedded / "labeller.json") | {"precision": "int8"}, embedded / "labeller.json")
    backends.resolve_labeller.cache_clear()
    assert backends.resolve_labeller(str(embedded)).precision == "int8"
    backends.resolve_labeller.cache_clear()
    monkeypatch.setattr(backends, "supported", lambda: False)
    assert backends.resolve_labeller(str(embedded)).precision == "float32"
    backends.resolve_labeller.cache_clear()


def test_other_machines_and_architectures_are_refused(monkeypatch, tmp_path):
    from transformers import DistilBertConfig, DistilBertModel

    with pytest.raises(quantise.QuantiseError, match="distilbert"):
        quantise.quantised(DistilBertModel(DistilBertConfig(vocab_size=50, dim=16, n_heads=2, n_layers=1, hidden_dim=16)), None)
    monkeypatch.setattr(quantise.platform, "machine", lambda: "arm64")
    with pytest.raises(quantise.QuantiseError, match="x86"):
        quantise.quantised(nn.Linear(1, 1), None)
