"""Challenger against champion: as they stand, and with a champion that has to rank new gate users itself."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sealr.data.manifest import Manifest
from sealr.data.sequences import Sequences, gate_draw
from sealr.data.tables import read_json, write_json
from sealr.emotion.language import language_shares
from sealr.registry import card, gate
from sealr.registry.drift import Statistics
from sealr.registry.gate import HELD, Evidence
from sealr.rerank.rankers import Scored, target_rank
from sealr.rerank.requests import Pools, ranking_request
from sealr.rerank.rerank import rerank
from sealr.retrieve.candidates import target_ranks, write_candidates
from sealr.retrieve.train import load
from sealr.serving import recommender as serving
from sealr.serving.packing import Weights, histories
from sealr.settings import Config, DataConfig, RerankConfig
from tests.rerank.glad import POOL, Numbered, make_world
from tests.retrieve.toy_sequences import make_sequences
from tests.serving.small_model import OnlyAnger
from tests.serving.toy_model import USERS, neutral


@pytest.fixture
def champion(parts, tmp_path):
    """A version's files, as a registry gives them, with a URI."""
    folder = tmp_path / "champion"
    parts.pack(folder / "artifacts" / "model", weight=0.0)
    return folder


def write_evidence(folder, evidence):
    write_json(vars(evidence), folder / "artifacts" / gate.NOTES / gate.EVIDENCE)


class Half:
    """A ranker that likes items with a large index."""

    name = "half"

    def score(self, requests):
        return [Scored(np.asarray(r.pool, dtype=np.float32)) for r in requests]


def everybody(sequences):
    """The same sequences, all of whose users are gate users."""
    return sequences.with_gate(1)


def shown(users, ranks, data="new", share=1.0, learned=None):
    return Evidence(data, share, list(users), list(ranks), [0] * len(ranks), learned or {})


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    """The toy has 24 users."""
    monkeypatch.setattr(gate, "FEWEST", 5)


def test_evidence_is_of_the_gate_users_lists(parts, tmp_path):
    """At weight 0 the list is the retriever's, and so are the ranks; misses are 0."""
    config, sequences = parts.config, replace(parts.sequences, gate=frozenset(range(8)))
    retriever = load(parts.retriever)
    write_candidates(retriever, sequences, config.retrieve, tmp_path)
    pools = Pools(pd.read_parquet(tmp_path / "candidates.parquet"), sequences, config.rerank.n_reranked)
    rest, judges = list(range(8, 24)), list(range(8))
    made = rerank(Half(), rest, rest, sequences, neutral(sequences), pools, 4, tmp_path, gate_rows=judges)
    table = pd.read_parquet(tmp_path / "rankings.parquet")
    names = [sequences.users[u] for u in judges]
    found = gate.evidence(table, names, sequences, "digest", 0.3, True)
    assert made.metrics["fusion_weight"] == 0 and made.rows["gate_users"] == 8
    exact = target_ranks(retriever, sequences, "gate", True).tolist()
    assert found.users == names and found.ranks == [r if r <= config.rerank.n_reranked else 0 for r in exact]
    assert found.learned == dict.fromkeys(names, 6) and (found.data, found.share) == ("digest", 0.3)


def test_popularity_ranks_by_hand():
    """Training counts: item 1 four times, 2 three times, 3 and 4 once. The history and what is above the target."""
    lists = [[1, 2, 4, 3], [1, 2, 3, 1], [2, 1, 1, 4], [1, 3, 4, 2], [4]]
    sequences = make_sequences(lists, 4).with_gate(1)
    users = [f"u{n}" for n in range(4)]
    # targets 4, 3, 1, 4; order by count: 1 (4 times: u0, u1, u2, u3), 2 (3), 3 (1: u3), 4 (1: the short u4)
    assert gate.popularity_ranks(users, sequences, exclude_seen=False) == [4, 3, 1, 4]
    # 1 and 2 are in the histories of u0 and u1, the target of u2 is, and 1 and 3 are in that of u3
    assert gate.popularity_ranks(users, sequences, exclude_seen=True) == [2, 1, 0, 2]


