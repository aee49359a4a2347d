"""The recommender with a tiny retriever and a ranker whose scores are known."""

import math

import numpy as np
import pandas as pd
import pytest

from sealr.rerank.rankers import fuse, order
from sealr.retrieve.candidates import pools_for
from sealr.retrieve.retriever import Retriever
from sealr.serving import recommender as serving
from sealr.serving.packing import Weights
from sealr.serving.recommender import BadRequest
from sealr.serving.request import read
from tests.serving.small_model import ITEMS, OnlyAnger, small_recommender


@pytest.fixture
def recommender(monkeypatch):
    monkeypatch.setattr(serving.Labeller, "from_config", lambda config: OnlyAnger())
    return small_recommender(Weights(0.5))


def ask(recommender, *rows, **params):
    return recommender.predict(pd.DataFrame(rows), params).to_dict("records")


def test_served_order_is_the_evaluated_order(recommender):
    (answer,) = ask(recommender, {"user": "ann"}, top_k=5)
    ids, scores = next(pools_for(recommender.retriever, [[1, 2, 3]], 12))
    expected = ids[order(fuse(scores, ids.astype(np.float32), 0.5))][:5]
    assert answer["items"] == [ITEMS[i - 1] for i in expected]
    np.testing.assert_array_equal(recommender.ranker.asked[0].feelings[:, 0], [2, -1, math.nan])


def test_texts_are_labelled_given_sentiments_win_and_nothing_is_no_feeling(recommender):
    ask(
        recommender,
        {"history": [{"item": "i01", "text": "grr"}, {"item": "i02", "text": "grr", "sentiment": 2}, {"item": "i03"}]},
    )
    np.testing.assert_array_equal(recommender.ranker.asked[0].feelings[:, 0], [-2, 2, math.nan])


def test_a_retriever_that_reads_feelings_is_served_what_it_was_evaluated_with(recommender, monkeypatch):
    read = []
    whole = Retriever.score
    monkeypatch.setattr(Retriever, "score", lambda self, h, felt=None: read.extend(felt) or whole(self, h, felt))
    sentiments = [
        {"item": "i01", "text": "grr"},
        {"item": "i02", "sentiment": 2},
        {"item": "x", "sentiment": 1},
        {"item": "i03"},
    ]
    ask(recommender, {"user": "ann"}, {"history": sentiments}, {"user": "nobody"})
    stored, given, nothing = read
    nan = math.nan
    np.testing.assert_array_equal(stored, np.array([[2, 1.5], [-1, -0.5], [nan, nan]], dtype=np.float32))
    labelled = serving.label_texts(["grr"], OnlyAnger())[0]
    wanted = [[labelled["sentiment"], labelled["expected"]], [2, 2], [nan, nan]]
    np.testing.assert_array_equal(given, np.array(wanted, dtype=np.float32))
    assert nothing.shape == (0, 2)


def test_reasons_name_the_nearest_thing_and_how_it_felt(recommender):
    (answer,) = ask(recommender, {"history": [{"item": "i01", "sentiment": -2}]}, top_k=1)
    assert answer["reasons"][0].startswith("closest to 'First thing' (felt strong negative); retriever #")


def test_top_k_beyond_the_llms_pool_goes_on_in_the_retrievers_order(recommender):
    (answer,) = ask(recommender, {"user": "ann"}, top_k=20)
    ids, _ = next(pools_for(recommender.retriever, [[1, 2, 3]], 20))
    assert len(answer["items"]) == 20 and answer["items"][12:] == [ITEMS[i - 1] for i in ids[12:]]
    assert answer["scores"] == sorted(answer["scores"], reverse=True)


def test_top_k_beyond_the_catalogue_gives_all_that_is_left(recommender):
    (answer,) = ask(recommender, {"user": "ann"}, top_k=1000)
    assert sorted(answer["items"]) == ITEMS[3:]


def test_exclude_seen(recommender):
    (without,) = ask(recommender, {"user": "ann"}, top_k=30)
    (with_seen,) = ask(recommender, {"user": "ann"}, top_k=30, exclude_seen=False)
    assert not {"i01", "i02", "i03"} & set(without["items"]) and len(with_seen["items"]) == 30


def test_somebody_who_saw_everything_gets_an_empty_list(recommender):
    (answer,) = ask(recommender, {"user": "all"})
    assert answer["items"] == [] and answer["scores"] == []


def test_repeated_and_unknown_items_in_a_history(recommender):
    (answer,) = ask(recommender, {"history": [{"item": "i01"}, {"item": "i01"}, {"item": "x"}]})
    assert recommender.ranker.asked[0].history == [1, 1] and "i01" not in answer["items"]
    assert answer["warnings"] == ["unknown items ignored: x"]


def test_a_history_follows_the_stored_one(recommender):
    event = {"item": "i07", "sentiment": -2, "rating": 1}
    both, fresh, same, unknown, stored = ask(
        recommender,
        {"user": "ann", "history": [event]},
        {"user": "nobody", "history": [event]},
        {"user": "ann", "history": []},
        {"user": "ann", "history": [{"item": "x"}]},
        {"user": "ann"},
        top_k=30,
    )
    first, second, *others = recommender.ranker.asked
    assert first.history == [1, 2, 3, 7] and second.history == [7]
    np.testing.assert_array_equal(first.feelings, [[2, 1.5], [-1, -0.5], [math.nan] * 2, [-2, -2]])
    assert [o.history for o in others] == [[1, 2, 3]] * 3
    assert not {"i01", "i02", "i03", "i07"} & set(both["items"]) and "i01" in fresh["items"]
    assert same == stored and unknown["items"] == stored["items"]
    assert unknown["warnings"] == ["unknown items ignored: x"]  # and nothing of popular items
    resolved = recommender.resolve(read(pd.DataFrame([{"user": "ann", "history": [event]}]), {})[0])[0]
    np.testing.assert_array_equal(resolved.stars, np.array([5, 2, math.nan, 1], np.float32))


