"""Satisfaction in the re-ranking stage: its weight, its placebo, and what the files say."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sealr.rerank.rankers import fuse, order
from sealr.rerank.rerank import FUSED, GLAD
from sealr.rerank.satisfying import FORECAST, PLACEBO, PLOT, in_words
from sealr.satisfaction.learn import Forecast
from tests.rerank.glad import make_world


def read_strictly(path):
    """JSON without NaN and Infinity, as the standard wants it."""

    def refuse(constant):
        raise ValueError(f"{path} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("glad"))
    return world, world.rerank(world.forecast), read_strictly(world.folder / "fusion.json")


def scores_of(world, split, ranker):
    """(user, item) -> score."""
    table = pd.read_parquet(world.folder / "rankings.parquet")
    return table[(table["split"] == split) & (table["ranker"] == ranker)].set_index(["user", "item"])["score"]


@pytest.mark.parametrize("split", ["valid", "test", "injected"])
def test_satisfaction_is_added_to_the_fused_scores(ranked, split):
    world, made, fusion = ranked
    weight = fusion["satisfaction_weight"]
    assert weight > 0 and made.metrics["satisfaction_weight"] == weight
    fused, glad = scores_of(world, split, FUSED), scores_of(world, split, GLAD)
    assert len(fused) == len(glad) > 1000
    sequences, model = world.sequences, world.forecast.model
    for row in (0, 7, 119):
        span = sequences.span("valid" if split == "valid" else "test", row)
        stars = model.predict(sequences.flat[span], world.forecast.stars[span])[1:].astype(np.float64)
        felt = (stars - stars.mean()) / stars.std()  # over the catalogue
        user = sequences.users[row]
        items = [sequences.items.index(item) for item in fused[user].index]
        expected = fused[user].to_numpy() + weight * felt[items]
        np.testing.assert_allclose(glad[user][fused[user].index], expected, atol=1e-4)


def test_the_lists_follow_the_scores_and_liked_targets_rise(ranked):
    world, _, fusion = ranked
    table = pd.read_parquet(world.folder / "rankings.parquet").query("split == 'test'")
    for _, part in table[table["ranker"] == GLAD].groupby("user"):
        by_rank = part.sort_values("rank")["score"].to_numpy()
        assert (np.diff(by_rank) <= 0).all()
    sequences = world.sequences
    targets = [sequences.items[t - 1] for t in sequences.targets("test", range(120))]
    liked = world.liked[[sequences.span("test", row).stop for row in range(120)]]
    hit = {}
    for ranker in (FUSED, GLAD):
        ranks = table[table["ranker"] == ranker].set_index(["user", "item"])["rank"]
        found = np.array([ranks[user, item] <= 10 for user, item in zip(sequences.users, targets, strict=True)])
        hit[ranker] = found[liked == 1].mean() - found[liked == 0].mean()
    assert hit[GLAD] > hit[FUSED] + 0.1
    shown = {row["weight"]: row for row in fusion["satisfaction"][FORECAST]["test"]}
    chosen, none = shown[fusion["satisfaction_weight"]], shown[0.0]
    assert chosen["HR@10 liked minus disliked"] == pytest.approx(hit[GLAD])  # the frontier says the same
    assert none["HR@10 liked minus disliked"] == pytest.approx(hit[FUSED])


def test_what_is_said_of_feelings_that_help(ranked):
    world, _, fusion = ranked
    assert fusion["satisfaction"][FORECAST]["weight"] == fusion["satisfaction_weight"]
    assert fusion["satisfaction"][PLACEBO]["weight"] == 0
    said = fusion["satisfaction_in_words"]
    assert said.startswith("Feelings of others foretell who will be glad, at weight") and "other items" in said
    assert (world.folder / PLOT).read_bytes().startswith(b"\x89PNG")


def test_the_weight_is_chosen_on_validation_targets_alone(ranked, tmp_path):
    """Other test targets, liked and disliked the other way round, change nothing."""
    world, _, fusion = ranked
    other = make_world(tmp_path)
    ends = [other.sequences.span("test", row).stop for row in range(120)]
    turned = other.liked.copy()
    turned[ends] = 1 - turned[ends]
    replace(other, liked=turned).rerank(other.forecast)
    again = read_strictly(tmp_path / "fusion.json")
    for key in ("weight", "gain", "rise", "validation"):
        assert again["satisfaction"][FORECAST][key] == fusion["satisfaction"][FORECAST][key]
    assert again["satisfaction"][FORECAST]["test"] != fusion["satisfaction"][FORECAST]["test"]


def test_meaningless_feelings_have_weight_0_and_so_has_their_placebo(tmp_path):
    world = make_world(tmp_path)
    rng = np.random.default_rng(1)
    model = world.forecast.model
    noise = replace(model, table=np.vstack([model.table[:1], rng.normal(size=(25, 7)).astype(np.float32)]))
    world.rerank(Forecast(noise, world.forecast.stars))
    fusion = read_strictly(tmp_path / "fusion.json")
    assert fusion["satisfaction_weight"] == 0
    assert fusion["satisfaction"][FORECAST]["weight"] == fusion["satisfaction"][PLACEBO]["weight"] == 0
    assert "satisfaction is off" in fusion["satisfaction_in_words"]
    fused, glad = (scores_of(world, "test", ranker) for ranker in (FUSED, GLAD))
    pd.testing.assert_series_equal(fused, glad)


def test_too_few_liked_or_disliked_targets_choose_nothing_and_leave_valid_json(tmp_path):
    world = make_world(tmp_path)
    made = world.rerank(world.forecast, users=35)  # some 17 of each
    fusion = read_strictly(tmp_path / "fusion.json")
    assert fusion["satisfaction_weight"] == made.metrics["satisfaction_weight"] == 0
    own = fusion["satisfaction"][FORECAST]
    assert own["gain"] is own["rise"] is None
    assert own["test"][0]["HR@10"] is not None and own["test"][0]["HR@10 liked"] is None
    assert fusion["satisfaction_in_words"].startswith("Satisfaction is off: too few")
    assert not (tmp_path / PLOT).exists()


def test_without_a_forecast_there_is_no_such_ranking(tmp_path):
    world = make_world(tmp_path)
    world.rerank(None)
    fusion = read_strictly(tmp_path / "fusion.json")
    assert fusion["satisfaction_weight"] == 0 and "satisfaction" not in fusion
    assert set(pd.read_parquet(tmp_path / "rankings.parquet")["ranker"]) == {"retriever", "numbered", FUSED}


def test_users_whose_target_was_not_retrieved_are_misses_at_any_weight(tmp_path):
    """Their pools are not ranked, but they count among the users of the hit rate."""
    world = make_world(tmp_path)
    path = tmp_path / "candidates.parquet"
    pools, sequences = pd.read_parquet(path), world.sequences
    lost = [sequences.users[row] for row in range(20)]
    target = {u: sequences.items[t - 1] for u, t in zip(lost, sequences.targets("valid", range(20)), strict=True)}
    pools[(pools["split"] != "valid") | (pools["item"] != pools["user"].map(target))].to_parquet(path)
    world.rerank(world.forecast)
    fusion = read_strictly(tmp_path / "fusion.json")
    rates = [row["HR@10"] for row in fusion["satisfaction"][FORECAST]["validation"]]
    assert max(rates) <= 100 / 120
    valid = pd.read_parquet(tmp_path / "rankings.parquet").query("split == 'valid'")
    assert not set(lost) & set(valid["user"])


def told(weight, gain, rise):
    return {"weight": weight, "gain": gain, "rise": rise}


def test_the_sentence_for_each_outcome():
    nothing = told(0.0, (0.001, -0.02, 0.02), (0.01, -0.05, 0.07))
    found = told(0.4, (0.05, 0.01, 0.09), (0.25, 0.13, 0.36))
    assert in_words({FORECAST: found, PLACEBO: nothing}) == (
        "Feelings of others foretell who will be glad, at weight 0.4: liked validation targets rise 25 % (+13 to +36) "
        "further than disliked ones, with feelings about other items 1 % (-5 to +7); HR@10 on liked minus disliked "
        "+0.0500 (+0.0100 to +0.0900)."
    )
    assert "so satisfaction is off: liked validation targets rise 1 % (-5 to +7)" in in_words(
        {FORECAST: nothing, PLACEBO: nothing}
    )
    unknown = told(0.0, None, None)
    assert in_words({FORECAST: unknown, PLACEBO: unknown}).startswith("Satisfaction is off: too few")


def test_a_list_without_spread_keeps_the_retrievers_order():
    flat = fuse(np.ones(4), np.zeros(4), 0.5)
    assert order(flat).tolist() == [0, 1, 2, 3] and not flat.any()
