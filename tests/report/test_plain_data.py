"""The numbers of the report, on frames that can be counted by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sealr.report import people, results, reviews, words
from sealr.report.sources import Sources, Version
from sealr.rerank.rerank import FUSED, GLAD


def test_histograms_count_every_value():
    assert reviews.histogram(np.array([3, 3, 5])) == [("3", 2), ("4", 0), ("5", 1)]
    wide = reviews.histogram(np.concatenate([np.arange(1, 101), [5000]]))
    assert len(wide) <= reviews.MOST_BARS and sum(count for _, count in wide) == 101
    assert wide[0] == ("1-5", 5) and wide[-1][0] == "96+"


def test_popularity():
    curve = reviews.popularity(np.array([1, 6, 3]))
    assert curve == [(0, 0), (1 / 3, 0.6), (2 / 3, 0.9), (1, 1)]
    assert reviews.held_by(curve, 1 / 6) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("days", "names"),
    [
        (["2020-05-01", "2021-01-01", "2022-02-02", "2023-01-01"], ["2020", "2021", "2022", "2023"]),
        (["2023-12-31", "2023-04-01", "2023-01-01", "2023-07-01"], ["2023 Q1", "2023 Q2", "2023 Q3", "2023 Q4"]),
        (["2023-01-02", "2023-01-03"], ["2023-01-02", "2023-01-03"]),
    ],
)
def test_periods_are_as_long_as_the_time_allows(days, names):
    found = reviews.periods(pd.Series(pd.to_datetime(days)))
    assert found.cat.categories.tolist() == names


def test_categories_are_told_apart_by_the_first_level_that_differs():
    items = pd.DataFrame({"item": list("abcd"), "categories": ["All > X > 1", "All > Y > 2", "All > Y > 3", None]})
    table = pd.DataFrame({"item": list("aabcd"), "sentiment": [2, -2, 0, 1, 1]})
    first, second = reviews.by_category(table, items)
    assert (first.name, first.number, first.shares) == ("X", 2, (0.5, 0, 0, 0, 0.5))
    assert (second.name, second.number, second.shares) == ("Y", 2, (0, 0, 0.5, 0.5, 0))
    assert reviews.by_category(table, items.assign(categories="All > X")) == []


def test_texts_are_cut_after_a_word():
    assert reviews.shortened("a  b\nc") == "a b c" and reviews.shortened("good bad", 6) == "good …"


def rankings(**lists):
    """A table of one user's lists: ranker -> {item: score}, best first."""
    frames = [
        pd.DataFrame({"user": "u", "item": list(part), "rank": range(1, len(part) + 1), "score": part.values()}).assign(
            ranker=name
        )
        for name, part in lists.items()
    ]
    return pd.concat(frames)


def test_ranks_of_targets():
    table = rankings(retriever={"a": 2, "b": 1}, fused={"b": 2, "a": 1})
    ranks = people.target_ranks(table, {"u": "b", "v": "a"})
    assert ranks.loc["u"].to_dict() == {"retriever": 2, "fused": 1} and ranks.loc["v"].isna().all()


def test_users_are_those_who_gain_and_lose_most_and_two_at_random():
    ranks = pd.DataFrame({"retriever": [1, 9, 5, 5, 40], FUSED: [8, 2, 5, 5, 30]}, index=list("abcde"), dtype=float)
    chosen = people.choose(ranks)
    assert list(chosen.items())[:2] == [("b", "gain"), ("a", "loss")]
    assert list(chosen.values())[2:] == ["random"] * 2 and set(chosen) - {"a", "b"} < set("cde")
    same = people.choose(ranks.assign(**{FUSED: ranks["retriever"]}))
    assert list(same.values()) == ["random"] * 2


def test_the_rank_by_satisfaction_is_what_the_last_list_adds():
    lists = {"retriever": {"a": 3, "b": 2, "c": 1}, FUSED: {"a": 3, "b": 2, "c": 1}}
    table = rankings(**lists, **{GLAD: {"c": 3.5, "a": 3.1, "b": 1.0}})
    orders = dict(iter(table.groupby("ranker")))
    assert people.satisfaction_ranks(orders) == {"c": 1, "a": 2, "b": 3}


def test_cells_of_sections():
    assert results.cell(None) is None and results.cell([None, None, None]) is None
    assert results.cell([0.5, 0.4, 0.6]) == (0.5, 0.4, 0.6)
    assert np.isnan(results.cell([0.5, None, None])[1:]).all()


def sources(version=None, kind="finetune"):
    return Sources("run", 0.0, {}, (SimpleNamespace(name="label"),), version, kind)


def judged(decision):
    """A version that is not champion."""
    return Version("shop", "3", (), {"decision": decision, "against": "2"})


def found(gap, served=FUSED):
    rows = [{"system": "retriever", "HR@10": 0.5, "users": 1600}, {"system": served, "HR@10": 0.6, "users": 1600}]
    differences = {f"HR@10, {served} minus retriever": gap}
    return {"served": served, "protocols": {"full": rows}, "differences": differences, "liking": None}


@pytest.mark.parametrize(
    ("gap", "part"),
    [
        (
            [0.1, 0.04, 0.16],
            "60.0 % of 1,600 test users took next, against 50.0 % with the retriever alone: more (+10.0",
        ),
        ([0.1, -0.02, 0.22], "no clear difference (+10.0 points, 95 % interval -2.0 to +22.0)"),
        ([-0.1, -0.2, -0.05], "less (-10.0 points"),
        ([0.0, 0.0, 0.0], "as with the retriever alone"),
    ],
)
def test_the_conclusion_says_what_the_interval_says(gap, part):
    champion = Version("shop", "3", ("challenger", "champion"), {"decision": "promoted", "against": "2"})
    said = words.conclusion(sources(champion), found(gap))
    assert part in said and said.startswith("Serve version 3, the champion, with `sealr serve --model models:/shop@")


@pytest.mark.parametrize(
    ("version", "kind", "start"),
    [
        (judged("refused"), "refresh", "Keep the champion, version 2: version 3 is not clearly better:"),
        (judged("held"), "refresh", "Keep the champion, version 2: version 3 could not replace it:"),
        (None, "finetune", "This run is a control, and nothing was registered"),
        (None, "fit", "The model is not registered"),
        (None, "evaluate", "Nothing was registered; `sealr run` does it"),
    ],
)
def test_the_conclusion_says_what_to_do(version, kind, start):
    assert words.conclusion(sources(version, kind), found([0, 0, 0])).startswith(start)


def test_the_cost_of_satisfaction_is_said_where_it_changes_the_lists():
    some = found([0.1, 0.0, 0.2], GLAD)
    assert words.more(some) == []
    some["differences"]["HR@10, fused + satisfaction minus fused"] = [-0.03, -0.06, 0.0]
    gap = [0.08, 0.04, 0.12]
    some["liking"] = {"rows": [{"system": f"{GLAD} minus {FUSED}", "NDCG@10 liked minus disliked": gap}]}
    (said,) = words.more(some)
    assert "NDCG@10 liked minus disliked +0.0800 (+0.0400 to +0.1200); HR@10 -0.0300" in said
