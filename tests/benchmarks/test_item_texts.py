"""The bi-encoder over titles, brands and categories, with a tiny random LLM in place of MiniLM."""

import pandas as pd
import pytest

from benchmarks import item_texts, text_towers
from sealr.data.sequences import build
from sealr.retrieve import train
from sealr.settings import RetrieveConfig


@pytest.fixture
def tables():
    """Reviews of 12 users, and items of which one has no brand, one no categories, and one no text at all."""
    rows = [
        {"user": f"u{user:02}", "item": item, "position": position, "text": ""}
        for user in range(12)
        for position, item in enumerate("abcxy" if user % 2 else "efgxy")
    ]
    columns = {
        "item": list("ycbaxgf"),
        "title": ["yarn", "cable", "bow", "amp", "xylophone", "gong", "flute"],
        "brand": [None, "B", "B", "A", "X", "G", "F"],
        "categories": ["Y", "C", None, "A", "X", "G", "F"],
    }
    return pd.DataFrame(rows), pd.DataFrame(columns)


def test_the_texts_follow_the_ids_of_the_items(tables):
    reviews, items = tables
    texts = item_texts.texts_of(items, data := text_towers.Data(reviews))
    assert data.sequences.items == list("abcefgxy")
    assert texts == [
        "amp. A. A",
        "bow. B",
        "cable. B. C",
        "",
        "flute. F. F",
        "gong. G. G",
        "xylophone. X. X",
        "yarn. Y",
    ]


def test_towers_learn_from_item_texts_and_are_a_part_of_a_fusion(tables, tmp_path, toy_llama, monkeypatch, capsys):
    reviews, items = tables
    shape = text_towers.Shape(str(toy_llama), 2, ("q_proj", "v_proj", "down_proj"))
    monkeypatch.setattr(item_texts, "READERS", {"MiniLM": shape})
    for name, value in {"HEAD_STEPS": 30, "WARM": 2, "ITEMS": 6}.items():
        monkeypatch.setattr(text_towers, name, value)
    monkeypatch.setattr(item_texts, "read_table", lambda path, name: {"reviews": reviews, "items": items}[name])
    train.train(RetrieveConfig(model="popularity"), build(reviews), tmp_path / "popularity")
    item_texts.main(tmp_path, tmp_path, tmp_path / "kept", fusions=str(tmp_path / "popularity"), steps=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:] == [
        "towers, frozen", "towers, tuned", "towers, tuned, texts of other items", "fusion", "fusion + towers, frozen",
        "fusion + towers, tuned", "fusion + towers, tuned, texts of other items",
    ]  # fmt: skip
    assert len(list((tmp_path / "kept").glob("*.pt"))) == 5
