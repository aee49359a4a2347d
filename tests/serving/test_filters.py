"""Filters act before the pool is cut: whatever is asked for, as many allowed items come back as there are."""

import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever
from sealr.serving import recommender as serving
from sealr.serving.available import Available, AvailableError, read_ids
from sealr.serving.filters import Catalogue, names
from sealr.serving.packing import Weights
from sealr.serving.recommender import BadRequest, Recommender
from tests.serving.small_model import CATEGORIES, ITEMS, OnlyAnger, effects, others, small_config, small_recommender


@pytest.fixture
def recommender(monkeypatch):
    monkeypatch.setattr(serving.Labeller, "from_config", lambda config: OnlyAnger())
    return small_recommender(Weights(0.5))


def ask(recommender, *rows, **params):
    return recommender.predict(pd.DataFrame(rows), params).to_dict("records")


def of(category):
    """Items of a category, by hand."""
    return {i for i, text in zip(ITEMS, CATEGORIES, strict=True) if text and category in text.split(" > ")}


@pytest.mark.parametrize(
    ("filters", "allowed"),
    [
        ({"include_items": ["i05", "i20", "i30"]}, {"i05", "i20", "i30"}),
        ({"exclude_items": ITEMS[5:]}, set(ITEMS[3:5])),  # ann has seen i01 to i03
        ({"categories": ["Shampoo"]}, set(ITEMS[5:10])),
        ({"categories": ["Shampoo", "Kitchen"]}, set(ITEMS[5:20])),
        ({"categories": ["Beauty > Hair"]}, set(ITEMS[3:10])),
        ({"categories": ["Beauty"], "exclude_items": ["i04"]}, set(ITEMS[4:10])),
        ({"categories": ["Home"], "include_items": ["i04", "i11"]}, {"i11"}),
        ({"include_items": [], "exclude_items": [], "categories": []}, set(ITEMS[3:])),
        ({"include_items": ["i01", "i09"]}, {"i09"}),  # what ann has seen stays out
    ],
)
def test_a_filter_holds_in_a_record_and_as_a_parameter(recommender, filters, allowed):
    (as_record,) = ask(recommender, {"user": "ann"} | filters, top_k=30)
    (as_parameter,) = ask(recommender, {"user": "ann"}, top_k=30, **filters)
    assert set(as_record["items"]) == allowed
    assert as_record == as_parameter
    left = "1 item" if len(allowed) == 1 else f"{len(allowed)} items"
    assert as_record["warnings"] == ([f"the filters leave {left}"] if any(filters.values()) else [])


def test_a_call_and_its_requests_both_hold(recommender):
    rows = [{"user": "ann", "exclude_items": ["i06"]}, {"user": "ann", "categories": ["Hair"]}, {"user": "ann"}]
    found = [set(a["items"]) for a in ask(recommender, *rows, top_k=30, include_items=["i05", "i06", "i25"])]
    assert found == [{"i05", "i25"}, {"i05", "i06"}, {"i05", "i06", "i25"}]


def test_no_filter_is_no_filter(recommender):
    usual = ask(recommender, {"user": "ann"}, top_k=5)
    assert ask(recommender, {"user": "ann", "categories": None}, top_k=5, include_items=None) == usual
    assert ask(recommender, {"user": "ann"}, top_k=5, include_items=ITEMS) == usual


def test_popular_items_keep_their_place_among_all(recommender):
    (answer,) = ask(recommender, {"user": "nobody", "categories": ["Kitchen"]}, top_k=2)
    assert answer["items"] == ["i11", "i12"]
    assert [reason.partition(";")[0] for reason in answer["reasons"]] == [
        "popular: number 11 among all users",
        "popular: number 12 among all users",
    ]


def test_unknown_items_of_a_filter_are_named_and_ignored(recommender):
    (answer,) = ask(recommender, {"user": "ann", "include_items": ["i05", "x"]}, exclude_items=["y"])
    assert answer["items"] == ["i05"]
    assert answer["warnings"] == [
        "include_items: unknown items ignored: x",
        "exclude_items: unknown items ignored: y",
        "the filters leave 1 item",
    ]
    (nothing,) = ask(recommender, {"user": "ann", "include_items": ["x"]})
    assert nothing["items"] == []  # and not everything


