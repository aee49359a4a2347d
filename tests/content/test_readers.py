"""Readers: the mean over tokens, of length 1, the same in every batch; a decoder reads as well as an encoder."""

import numpy as np
import pytest
import torch

from sealr.content import readers
from sealr.content.readers import Reader, identity
from sealr.emotion import network
from sealr.emotion.engines import int8_available
from sealr.settings import ContentConfig
from tests import toys

TEXTS = ["red polish", "", "a very long name " * 40, "   ", "by Acme", "red polish"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(toys.toy_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return str(toys.toy_llama(tmp_path_factory.mktemp("llm")))


def test_vectors_are_those_of_one_text_at_a_time(encoder, monkeypatch):
    monkeypatch.setattr(readers, "BATCH_TOKENS", 70)  # several batches
    monkeypatch.setattr(readers, "int8_available", lambda: False)
    config = ContentConfig(reader=encoder, max_tokens=32)
    found = Reader(config).vectors(TEXTS)
    assert found.shape == (6, 32) and found.dtype == np.float32
    assert (found[[1, 3]] == 0).all()  # no words
    np.testing.assert_allclose(found[0], found[5], rtol=1e-4, atol=1e-6)
    model, tokenizer = network.load_base(encoder)
    for row in (0, 2, 4):
        ids = tokenizer(TEXTS[row], truncation=True, max_length=32, return_tensors="pt").input_ids
        with torch.inference_mode():
            mean = model.eval()(input_ids=ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(found[row], (mean / mean.norm()).numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not int8_available(), reason="needs a CPU with VNNI, openvino and nncf")
def test_in_int8_the_vectors_are_nearly_the_same(monkeypatch):
    config, texts = ContentConfig(), ["I love this guitar, it sounds great.", "The strings broke after a week.", ""]
    quick = Reader(config)
    monkeypatch.setattr(readers, "int8_available", lambda: False)
    exact = Reader(config)
    assert quick.identity != exact.identity
    a, b = quick.vectors(texts), exact.vectors(texts)
    assert (a[2] == 0).all() and ((a[:2] * b[:2]).sum(1) > 0.97).all()
    np.testing.assert_array_equal(quick.vectors(texts[:1]), a[:1])  # the same in another batch


def test_a_base_llm_reads_with_its_first_layers(decoder):
    whole, cut = (Reader(ContentConfig(reader=decoder, layers=n)) for n in (0, 1))
    a, b = whole.vectors(["red polish"]), cut.vectors(["red polish"])
    np.testing.assert_allclose(np.linalg.norm(a), 1.0, rtol=1e-3)
    assert not np.allclose(a, b, atol=1e-2)
    together = whole.vectors(["a much longer text about red polish and more", "red polish"])[1:]
    np.testing.assert_allclose(together, a, atol=2e-2)  # bfloat16; padding is on the right and changes nothing


def test_layers_beyond_the_model(encoder):
    with pytest.raises(ValueError, match="content.layers is 99, but .* has"):
        Reader(ContentConfig(reader=encoder, layers=99))


def test_other_settings_have_another_identity(encoder):
    plain, shorter = (ContentConfig(reader=encoder, max_tokens=n) for n in (64, 32))
    assert identity(plain) == identity(plain) != identity(shorter)