def test_a_champion_that_has_to_rank_itself_ranks_as_it_was_measured(parts, champion):
    """Rescoring on the champion's own users and reviews gives the ranks that its own evaluation had."""
    sequences = everybody(parts.sequences)
    retriever = load(parts.retriever)
    expected = []
    for user in range(24):
        history, target = sequences.sequence(user)[:-2], sequences.sequence(user)[-2]
        scores = retriever.score([history])[0]
        scores[history] = -np.inf
        expected.append(int((scores > scores[target]).sum()) + 1)
    model = gate.Recommender.load(champion / "artifacts" / "model")
    ranks, share = gate.rescore(model, sequences.users, sequences, neutral(sequences))
    assert share == 1.0 and ranks == [r if r <= gate.TOP else 0 for r in expected]


class Moody:
    """A ranker that ranks by what it is told of the feelings: class and expected sentiment, or that there are none."""

    name = "moody"

    def score(self, requests):
        made = []
        for r in requests:
            mood = sum(s + 0.1 * e if e == e else 5.0 for s, e in np.asarray(r.feelings, dtype=np.float64))
            made.append(Scored(np.sin(mood * np.asarray(r.pool, dtype=np.float64))))
        return made


def test_a_champion_that_has_to_rank_itself_is_told_the_feelings_that_it_was_evaluated_with(parts, champion, tmp_path):
    sequences, config = everybody(parts.sequences), parts.config
    rng = np.random.default_rng(0)
    expected = np.where(rng.random(len(sequences.flat)) < 0.4, np.nan, rng.uniform(-2, 2, len(sequences.flat)))
    feelings = np.stack([expected.round(), expected], axis=1).astype(np.float32)
    write_candidates(load(parts.retriever), sequences, config.retrieve, tmp_path)
    pools = Pools(pd.read_parquet(tmp_path / "candidates.parquet"), sequences, config.rerank.n_reranked)
    users = list(range(len(sequences.users)))
    asked = [ranking_request(row, "gate", sequences, feelings, pools) for row in users]
    measured = []
    for request, scored, target in zip(asked, Moody().score(asked), sequences.targets("gate", users), strict=True):
        rank = target_rank(scored.values, request.pool, target)  # the LLM's own list, as weight is all of it below
        measured.append(int(rank) if np.isfinite(rank) else 0)
    model = gate.Recommender.load(champion / "artifacts" / "model")
    model.ranker, model.weights = Moody(), Weights(1e9)
    ranks, _ = gate.rescore(model, sequences.users, sequences, feelings)
    pooled = [r for r, m in zip(ranks, measured, strict=True) if m]
    assert pooled == [m if m <= gate.TOP else 0 for m in measured if m] and len(set(pooled)) > 2


def judged(parts, champion, challenger, sequences=None, stars=None, number=1):
    sequences = everybody(sequences or parts.sequences)
    return gate.judge(challenger, champion.as_uri(), number, sequences, neutral(sequences), stars, 500)


def test_on_the_same_reviews_stored_ranks_are_paired_over_the_users_that_both_have(parts, champion):
    write_evidence(champion, shown(USERS[:20], [5] * 20, "same"))
    verdict = judged(parts, champion, shown(USERS[8:], [1] * 12 + [9] * 4, "same"))
    assert verdict.figures["users"] == 12 and verdict.figures["challenger"] == 1.0
    assert verdict.figures["champion"] == pytest.approx(1 / np.log2(6)) and verdict.decision == gate.PROMOTED


def test_on_other_reviews_the_champion_is_asked_only_for_targets_that_it_has_not_learned_from(parts, champion):
    """All have six reviews, so the target is the fifth: known to a champion that learned from five or six."""
    sequences = parts.sequences
    learned = dict.fromkeys(sequences.users[:12], 4) | dict.fromkeys(sequences.users[12:15], 5)
    learned |= dict.fromkeys(sequences.users[15:20], 6)  # the last four are new to it
    write_evidence(champion, shown([], [], "old", learned=learned))
    verdict = judged(parts, champion, shown(sequences.users, [1] * 24))
    assert verdict.figures["users"] == 16 and verdict.figures["known"] == 1.0
    assert verdict.figures["challenger"] == 1.0 and 0 <= verdict.figures["champion"] < 1


def test_on_other_reviews_only_users_who_were_gate_users_of_the_champion_are_asked(parts, champion):
    write_evidence(champion, shown([], [], "old", share=0.5))
    verdict = judged(parts, champion, shown(parts.sequences.users, [1] * 24))
    assert verdict.figures["users"] == sum(gate_draw(user) < 0.5 for user in parts.sequences.users) < 24