def test_an_unknown_category_is_refused_with_the_nearest(recommender):
    with pytest.raises(BadRequest, match="request 1: no item has the category 'Shampo'; did you mean Shampoo?"):
        ask(recommender, {"user": "ann"}, {"user": "ann", "categories": ["Shampo"]})
    with pytest.raises(BadRequest, match="^no item has the category 'Kichen'; did you mean Kitchen?"):
        ask(recommender, {"user": "ann"}, categories=["Kichen"])
    without = Catalogue({"a": 1}, pd.DataFrame({"item": ["a"], "categories": [None]}))
    with pytest.raises(BadRequest, match="trained on items without categories"):
        without.rule(SimpleNamespace(include_items=None, exclude_items=None, categories=["x"], available_only=None))


def test_names_of_categories():
    assert names("Beauty > Hair Care > Shampoos", True) == [
        "Beauty", "Hair Care", "Shampoos", "Beauty > Hair Care", "Beauty > Hair Care > Shampoos",
    ]  # fmt: skip
    assert names("poetry, classics", False) == ["poetry", "classics", "poetry, classics"]
    assert names("Clothing, Shoes", True) == ["Clothing, Shoes"]


texts = st.sampled_from(["A", "A > B", "A > B > C", "D > B", "D", None])


@st.composite
def worlds(draw):
    """A catalogue, what a user has seen, and filters in the record and in the call."""
    size = draw(st.integers(2, 60))
    items = [f"i{n:02d}" for n in range(size)]
    subset = st.lists(st.sampled_from(items), unique=True)
    told = draw(st.lists(texts, min_size=size, max_size=size))
    there = sorted({step for text in told if text for step in text.split(" > ")})

    def filters():
        made = {"include_items": draw(st.none() | subset), "exclude_items": draw(st.none() | subset)}
        return made | {"categories": draw(st.none() | st.lists(st.sampled_from(there), max_size=2)) if there else None}

    available = draw(st.none() | st.lists(st.sampled_from(items), unique=True, min_size=1))
    return items, told, draw(subset), filters(), filters(), available, draw(st.integers(1, 12)), draw(st.booleans())


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(worlds())
def test_as_many_allowed_items_come_back_as_there_are(world):
    items, told, seen, of_record, of_call, available, top_k, exclude_seen = world
    steps = {i: set(text.split(" > ")) if text else set() for i, text in zip(items, told, strict=True)}
    allowed = set(items) - (set(seen) if exclude_seen else set())
    for given_filters in (of_record, of_call):
        allowed -= set(given_filters["exclude_items"] or [])
        allowed &= set(given_filters["include_items"] or items)
        if wanted := given_filters["categories"]:
            allowed = {i for i in allowed if steps[i] & set(wanted)}
    allowed &= set(available or items)

    torch.manual_seed(0)
    config = small_config()
    retriever = Retriever(config.retrieve, items, build(config.retrieve, len(items)).eval(), popularity(len(items)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving.Labeller, "from_config", lambda config: OnlyAnger())
        table = pd.DataFrame({"item": items, "title": None, "categories": told})
        known = pd.DataFrame({"user": [], "items": [], "sentiments": [], "expected": [], "stars": []})
        model = Recommender(config, Weights(), retriever, None, table, known)
    if available is not None:
        model.catalogue.available = SimpleNamespace(mask=lambda: np.isin(["", *items], available))
    record = {"history": [{"item": item} for item in seen]} | of_record
    (answer,) = ask(model, record, top_k=top_k, exclude_seen=exclude_seen, **of_call)

    scores = retriever.score([[items.index(item) + 1 for item in seen]])[0]
    best = sorted(allowed, key=lambda item: (-scores[items.index(item) + 1], item))
    assert answer["items"] == best[:top_k]


def popularity(size):
    return np.array([-np.inf, *range(size, 0, -1)], dtype=np.float32)


@pytest.mark.parametrize("chosen", [Weights(0.5), Weights(0.5, 1.0), Weights(0, 1.0)], ids=str)
def test_ten_come_back_wherever_ten_exist_with_all_voices(monkeypatch, chosen):
    monkeypatch.setattr(serving.Labeller, "from_config", lambda config: OnlyAnger())
    forecast = effects() if chosen.satisfaction else None
    model = small_recommender(chosen, forecast, llm=bool(chosen.llm))
    for number in range(40):
        rng = np.random.default_rng(number)
        only = rng.choice(ITEMS[3:], size=rng.integers(1, 27), replace=False).tolist()
        (answer,) = ask(model, {"user": "ann", "include_items": only}, explain=number % 4 == 0)
        assert len(answer["items"]) == min(10, len(only)) and set(answer["items"]) <= set(only)
        assert answer["scores"] == sorted(answer["scores"], reverse=True) and np.isfinite(answer["scores"]).all()
    assert forecast is None or len(others()) == 30


def test_the_llm_sees_allowed_items_only(recommender):
    ask(recommender, {"user": "ann", "categories": ["Kitchen"]})
    assert sorted(recommender.ranker.asked[0].pool) == list(range(11, 21))  # as many as there are, of up to 12


@pytest.fixture
def listed(tmp_path, recommender):
    path = tmp_path / "available.txt"
    path.write_text("i05\ni25\nno longer sold\n\n", encoding="utf-8")
    recommender.watch(path)
    return path


def replace(path, text):
    """As a stock system should: a new file takes the old one's name."""
    other = path.with_suffix(".new")
    other.write_text(text, encoding="utf-8")
    os.replace(other, path)


def test_a_list_of_available_items_holds_unless_a_request_says_otherwise(recommender, listed):
    rows = [{"user": "ann"}, {"user": "ann", "available_only": False}, {"user": "ann", "available_only": True}]
    found = [len(a["items"]) for a in ask(recommender, *rows, top_k=30)]
    assert found == [2, 27, 2]
    assert [len(a["items"]) for a in ask(recommender, *rows, top_k=30, available_only=False)] == [27, 27, 2]
    (both,) = ask(recommender, {"user": "ann", "categories": ["Hair"]}, top_k=30)
    assert both["items"] == ["i05"]


def test_a_changed_list_is_read_before_the_next_request(recommender, listed, caplog):
    assert set(ask(recommender, {"user": "ann"})[0]["items"]) == {"i05", "i25"}
    replace(listed, "i07\n")
    assert ask(recommender, {"user": "ann"})[0]["items"] == ["i07"]
    listed.write_text("i07\ni08\n", encoding="utf-8")  # in place works, too
    assert set(ask(recommender, {"user": "ann"})[0]["items"]) == {"i07", "i08"}
    for useless in ("", "item,stock\ni05,3\n", None):
        replace(listed, useless) if useless is not None else listed.unlink()
        assert set(ask(recommender, {"user": "ann"})[0]["items"]) == {"i07", "i08"}
    told = [m for m in caplog.messages if "from before" in m]
    assert len(told) == 3 and "is empty" in told[0] and "none of its 2 lines" in told[1] and "No such file" in told[2]
    replace(listed, "i09\n")
    assert ask(recommender, {"user": "ann"})[0]["items"] == ["i09"]


def test_without_a_list_available_only_is_refused(recommender):
    for rows, params in (
        ([{"user": "ann", "available_only": True}], {}),
        ([{"user": "ann"}], {"available_only": True}),
    ):
        with pytest.raises(BadRequest, match="sealr serve --available FILE"):
            ask(recommender, *rows, **params)
    assert ask(recommender, {"user": "ann"}, available_only=False)


def test_a_useless_list_is_refused_when_the_model_is_loaded(tmp_path):
    with pytest.raises(AvailableError, match="No such file"):
        read_ids(tmp_path / "none")
    (path := tmp_path / "ids").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AvailableError, match="not UTF-8"):
        Available(path, {"a": 1})
    path.write_text("\ufeffa\n", encoding="utf-8")  # a byte order mark is no part of the id
    assert Available(path, {"a": 1}).mask().tolist() == [False, True]
