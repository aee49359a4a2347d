"""Serving with a forecast of satisfaction: order, weights, stars of a request, and reasons."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sealr.data.tables import EMOTIONS, read_table
from sealr.emotion.label import label
from sealr.emotion.labeller import Labeller
from sealr.rerank.rankers import fuse, order
from sealr.retrieve.candidates import pools_for
from sealr.satisfaction.learn import Forecast
from sealr.serving import recommender as serving
from sealr.serving.packing import SATISFACTION, Weights, histories
from sealr.serving.recommender import BadRequest, Recommender
from sealr.serving.request import Options
from sealr.settings import Config, DataConfig, LabelConfig, RerankConfig
from tests.rerank.glad import POOL, Numbered, make_world
from tests.serving.small_model import (
    ITEMS,
    LikesLargeIds,
    OnlyAnger,
    effects,
    personal,
    small_config,
    small_recommender,
)

STRONG = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 100.0)


@pytest.fixture
def angry(monkeypatch):
    monkeypatch.setattr(serving.Labeller, "from_config", lambda config: OnlyAnger())


@pytest.fixture
def glad(angry):
    return small_recommender(Weights(0.5, 0.8), effects())


def ask(recommender, *rows, **params):
    return recommender.predict(pd.DataFrame(rows), params).to_dict("records")


def by_hand(recommender, history, stars, weight):
    """(ids, scores) of the candidates: fused, and the forecast as its docstring writes it, z over 30 items."""
    ids, scores = next(pools_for(recommender.retriever, [history], 12))
    model = recommender.forecast
    if model.ridge is None:
        forecast = model.table[1:, 0].astype(np.float64)
    else:
        known = [(i, s - 3.0 - model.table[i, 0]) for i, s in zip(history, stars, strict=True) if s == s]
        effect = sum(left for _, left in known) / (len(known) + 1)
        interest = sum((left - effect) * model.table[i, 1] for i, left in known) / (len(known) + 1)
        forecast = 0.5 * model.table[1:, 0] + 2.0 * interest * model.table[1:, 1]
    felt = (forecast - forecast.mean()) / forecast.std()
    fused = fuse(scores, ids.astype(np.float32), recommender.weights.llm)
    return ids, fused + weight * felt[ids - 1]


def test_weight_0_gives_the_fused_order_and_scores(glad):
    plain = small_recommender(Weights(0.5))
    rows = [{"user": "ann"}, {"history": [{"item": "i04", "rating": 1}, {"item": "i09", "text": "grr"}]}]
    for zero, without in zip(ask(glad, *rows, satisfaction_weight=0), ask(plain, *rows), strict=True):
        assert zero["items"] == without["items"] and zero["scores"] == without["scores"]


@pytest.mark.parametrize("forecast", [effects(), personal()], ids=["effects", "personal"])
@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_the_weight_of_a_request_multiplies_the_chosen_one(angry, forecast, weight):
    recommender = small_recommender(Weights(0.5, 0.8), forecast)
    (answer,) = ask(recommender, {"user": "ann"}, top_k=12, satisfaction_weight=weight)
    ids, scores = by_hand(recommender, [1, 2, 3], [5.0, 2.0, math.nan], 0.8 * weight)
    assert answer["items"] == [ITEMS[i - 1] for i in ids[order(scores)]]
    np.testing.assert_allclose(answer["scores"], np.sort(scores)[::-1], atol=2e-5)
    if weight == 1.0:
        assert ask(recommender, {"user": "ann"}, top_k=12) == [answer]  # the default


def test_a_greater_weight_moves_pleasing_items_up_and_never_down(glad):
    ranks = {}
    for weight in STRONG:
        (answer,) = ask(glad, {"user": "ann"}, top_k=12, satisfaction_weight=weight)
        ranks[weight] = {item: place for place, item in enumerate(answer["items"])}
    felt = dict(zip(ITEMS, glad.forecast.table[1:, 0], strict=True))
    for less, more in zip(STRONG[:-1], STRONG[1:], strict=True):
        for a in ranks[less]:
            for b in ranks[less]:
                if felt[a] > felt[b] and ranks[less][a] < ranks[less][b]:
                    assert ranks[more][a] < ranks[more][b]
        head = [np.mean([felt[i] for i, place in ranks[w].items() if place < 5]) for w in (less, more)]
        assert head[0] <= head[1] + 1e-9
    most = sorted(ranks[100.0], key=ranks[100.0].get)
    assert most == sorted(most, key=lambda item: -felt[item]) != sorted(ranks[0.0], key=ranks[0.0].get)


def test_a_model_without_a_forecast_takes_the_parameter_and_changes_nothing(angry):
    plain = small_recommender(Weights(0.5))
    assert ask(plain, {"user": "ann"}, satisfaction_weight=7) == ask(plain, {"user": "ann"})


def test_satisfaction_works_without_an_llm_and_for_cold_starts(angry):
    recommender = small_recommender(Weights(0.0, 0.8), effects(), llm=False)
    (answer,) = ask(recommender, {"user": "ann"}, top_k=12)
    ids, scores = by_hand(recommender, [1, 2, 3], [5.0, 2.0, math.nan], 0.8)
    assert answer["items"] == [ITEMS[i - 1] for i in ids[order(scores)]]
    zero, one, many = (
        ask(recommender, {"user": "nobody"}, top_k=3, satisfaction_weight=w)[0]["items"] for w in (0, 1, 100)
    )
    assert zero == ITEMS[:3] and one != zero
    assert many == ["i11", "i09", "i07"]  # the most pleasing of the 12 most popular


def test_longer_lists_go_on_in_the_retrievers_order(glad):
    (answer,) = ask(glad, {"user": "ann"}, top_k=20)
    ids, _ = next(pools_for(glad.retriever, [[1, 2, 3]], 20))
    assert answer["items"][12:] == [ITEMS[i - 1] for i in ids[12:]]
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    assert not any("satisfaction" in reason or "others" in reason for reason in answer["reasons"][12:])


def test_somebody_who_saw_everything_gets_an_empty_list(glad):
    assert ask(glad, {"user": "all"}, explain=True)[0]["items"] == []


def resolved(recommender, *events):
    requests, _ = serving.read(pd.DataFrame({"history": [list(events)]}), {})
    return recommender.resolve(requests)[0]


def test_ratings_texts_and_sentiments_become_stars(glad):
    """3 - 2 * .9 + .01 = 1.21 is what an angry text suggests; it counts .3 beside a given star."""
    found = resolved(
        glad,
        {"item": "i01", "rating": 5},
        {"item": "i02", "text": "grr"},
        {"item": "i03", "text": "grr", "rating": 5},
        {"item": "i04", "sentiment": 2},
        {"item": "i05", "sentiment": -2, "rating": 4.5},
        {"item": "no such item", "text": "grr"},
        {"item": "i06"},
    )
    expected = [5, 1.21, 0.7 * 5 + 0.3 * 1.21, 4, 0.7 * 4.5 + 0.3 * 2, math.nan]
    np.testing.assert_allclose(found.stars, expected, atol=1e-5)
    assert found.history == [1, 2, 3, 4, 5, 6] and len(found.feelings) == 6
    np.testing.assert_array_equal(found.feelings[0], [math.nan, math.nan])  # stars are no feeling of a text


def test_stars_of_a_request_change_the_list_as_by_hand(angry):
    recommender = small_recommender(Weights(0.5, 2.0), personal())
    lists = {}
    for rating in (1, 5):
        history = [{"item": "i01", "rating": rating}, {"item": "i02", "rating": 3}]
        (answer,) = ask(recommender, {"history": history}, top_k=12)
        ids, scores = by_hand(recommender, [1, 2], [rating, 3.0], 2.0)
        assert answer["items"] == [ITEMS[i - 1] for i in ids[order(scores)]]
        lists[rating] = answer["items"]
    assert lists[1] != lists[5]


def test_a_text_is_calibrated_as_in_training(parts, tmp_path):
    """The label stage and the calibration of the forecast give the stars that the served model reads."""
    model = Recommender.load(parts.pack(tmp_path / "model", 0.0, 0.5))
    texts = ["I love it, it works great", "I hate it, it is broken", "", "I am so angry", "lovely and great"]
    ratings = [np.nan, np.nan, 4.0, 2.0, 5.0]
    frame = pd.DataFrame({"user": "u", "position": range(5), "text": texts, "rating": np.float32(ratings)})
    config = parts.config.label
    label(frame, config, tmp_path, Labeller.from_config(config))
    labels = read_table(tmp_path / "labels.parquet", "labels")
    probabilities = labels[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy(np.float32)
    trained = Forecast.load(parts.stages["satisfaction"]).model.calibration
    expected = trained.stars(frame["rating"].to_numpy(), labels["expected"].to_numpy(np.float32), probabilities)
    events = [
        {"item": parts.sequences.items[n], "text": text} | ({} if rating != rating else {"rating": rating})
        for n, (text, rating) in enumerate(zip(texts, ratings, strict=True))
    ]
    np.testing.assert_allclose(resolved(model, *events).stars, expected, atol=1e-5)
    assert np.isfinite(expected).all() and expected[2] == 4


def test_an_explanation_counts_what_an_item_does_to_satisfaction(angry):
    """Checked against leaving each item of the history out by hand, with its stars."""
    recommender = small_recommender(Weights(0.5, 3.0), personal())
    stars = [5.0, 2.0, math.nan]
    (answer,) = ask(recommender, {"user": "ann"}, top_k=12, explain=True)
    ids, _ = by_hand(recommender, [1, 2, 3], stars, 3.0)
    names = ["'First thing' (felt strong positive)", "'i02' (felt negative)", "'i03'"]

    def effects_of(weight):
        found = []
        for left in range(3):
            kept = [n for n in range(3) if n != left]
            history = [kept_item + 1 for kept_item in kept]
            ids_left, _ = next(pools_for(recommender.retriever, [[1, 2, 3]], 12))
            scores = recommender.retriever.score([history])[0][ids_left]
            model, known = recommender.forecast, [(n + 1, stars[n]) for n in kept if stars[n] == stars[n]]
            lefts = [(i, s - 3.0 - model.table[i, 0]) for i, s in known]
            effect = sum(value for _, value in lefts) / (len(lefts) + 1)
            interest = sum((value - effect) * model.table[i, 1] for i, value in lefts) / (len(lefts) + 1)
            forecast = 0.5 * model.table[1:, 0] + 2.0 * interest * model.table[1:, 1]
            felt = (forecast - forecast.mean()) / forecast.std()
            others = fuse(scores, ids_left.astype(np.float32), 0.5) + weight * felt[ids_left - 1]
            _, full = by_hand(recommender, [1, 2, 3], stars, weight)
            found.append(full - others)
        return np.array(found)  # (3, C)

    with_it, without = effects_of(3.0), effects_of(0.0)
    place = {ITEMS[i - 1]: p for p, i in enumerate(ids)}
    for item, reason in zip(answer["items"], answer["reasons"], strict=True):
        column = with_it[:, place[item]]
        best = int(column.argmax())
        said = f"because of {names[best]}" if column[best] > 0 else f"in spite of {names[int(column.argmin())]}"
        assert reason.startswith(said)
    assert (with_it.argmax(axis=0) != without.argmax(axis=0)).any()  # satisfaction decides some of them


def reasons(recommender, **params):
    return ask(recommender, {"user": "ann"}, top_k=12, **params)[0]["reasons"]


def test_reasons_tell_what_others_felt_only_where_satisfaction_counts(glad):
    counted = reasons(glad)
    assert all(
        "others in 8 reviews (" in reason and " stars): 75% admiration" in reason and "satisfaction #" in reason
        for reason in counted
    )
    even = [item[-1] in "02468" for item in ask(glad, {"user": "ann"}, top_k=12)[0]["items"]]
    assert [", 25% anger" in reason for reason in counted] == even  # a share of 5 % is not worth a word
    off = [reasons(glad, satisfaction_weight=0), reasons(small_recommender(Weights(0.5)))]
    assert not any("others" in reason or "satisfaction" in reason for found in off for reason in found)


def test_the_places_of_satisfaction_follow_the_forecast(glad):
    (answer,) = ask(glad, {"user": "ann"}, top_k=12)
    told = {
        item: int(reason.rpartition("satisfaction #")[2])
        for item, reason in zip(answer["items"], answer["reasons"], strict=True)
    }
    felt = dict(zip(ITEMS, glad.forecast.table[1:, 0], strict=True))
    assert sorted(told, key=told.get) == sorted(told, key=lambda item: -felt[item])


@pytest.mark.parametrize(
    ("llm", "ranker", "sentiment", "retrieve", "named"),
    [
        (True, "scoring", "class", {}, True),
        (True, "generative", "class", {}, True),
        (True, "palr", "class", {}, False),  # PALR's prompts have no feelings
        (True, "scoring", "none", {}, False),
        (False, "scoring", "class", {}, False),  # an LLM of weight 0 is not there
        (False, "scoring", "none", {"sentiment": "class"}, True),
        (False, "scoring", "none", {"model": "fusion", "parts": ({"model": "ease"}, {"model": "sasrec"})}, False),
    ],
)
def test_the_users_own_feelings_are_named_only_where_something_reads_them(
    angry, llm, ranker, sentiment, retrieve, named
):
    config = small_config(sentiment)
    config = replace(config, rerank=replace(config.rerank, ranker=ranker))
    model = small_recommender(Weights(0.5 * llm, 0.8), effects(), llm, config)
    reads = replace(config, retrieve=replace(config.retrieve, **retrieve))
    retriever = model.retriever
    if "parts" in retrieve:  # the part that reads feelings has no weight in this fusion
        parts = (retrieve["parts"][0], retrieve["parts"][1] | {"sentiment": "class"})
        reads = replace(reads, retrieve=replace(reads.retrieve, parts=parts))
        fused = type("Fused", (), {"weights": np.array([1.0, 0.0])})()
        retriever = replace(retriever, model=fused)
    assert serving._reads_feelings(reads, retriever, LikesLargeIds() if llm else None) == named
    if not retrieve:
        assert any("(felt " in reason for reason in reasons(model, explain=True)) == named


@pytest.mark.parametrize("weight", [-1, -1e-9, 100.5, math.inf, "high", "2", True, [1], {"a": 1}, 10**400])
def test_an_invalid_weight_is_a_sentence(glad, weight):
    with pytest.raises(BadRequest, match="satisfaction_weight must be a number from 0 to 100, got "):
        ask(glad, {"user": "ann"}, satisfaction_weight=weight)


@pytest.mark.parametrize("weight", [None, math.nan, np.float32("nan"), pd.NA, 1, np.int64(1), np.float32(1)])
def test_a_missing_weight_is_1(glad, weight):
    assert ask(glad, {"user": "ann"}, satisfaction_weight=weight) == ask(glad, {"user": "ann"})


@pytest.mark.parametrize("rating", [0, 0.99, 5.01, -3, math.inf, "5", "good", True, [5], 10**400])
def test_an_invalid_rating_is_a_sentence(glad, rating):
    with pytest.raises(BadRequest, match="request 0: rating must be a number of stars from 1 to 5, got "):
        ask(glad, {"history": [{"item": "i01", "rating": rating}]})


@pytest.mark.parametrize("rating", [None, math.nan, np.float32("nan"), pd.NA])
def test_a_missing_rating_is_none(glad, rating):
    assert np.isnan(resolved(glad, {"item": "i01", "rating": rating}).stars).all()


def test_packing_writes_the_forecast_only_where_it_has_a_weight(parts, tmp_path):
    without, with_it = parts.pack(tmp_path / "without", 0.0), parts.pack(tmp_path / "with", 0.0, 0.5)
    assert not (without / SATISFACTION).exists()
    names = {"satisfaction.safetensors", "satisfaction.json", "item_feelings.parquet"}
    assert {path.name for path in (with_it / SATISFACTION).iterdir()} == names
    plain, glad = Recommender.load(without), Recommender.load(with_it)
    assert plain.forecast is None and glad.weights == Weights(0.0, 0.5)
    np.testing.assert_array_equal(glad.histories["u3"][2], parts.stars[parts.sequences.rows(["u3"])[0] * 6 :][:6])
    zero = ask(glad, {"user": "u3"}, satisfaction_weight=0)[0]
    assert zero["items"] == ask(plain, {"user": "u3"})[0]["items"]
    assert all(
        "others in 8 reviews (" in reason and " stars): 100% " in reason
        for reason in ask(glad, {"user": "u3"}, top_k=6)[0]["reasons"]
    )


def test_histories_without_stars_are_unknown(parts):
    table = histories(parts.sequences, np.zeros((len(parts.sequences.flat), 2), np.float32), None)
    assert list(table) == ["user", "items", "sentiments", "expected", "stars"]
    assert all(np.isnan(stars).all() and len(stars) == 6 for stars in table["stars"])


def test_served_lists_are_the_evaluated_ones(angry, tmp_path):
    """Known users whose stored history ends before the test item get the list of the rankings table, to the score."""
    world = make_world(tmp_path)
    world.rerank(world.forecast)
    fusion = pd.read_json(tmp_path / "fusion.json", typ="series")
    weights = Weights(float(fusion["weight"]), float(fusion["satisfaction_weight"]))
    assert weights.satisfaction > 0
    sequences, stars = world.sequences, world.forecast.stars
    spans = [sequences.span("test", row) for row in range(120)]
    known = pd.DataFrame(
        {
            "user": sequences.users,
            "items": [sequences.flat[span] for span in spans],
            "sentiments": [world.feelings[span, 0] for span in spans],
            "expected": [world.feelings[span, 1] for span in spans],
            "stars": [stars[span] for span in spans],
        }
    )
    config = Config(
        data=DataConfig("toy"),
        label=LabelConfig(),
        retrieve=world.retriever.config,
        rerank=RerankConfig(n_reranked=POOL),
    )
    items = pd.DataFrame({"item": sequences.items, "title": None, "categories": None})
    table = pd.read_parquet(tmp_path / "rankings.parquet").query("split == 'test'")
    for chosen, ranker in ((weights, "fused + satisfaction"), (replace(weights, satisfaction=0.0), "fused")):
        model = Recommender(config, chosen, world.retriever, Numbered(), items, known, world.forecast.model)
        wanted = table[table["ranker"] == ranker].sort_values(["user", "rank"])
        answers = model.recommend(
            model.resolve([serving.ApiRequest(user=u) for u in sequences.users]), Options(top_k=POOL)
        )
        for answer, (user, rows) in zip(answers, wanted.groupby("user"), strict=True):
            assert answer["user"] == user and answer["items"] == rows["item"].tolist()
            np.testing.assert_allclose(answer["scores"], rows["score"], atol=2e-5)
