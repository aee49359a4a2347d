"""Text embeddings of items: by mean over tokens, of length 1, whatever the batch."""

import pandas as pd
import pytest
import torch

from sealr.emotion import network
from sealr.retrieve import content as module
from sealr.retrieve.content import embed_items, item_texts
from tests import toys

ITEMS = pd.DataFrame(
    {
        "item": ["a", "b", "c", "d", "e"],
        "title": ["red polish", None, "a very long name " * 40, None, "red polish"],
        "brand": ["OPI", "Acme", None, None, "OPI"],
        "categories": ["Makeup, Nails", None, None, None, "Makeup, Nails"],
    }
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(toys.toy_encoder(tmp_path_factory.mktemp("encoder")))


def test_texts():
    assert item_texts(ITEMS, ["b", "a", "none", "d"]) == ["by Acme", "red polish, by OPI. Makeup, Nails", "", ""]


def test_embeddings_are_those_of_one_text_at_a_time(base, monkeypatch):
    monkeypatch.setattr(module, "BATCH_TOKENS", 70)  # several batches
    order = ["e", "missing", "c", "b", "a", "d"]
    found = embed_items(ITEMS, order, base)
    assert found.shape == (7, 32) and found.dtype == torch.float32
    assert (found[[0, 2, 6]] == 0).all()  # padding, an item the table lacks, and one without text
    torch.testing.assert_close(found[1], found[5])  # the same text
    encoder, tokenizer = network.load_base(base)
    for row, text in zip((1, 3, 4), item_texts(ITEMS, ["e", "c", "b"]), strict=True):
        ids = tokenizer(text, truncation=True, max_length=module.MAX_TOKENS, return_tensors="pt").input_ids
        with torch.inference_mode():
            mean = encoder.eval()(input_ids=ids).last_hidden_state[0].mean(0)
        torch.testing.assert_close(found[row], mean / mean.norm(), rtol=1e-3, atol=1e-5)


def test_a_catalogue_without_any_text(base):
    empty = pd.DataFrame({"item": ["a"], "title": [None], "brand": [None], "categories": [None]})
    assert embed_items(empty, ["a", "b"], base).tolist() == [[0.0] * 32] * 3