def test_a_refitted_champion_holds_until_enough_users_have_newer_reviews(parts, champion):
    learned = dict.fromkeys(parts.sequences.users[:20], 6)
    write_evidence(champion, shown([], [], "old", learned=learned))
    verdict = judged(parts, champion, shown(parts.sequences.users, [1] * 24))
    assert verdict.decision == HELD and "try" not in verdict.figures
    assert "only 4 of 24 gate users can be compared" in verdict.reason
    assert "the champion has learned from the others' targets" in verdict.reason


def test_a_champion_whose_items_are_gone_holds(parts, champion):
    old = parts.sequences
    write_evidence(champion, shown([], [], "old"))
    renamed = Sequences(old.users, [f"new-{i}" for i in old.items], old.flat, old.offsets)
    verdict = judged(parts, champion, shown(old.users, [1] * 24), renamed)
    assert verdict.decision == HELD
    assert "100% of the 24 gate histories hold no item that the champion knows" in verdict.reason


def test_a_champion_that_cannot_be_loaded_holds(parts, champion):
    write_evidence(champion, shown([], [], "old"))
    shutil.rmtree(champion / "artifacts" / "model" / "retriever")
    verdict = judged(parts, champion, shown(parts.sequences.users, [1] * 24), stars=parts.stars)
    assert verdict.decision == HELD and "retriever.json" in verdict.reason


def test_a_champion_of_another_release_holds(parts, champion):
    challenger = shown(parts.sequences.users, [1] * 24)
    verdict = judged(parts, champion, challenger)
    assert verdict.decision == HELD and "it carries no evidence: promote by hand" in verdict.reason
    write_json({"validation": "old", "users": []}, champion / "artifacts" / gate.NOTES / gate.EVIDENCE)
    verdict = judged(parts, champion, challenger)
    assert verdict.decision == HELD and "evidence.json is of another release: promote by hand" in verdict.reason


@pytest.fixture
def pleasing(tmp_path, monkeypatch):
    """A re-ranked world with a weight of satisfaction, the evidence, and the recommender of the same parts."""
    monkeypatch.setattr(serving.Labeller, "from_config", lambda config: OnlyAnger())
    world = make_world(tmp_path)
    world.rerank(world.forecast, gate=True)
    chosen = read_json(tmp_path / "fusion.json")
    weights = Weights(chosen["weight"], chosen["satisfaction_weight"])
    assert weights.satisfaction > 0
    sequences = world.sequences
    config = Config(
        data=DataConfig("toy"), retrieve=world.retriever.config, rerank=RerankConfig(n_reranked=POOL, sentiment="none")
    )
    items = pd.DataFrame({"item": sequences.items, "title": None, "categories": None})
    known = histories(sequences, world.feelings, world.forecast.stars)
    model = gate.Recommender(config, weights, world.retriever, Numbered(), items, known, world.forecast.model)
    return world, pd.read_parquet(tmp_path / "rankings.parquet"), model


def test_evidence_is_of_the_list_that_is_served(pleasing):
    """With a forecast that is the list with satisfaction; its ranks by hand from the table of rankings."""
    world, table, _ = pleasing
    users, sequences = world.sequences.users, everybody(world.sequences)
    found = gate.evidence(table, users, sequences, "digest", 1.0, True)
    targets = sequences.targets("gate", range(120))
    for ranker, same in (("fused + satisfaction", True), ("fused", False)):
        lists = table[(table["split"] == "gate") & (table["ranker"] == ranker)].set_index(["user", "item"])["rank"]
        ranks = [int(lists[user, sequences.items[t - 1]]) for user, t in zip(users, targets, strict=True)]
        assert (found.ranks == ranks) == same


def test_a_champion_with_satisfaction_is_rescored_with_stars(pleasing):
    """Its ranks are those of its own evaluation; without the users' stars they would be others."""
    world, table, model = pleasing
    users, sequences = world.sequences.users, everybody(world.sequences)
    measured = gate.evidence(table, users, sequences, "digest", 1.0, True).ranks
    ranks, share = gate.rescore(model, users, sequences, world.feelings, world.forecast.stars)
    assert share == 1.0 and ranks == [m if m <= gate.TOP else 0 for m in measured]
    without, _ = gate.rescore(model, users, sequences, world.feelings)
    assert without != ranks


def test_the_stars_reach_a_registered_champion(parts, tmp_path, monkeypatch):
    folder = tmp_path / "champion"
    parts.pack(folder / "artifacts" / "model", 0.0, 0.7)
    write_evidence(folder, shown([], [], "old"))
    read = []
    recommend = gate.Recommender.recommend
    monkeypatch.setattr(
        gate.Recommender, "recommend", lambda self, asked, *more: read.extend(asked) or recommend(self, asked, *more)
    )
    verdict = judged(parts, folder, shown(parts.sequences.users, [1] * 24), stars=parts.stars)
    assert verdict.figures["users"] == 24 and len(read) == 24
    for row, query in enumerate(read):
        np.testing.assert_array_equal(query.stars, parts.stars[parts.sequences.span("valid", row)])


