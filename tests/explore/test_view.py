"""What the page shows, on a recommender whose voices are known: the LLM likes large ids, odd items please."""

import math

import numpy as np
import pytest

from sealr.explore import view
from sealr.rerank.rankers import fuse, order
from sealr.retrieve.candidates import pools_for
from sealr.serving import recommender as serving
from sealr.serving.packing import Weights
from sealr.serving.request import BadRequest
from tests.serving.small_model import ITEMS, OnlyAnger, effects, personal, small_config, small_recommender


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(serving.Labeller, "from_config", lambda config: OnlyAnger())
    return lambda *args, **more: small_recommender(*args, **more)


@pytest.fixture
def recommender(made):
    return made(Weights(0.5, 1.0), effects())


def items(recommender, asked, weight=1.0):
    return view.served(recommender, asked, weight)[0]["item"].tolist()


def test_without_satisfaction_the_list_is_the_fused_one(recommender):
    asked = view.query(recommender, "ann")
    ids, scores = next(pools_for(recommender.retriever, [[1, 2, 3]], 12))
    fused = ids[order(fuse(scores, ids.astype(np.float32), 0.5))][:10]
    assert items(recommender, asked, 0) == [ITEMS[i - 1] for i in fused] != items(recommender, asked, 1)


def test_much_satisfaction_brings_the_items_that_please(recommender):
    found = items(recommender, view.query(recommender, "ann"), 3)
    ids, _ = next(pools_for(recommender.retriever, [[1, 2, 3]], 12))
    pleasing = {ITEMS[i - 1] for i in ids if i % 2}  # of `effects`
    assert pleasing and set(found[: len(pleasing)]) == pleasing


def test_each_voice_has_its_own_order_and_standardised_scores(recommender):
    said = view.voices(recommender, view.query(recommender, "ann"))
    assert list(said) == ["item", "title", "retriever", "llm", "satisfaction"] and len(said) == 12
    for name in ("retriever", "llm"):
        assert said[name].mean() == pytest.approx(0, abs=1e-9) and said[name].std(ddof=0) == pytest.approx(1)
    lists = view.orders(said)
    assert list(lists) == ["retriever", "llm", "satisfaction"]
    assert lists["retriever"]["item"].tolist() == said["item"].tolist()[:10]
    assert lists["llm"]["item"].tolist() == sorted(said["item"], reverse=True)[:10]
    score = said["retriever"] + 0.5 * said["llm"] + said["satisfaction"]  # the served score is their sum
    best = view.served(recommender, view.query(recommender, "ann"))[0]
    assert said["item"][score.idxmax()] == best["item"][0] and score.max() == pytest.approx(best["score"][0], abs=1e-4)


def test_a_voice_without_weight_is_not_shown(made):
    recommender = made(Weights(), llm=False)
    assert list(view.orders(view.voices(recommender, view.query(recommender, "ann")))) == ["retriever"]


def test_marks():
    assert view.marks(["c", "a", "b", "x"], ["a", "b", "c", "x"]) == ["+2", "-1", "-1", ""]
    assert view.marks(["z", "a"], ["a"]) == ["new", "-1"]


def test_what_is_gone(recommender):
    before = view.served(recommender, view.query(recommender, None))[0]
    assert before["title"][0] == "First thing" and view.gone(["i02"], before)[0] == "First thing"
    assert view.gone(before["item"], before) == []


def test_the_history_is_newest_first_with_what_is_known(recommender):
    asked = view.query(recommender, "ann", [{"item": "i09", "text": "grr"}])
    rows = view.history(recommender, asked)
    assert rows["place"].tolist() == [3, 2, 1, 0] and rows["title"].tolist()[-1] == "First thing"
    np.testing.assert_array_equal(rows["sentiment"], [-2, math.nan, -1, 2])
    np.testing.assert_array_equal(rows["stars"][1:], [math.nan, 2, 5])
    assert rows["stars"][0] == pytest.approx(3 - 2 * 0.9 + 0.01)  # `calibration` of OnlyAnger's label
    assert view.history(recommender, asked, newest=1)["place"].tolist() == [3]


def test_an_angry_what_if_changes_that_review_and_nothing_else(made):
    recommender = made(Weights(0.0, 3.0), personal(), llm=False)
    asked = view.query(recommender, "ann")
    by_text = view.what_if(recommender, asked, 0, {"text": "grr"})
    by_class = view.what_if(recommender, asked, 0, {"sentiment": -2})
    assert by_text.feelings[0, 0] == by_class.feelings[0, 0] == -2 and asked.feelings[0, 0] == 2
    assert by_text.stars[0] == pytest.approx(3 - 2 * 0.9 + 0.01) and asked.stars[0] == 5
    assert by_class.stars[0] == pytest.approx(2)  # 3 + sentiment / 2
    np.testing.assert_array_equal(by_text.feelings[1:], asked.feelings[1:])
    np.testing.assert_array_equal(by_text.stars[1:], asked.stars[1:])
    assert by_text.history == asked.history and items(recommender, by_text) != items(recommender, asked)


def test_a_what_if_keeps_hidden_items_hidden(recommender):
    best = items(recommender, view.query(recommender, "ann"))[:2]
    asked = view.query(recommender, "ann", hidden=best)
    assert not set(best) & set(items(recommender, asked))
    assert not set(best) & set(items(recommender, view.what_if(recommender, asked, 0, {"sentiment": -2})))


def test_categories_limit_the_list_and_unknown_ones_are_refused(recommender):
    kitchen = items(recommender, view.query(recommender, "ann", categories=["Kitchen"]))
    assert len(kitchen) == 10 and set(kitchen) == set(ITEMS[10:20])
    with pytest.raises(BadRequest, match="did you mean Kitchen"):
        view.query(recommender, "ann", categories=["Kitchn"])


def test_a_model_that_reads_no_feelings_says_so(made):
    deaf = made(Weights(), llm=False, config=small_config("none"))
    assert not view.reads_feelings(deaf)
    assert view.reads_feelings(made(Weights(0.0, 1.0), effects(), llm=False))


def test_items_are_found_by_words_of_title_or_id(recommender):
    names = view.names(recommender)
    assert names["i01"] == "First thing · i01" and names["i02"] == "i02"
    assert view.matching(names, "THING first") == ["i01"] and view.matching(names, "i03") == ["i03"]
    assert view.matching(names) == ITEMS
    assert len(view.matching({str(n): str(n) for n in range(5000)})) == view.MOST


def test_where_nothing_is_left_the_tables_are_empty(recommender):
    asked = view.query(recommender, "ann", hidden=ITEMS)
    assert items(recommender, asked) == [] and view.voices(recommender, asked).empty
    assert all(rows.empty for rows in view.orders(view.voices(recommender, asked)).values())