def test_cold_start_is_popular_and_does_not_ask_the_llm(recommender):
    first, second = ask(
        recommender, {"user": "nobody", "history": None}, {"user": None, "history": [{"item": "x"}]}, top_k=3
    )
    assert first["items"] == second["items"] == ITEMS[:3] and not recommender.ranker.asked
    assert (first["user"], second["user"]) == ("nobody", None)
    assert "nobody" in first["warnings"][0] and "no known item" in second["warnings"][-1]


def test_weight_zero_serves_the_retriever_without_an_llm(recommender):
    recommender.ranker, recommender.weights = None, Weights()
    (answer,) = ask(recommender, {"user": "ann"}, top_k=12)
    ids, _ = next(pools_for(recommender.retriever, [[1, 2, 3]], 12))
    assert answer["items"] == [ITEMS[i - 1] for i in ids]


@pytest.mark.parametrize(
    ("row", "params", "message"),
    [
        ({"usr": "ann"}, {}, "unknown field 'usr'; did you mean user?"),
        ({"exclude_items": ["i01"]}, {}, "'user'.*'history'"),
        ({"user": "ann"}, {"top_k": 0}, "top_k"),
        ({"history": "i01"}, {}, "list of objects"),
        ({"history": [{"text": "hm"}]}, {}, "each with an item"),
        ({"history": [{"item": "i01", "sentiment": 3}]}, {}, "-2 .* to 2"),
        ({"history": [{"item": "i01", "sentiment": 0.5}]}, {}, "whole number"),
        ({"history": [{"item": "i01", "sentiment": math.inf}]}, {}, "whole number"),
        ({"history": [{"item": "i01"}] * 10_001}, {}, "at most 10000"),
    ],
)
def test_malformed_requests_say_what_to_change(recommender, row, params, message):
    with pytest.raises(BadRequest, match=message):
        ask(recommender, row, **params)


def test_an_explanation_names_what_moved_the_score(recommender):
    """Checked against leaving each item of the history out by hand."""
    (answer,) = ask(recommender, {"user": "ann"}, top_k=3, explain=True)
    histories = {-1: [1, 2, 3], 0: [2, 3], 1: [1, 3], 2: [1, 2]}
    felt = np.array([[2, 1.5], [-1, -0.5], [math.nan, math.nan]], dtype=np.float32)
    ids, _ = next(pools_for(recommender.retriever, [[1, 2, 3]], 12))
    scores = {
        left: fuse(
            recommender.retriever.score([h], [np.delete(felt, left, 0) if left >= 0 else felt])[0][ids],
            ids,
            recommender.weights.llm,
        )
        for left, h in histories.items()
    }
    names = ["'First thing' (felt strong positive)", "'i02' (felt negative)", "'i03'"]
    for item, reason in zip(answer["items"], answer["reasons"], strict=True):
        place = int(np.flatnonzero(ids == ITEMS.index(item) + 1)[0])
        effects = [scores[-1][place] - scores[left][place] for left in range(3)]
        best = int(np.argmax(effects))
        assert effects[best] > 1e-6 and reason.startswith(f"because of {names[best]}")
        assert f"retriever #{place + 1}" in reason


def test_explanations_come_only_when_asked_for(recommender):
    (answer,) = ask(recommender, {"user": "ann"}, top_k=3)
    assert all(r.startswith("closest to") for r in answer["reasons"])
    recommender.ranker, recommender.weights = None, Weights()
    (answer,) = ask(
        recommender, {"user": "ann"}, top_k=3, explain=True
    )  # the retriever alone is explained the same way
    assert all(r.startswith(("because of", "in spite of")) for r in answer["reasons"])
    (answer,) = ask(recommender, {"history": [{"item": "i04", "sentiment": 2}]}, top_k=3, explain=True)
    assert all(r.startswith("closest to") for r in answer["reasons"])  # one item: there is nothing to compare
    with pytest.raises(BadRequest, match="explain must be true or false"):
        ask(recommender, {"user": "ann"}, explain="yes")


def test_voices_are_those_of_the_candidates_that_all_rank(recommender):
    """A long list has more items than the LLM sees; only those have its score."""
    (asked,) = recommender.resolve(read(pd.DataFrame([{"user": "ann"}]), {})[0])
    _, options = read(pd.DataFrame([{"user": "ann"}]), {"top_k": 20})
    ids, scores, head = recommender.voices(asked, options)
    wanted, found = next(pools_for(recommender.retriever, [[1, 2, 3]], 12))
    np.testing.assert_array_equal(ids, wanted)
    np.testing.assert_array_equal(scores, found)
    np.testing.assert_array_equal(head.llm, ids)
    np.testing.assert_array_equal(head.scores, fuse(found, ids.astype(np.float32), 0.5))
    assert head.satisfaction is None