def test_the_card_says_what_there_is_and_fits_into_a_description(parts, tmp_path):
    def made(stage, rows=None, metrics=None):
        return Manifest(
            stage, tmp_path, f"key-{stage}", f"digest-{stage}" * 4, {}, {}, "", rows or {}, metrics or {}, {}, 1.0
        )

    stages = {
        "reviews": made("ingest", {"rejected": 7}),
        "labels": made("label", metrics={"pearson_rating": 0.449} | language_shares(["Die Gitarre klingt sehr gut."])),
        "candidates": made("retrieve", metrics={"test_hr@10": 0.25}),
        "adapter": made("finetune", {"train_users": 271}),
        "rankings": made("rerank", metrics={"valid_ndcg@10": 0.08, "valid_ndcg@10_retriever": 0.07}),
        "results": made("evaluate"),
        "refit-adapter": made("refit-finetune", {"train_users": 285}),
    }
    statistics = Statistics(
        {"joy": 3, "anger": 1}, {"2": 3, "-2": 1}, {"a": 2, "b": 2}, {"2": 2}, {"2014-01": 3, "2014-03": 1}
    )
    config = replace(parts.config, data=DataConfig("toys", "toys"))
    fusion = {"weight": 0.5, "validation_users": ["u1", "u2"]}
    seen = Evidence("same", 0.25, ["u3", "u4"], [1, 0], [3, 0], {})
    row = {"protocol": "full", "users": 2, "HR@10": 0.5, "NDCG@10": 0.25}
    found = [row | {"system": "retriever, all users"}, row | {"system": "retriever"}, row | {"system": "fused"}]
    differences = {"HR@10, fused minus retriever": [0.1, -0.1, 0.3], "HR@10, fused minus chance, injected": [9, 9, 9]}
    figures = {"rows": found, "differences": differences}
    text = card.model_card(config, stages, fusion, "| a table |\n" * 500, figures, statistics, 24, seen)
    assert "* HR@10, fused minus retriever: +0.1000 (-0.1000 to +0.3000).\n" in text[:900]  # on the first screen
    assert "injected" not in text
    for part in (
        "4 reviews by 2 users of 2 items, 2014-01 to 2014-03",
        "7 rows were rejected",
        "271 users",
        "and for serving on 285, with all their items",
        "evaluated without each user's two newest reviews; the served model has the same settings, epochs and weights, "
        "and has learned from all 4 reviews.",
        "0.0800",
        "Gate NDCG@10 0.5000 over 2 other users, who chose nothing; the most popular items have 0.2500.",
        "0.449",
        "Of 1 sampled texts, 100.0% are German, 0.0% are English",
        "25.0%",
        "strong negative 25.0%",
        "candidates: digest-retrieve",
        "HR@10 0.5000, NDCG@10 0.2500 on the test items of 2 users; all items are ranked.",
        "personal data",
        "see the base model's own card",
    ):
        assert part in " ".join(text.split()), part
    assert (
        text.count(card.FENCE) == 2 and "| a table |\n```" in text
    )  # MLflow's page sets the cells of a table without a space
    short = card.description(text)
    assert short.count(card.FENCE) == 2  # the cut table is closed, so that what follows is text
    assert (
        len(short) <= card.DESCRIPTION_LENGTH and short.endswith("artifact notes/card.md.\n") and "## Licences" in short
    )
    assert card.description("short") == "short"


def test_salted_evidence_is_paired_with_plain_ids(parts, champion, tmp_path, monkeypatch):
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    ours = Evidence("same", 0.25, ["ann", "bob", "cid"], [1, 2, 3], [0, 0, 0], {"ann": 3})
    kept = gate.with_salt(replace(ours, users=["bob", "cid", "dan"], ranks=[7, 8, 9]))
    assert not {"bob", "cid", "dan", "ann"} & {*kept.users, *kept.learned} and kept.users == sorted(kept.users)
    write_evidence(champion, kept)
    users, ranks, _ = gate._champion_ranks(ours, champion.as_uri(), None, None, None)
    assert (users, ranks) == (["bob", "cid"], [7, 8])
