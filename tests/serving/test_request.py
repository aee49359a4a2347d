"""What a call may ask for, in a table: every value a sentence or a valid answer, never another exception."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealr.serving.request import MAX_HISTORY, BadRequest, Limits, Options, read, read_options, short
from tests.serving import hostile


def one(row, **params):
    return read(pd.DataFrame([row]), params)[0][0]


cells = st.one_of(
    hostile.users, hostile.histories, st.just(pd.NA), st.just(np.float32("nan")), hostile.histories.map(str)
)
columns = ["user", "history", "include_items", "exclude_items", "categories", "available_only", "x", 3]
frames = st.dictionaries(st.sampled_from(columns), st.lists(cells, min_size=3, max_size=3), max_size=3).map(
    lambda columns: pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
)


@settings(max_examples=200, derandomize=True, deadline=20_000, database=None)
@given(
    frames,
    st.dictionaries(st.sampled_from(["top_k", "exclude_seen", "satisfaction_weight", *columns]), hostile.anything),
    st.sampled_from([None, Limits()]),
)
def test_any_table_is_read_or_refused_with_a_sentence(frame, params, limits):
    try:
        asked, options = read(frame, params, limits)
    except BadRequest as error:
        assert 10 < len(str(error)) < 600
        return
    assert len(asked) == len(frame) and 1 <= options.top_k <= 1000 and 0 <= options.satisfaction_weight <= 100
    for a in asked:
        assert a.user is None or type(a.user) is str
        for event in a.history or ():
            assert type(event.item) is str and type(event.text) is str and event.sentiment in (None, -2, -1, 0, 1, 2)
            assert event.rating is None or (type(event.rating) is float and 1 <= event.rating <= 5)


def test_ids_may_be_numbers():
    assert one({"user": 5}).user == one({"user": 5.0}).user == one({"user": np.int64(5)}).user == "5"
    assert one({"history": [{"item": 12}]}).history[0].item == "12"


@pytest.mark.parametrize("user", [True, 5.5, np.inf, [1], {"a": 1}, 10**400, "u" * 513])
def test_what_is_no_id(user):
    with pytest.raises(BadRequest, match="user"):
        one({"user": user, "history": None})


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("i01", "list of objects"),
        ({"item": float("nan")}, "each with an item"),
        ({"item": ["i01"]}, "item must be an id"),
        ({"item": "i01", "text": 5}, "text must be a text"),
        ({"item": "i01", "sentiment": True}, "whole number from -2"),
        ({"item": "i01", "sentiment": [1]}, "whole number from -2"),
        ({"item": "i01", "sentiment": "1"}, "whole number from -2"),
        ({"item": "i01", "rating": "5"}, "rating must be a number of stars from 1 to 5"),
        ({"item": "i01", "rating": True}, "rating must be a number of stars from 1 to 5"),
        ({"item": "i01", "rating": 0.5}, "rating must be a number of stars from 1 to 5"),
        ({"item": "i01", "rating": 6}, "rating must be a number of stars from 1 to 5"),
    ],
)
def test_what_is_no_history_item(event, message):
    with pytest.raises(BadRequest, match=message):
        one({"history": [event]})


@pytest.mark.parametrize(
    ("row", "params", "message"),
    [
        ({"usr": "a"}, {}, "^unknown field 'usr'; did you mean user?"),
        ({"user": "a", "exclude_item": ["i"]}, {}, "^unknown field 'exclude_item'; did you mean exclude_items?"),
        ({"user": "a", "x": 1}, {}, "^unknown field 'x'; there are user, history, include_items"),
        ({"user": "a", 3: 1}, {}, "^unknown field 3; there are user"),
        ({"user": "a"}, {"topk": 5}, "^unknown parameter 'topk'; did you mean top_k?"),
        ({"user": "a"}, {"explan": True}, "^unknown parameter 'explan'; did you mean explain?"),
        ({"user": "a"}, {"history": []}, "^unknown parameter 'history'; there are"),
        (
            {"history": [{"item": "i", "txt": "x"}]},
            {},
            "^request 0: unknown key of a history 'txt'; did you mean text?",
        ),
        ({"history": [{"item": "i"}, {"itm": "i"}]}, {}, "^request 0: .*item"),
        ({"history": [{"item": "i", 5: "x"}]}, {}, "^request 0: history must be a list of objects"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(row, params, message):
    with pytest.raises(BadRequest, match=message):
        one(row, **params)


@pytest.mark.parametrize("value", ["i01", 5, {"a": 1}, [1.5], [["i01"]], [None], [True], ["x" * 513]])
@pytest.mark.parametrize("name", ["include_items", "exclude_items", "categories"])
def test_what_is_no_list_of_a_filter(name, value):
    for row, params in (({"user": "a", name: value}, {}), ({"user": "a"}, {name: value})):
        with pytest.raises(BadRequest, match=f"{name} must be a list of"):
            one(row, **params)


def test_filters_come_as_lists_arrays_and_json_text():
    for value in (["7", "b"], [7, "b"], np.array(["7", "b"], dtype=object), '[7, "b"]'):
        assert one({"user": "a", "include_items": value}).include_items == ["7", "b"]
        assert read_options({"include_items": pd.Series(value)}).include_items == ["7", "b"] or type(value) is str
    for missing in (None, np.nan, pd.NA):
        assert one({"user": "a", "include_items": missing, "available_only": missing}).include_items is None
    with pytest.raises(BadRequest, match="available_only must be true or false, got 'yes'"):
        one({"user": "a", "available_only": "yes"})


def test_a_history_as_json_text_is_read():
    assert one({"history": '[{"item": "i01", "sentiment": 2.0}]'}).history[0].sentiment == 2
    for broken in ("[" * 100_000, '[{"item": ' + "9" * 5000 + "}]", "{", "nonsense"):
        with pytest.raises(BadRequest, match="list of objects"):
            one({"history": broken})


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": True},
        {"top_k": 1001},
        {"top_k": "5"},
        {"top_k": [5]},
        {"exclude_seen": "no"},
        {"exclude_seen": 0},
        {"satisfaction_weight": -0.1},
        {"satisfaction_weight": 101},
        {"satisfaction_weight": "1"},
        {"satisfaction_weight": False},
        {"satisfaction_weight": np.inf},
    ],
)
def test_wrong_options(params):
    with pytest.raises(BadRequest, match="must be"):
        one({"user": "ann"}, **params)


def test_null_options_are_the_defaults():
    nulls = {"top_k": None, "exclude_seen": None, "satisfaction_weight": np.nan}
    usual = Options(top_k=10, exclude_seen=True, explain=False, satisfaction_weight=1.0)
    assert read(pd.DataFrame({"user": ["ann"]}), nulls)[1] == usual


def test_a_column_that_is_there_twice():
    with pytest.raises(BadRequest, match="twice"):
        read(pd.DataFrame([["a", "b"]], columns=["user", "user"]), {})


LIMITS = Limits(records=3, items=5, texts=2, text=10, answers=20, explained=1, filters=4)


@pytest.mark.parametrize(
    ("rows", "params", "message"),
    [
        ([{"user": "a"}] * 4, {}, "4 requests, at most 3"),
        ([{"user": "a"}] * 3, {"top_k": 7}, "21 items .*at most 20"),
        ([{"user": "a"}] * 2, {"explain": True}, "explain holds 2 requests, at most 1"),
        ([{"history": [{"item": "i"}] * 3}] * 2, {}, "6 items, at most 5"),
        ([{"history": [{"item": "i", "text": "x"}] * 3}], {}, "3 texts to label, at most 2"),
        ([{"user": "a", "exclude_items": ["i"] * 3}], {"categories": ["x"] * 2}, "hold 5 ids and names, at most 4"),
        ([{"history": [{"item": "i", "text": "x" * 11, "sentiment": 1}]}], {}, "request 0: a text has 11 characters"),
    ],
)
def test_limits_hold_in_a_server_only(rows, params, message):
    with pytest.raises(BadRequest, match=message):
        read(pd.DataFrame(rows), params, LIMITS)
    assert read(pd.DataFrame(rows), params)


def test_a_million_items_are_refused_at_once():
    with pytest.raises(BadRequest, match=f"1000000 items, at most {MAX_HISTORY}"):
        one({"history": [1] * 10**6})


def test_limits_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SEALR_LIMITS", "records=7 texts=8")
    assert Limits.from_environment() == Limits(records=7, texts=8)
    for mistake in (
        "records",
        "records=-1",
        "records=0",
        "record=5",
        "records=1",
        "answers=9",
    ):  # a server warms up with two
        monkeypatch.setenv("SEALR_LIMITS", mistake)
        with pytest.raises(ValueError, match="SEALR_LIMITS"):
            Limits.from_environment()


def test_seen_items_are_left_out_where_the_model_was_evaluated_so():
    frame = pd.DataFrame({"user": ["a"]})
    assert [read(frame, {}, None, usual)[1].exclude_seen for usual in (True, False)] == [True, False]
    assert read(frame, {"exclude_seen": True}, None, False)[1].exclude_seen


def test_values_are_shown_short():
    assert all(
        len(short(v)) < 300 for v in ("x" * 10**6, [[[[1] * 99] * 99] * 99], 10**5000, {"a": "b" * 999}, b"x" * 999)
    )
