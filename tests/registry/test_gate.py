"""Challenger against champion: as they stand, and with a champion that has to rank new validation users itself."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sealr.data.manifest import Manifest
from sealr.data.sequences import Sequences
from sealr.data.tables import read_json, write_json
from sealr.emotion.language import language_shares
from sealr.evaluate.metrics import ndcg
from sealr.registry import card, gate
from sealr.registry.drift import Statistics
from sealr.registry.gate import HELD, Evidence
from sealr.rerank.rankers import Scored
from sealr.rerank.requests import Pools
from sealr.rerank.rerank import rerank
from sealr.retrieve.candidates import write_candidates
from sealr.retrieve.train import load
from sealr.serving import recommender as serving
from sealr.serving.packing import Weights, histories
from sealr.settings import Config, DataConfig, RerankConfig
from tests.rerank.glad import POOL, Numbered, make_world
from tests.serving.small_model import OnlyAnger
from tests.serving.toy_model import neutral


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


def test_evidence_is_what_rerank_measured(parts, tmp_path):
    sequences, config = parts.sequences, parts.config
    write_candidates(load(parts.retriever), sequences, config.retrieve, tmp_path)
    pools = Pools(pd.read_parquet(tmp_path / "candidates.parquet"), sequences, config.rerank.n_reranked)
    users = list(range(0, 20))
    made = rerank(Half(), users, users, sequences, neutral(sequences), pools, 4, tmp_path)
    table = pd.read_parquet(tmp_path / "rankings.parquet")
    names = [sequences.users[u] for u in users]
    found = gate.evidence(table, names, sequences, "digest", ["u23"])
    assert ndcg(found.ranks, 10).mean() == pytest.approx(made.metrics["valid_ndcg@10"])
    assert found.users == names and found.tuned == ["u23"]


def test_a_champion_that_has_to_rank_itself_ranks_as_it_was_measured(parts, champion):
    """Rescoring on the champion's own users and reviews gives the ranks that its own evaluation had."""
    sequences = parts.sequences
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
    sequences, config = parts.sequences, parts.config
    rng = np.random.default_rng(0)
    expected = np.where(rng.random(len(sequences.flat)) < 0.4, np.nan, rng.uniform(-2, 2, len(sequences.flat)))
    feelings = np.stack([expected.round(), expected], axis=1).astype(np.float32)
    write_candidates(load(parts.retriever), sequences, config.retrieve, tmp_path)
    pools = Pools(pd.read_parquet(tmp_path / "candidates.parquet"), sequences, config.rerank.n_reranked)
    users = list(range(len(sequences.users)))
    rerank(Moody(), users, users, sequences, feelings, pools, 4, tmp_path)
    table = pd.read_parquet(tmp_path / "rankings.parquet").query("ranker != 'fused'")
    table = table.assign(
        ranker=table["ranker"].replace("moody", "fused")
    )  # the LLM's own list, as weight is all of it below
    measured = gate.evidence(table, sequences.users, sequences, "digest", []).ranks
    model = gate.Recommender.load(champion / "artifacts" / "model")
    model.ranker, model.weights = Moody(), Weights(1e9)
    ranks, _ = gate.rescore(model, sequences.users, sequences, feelings)
    pooled = [r for r, m in zip(ranks, measured, strict=True) if m]
    assert pooled == [m if m <= gate.TOP else 0 for m in measured if m] and len(set(pooled)) > 2


def test_where_users_changed_the_champion_is_scored_without_those_its_llm_was_tuned_on(parts, champion):
    sequences = parts.sequences
    write_evidence(champion, Evidence("old", ["somebody"], [1], ["u0", "u1"]))
    challenger = Evidence("new", list(sequences.users[:12]), [1] * 12, [])
    verdict = gate.judge(challenger, champion.as_uri(), sequences, neutral(sequences), None, 500)
    assert verdict.figures["users"] == 10 and verdict.figures["known"] == 1.0
    assert verdict.figures["challenger"] == 1.0 and 0 <= verdict.figures["champion"] < 1
    assert verdict.decision == (gate.PROMOTED if verdict.figures["low"] > 0 else gate.REFUSED)


def test_a_champion_whose_items_are_gone_holds(parts, champion):
    old = parts.sequences
    renamed = Sequences(old.users, [f"new-{i}" for i in old.items], old.flat, old.offsets)
    challenger = Evidence("new", list(old.users), [1] * len(old.users), [])
    verdict = gate.judge(challenger, champion.as_uri(), renamed, neutral(renamed), None, 500)
    assert (
        verdict.decision == HELD
        and "100% of the 24 validation histories hold no item that the champion knows" in verdict.reason
    )


def test_a_champion_that_cannot_be_loaded_holds(parts, champion):
    shutil.rmtree(champion / "artifacts" / "model" / "retriever")
    challenger = Evidence("new", list(parts.sequences.users), [1] * 24, [])
    verdict = gate.judge(challenger, champion.as_uri(), parts.sequences, neutral(parts.sequences), parts.stars, 500)
    assert verdict.decision == HELD and "retriever.json" in verdict.reason


@pytest.fixture
def pleasing(tmp_path, monkeypatch):
    """A re-ranked world with a weight of satisfaction, the evidence, and the recommender of the same parts."""
    monkeypatch.setattr(serving.Labeller, "from_config", lambda config: OnlyAnger())
    world = make_world(tmp_path)
    world.rerank(world.forecast)
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
    users = world.sequences.users
    found = gate.evidence(table, users, world.sequences, "digest", [])
    targets = world.sequences.targets("valid", range(120))
    for ranker, same in (("fused + satisfaction", True), ("fused", False)):
        lists = table[(table["split"] == "valid") & (table["ranker"] == ranker)].set_index(["user", "item"])["rank"]
        ranks = [int(lists[user, world.sequences.items[t - 1]]) for user, t in zip(users, targets, strict=True)]
        assert (found.ranks == ranks) == same


def test_a_champion_with_satisfaction_is_rescored_with_stars(pleasing):
    """Its ranks are those of its own evaluation; without the users' stars they would be others."""
    world, table, model = pleasing
    users = world.sequences.users
    measured = gate.evidence(table, users, world.sequences, "digest", []).ranks
    ranks, share = gate.rescore(model, users, world.sequences, world.feelings, world.forecast.stars)
    assert share == 1.0 and ranks == [m if m <= gate.TOP else 0 for m in measured]
    without, _ = gate.rescore(model, users, world.sequences, world.feelings)
    assert without != ranks


def test_the_stars_reach_a_registered_champion(parts, tmp_path, monkeypatch):
    folder = tmp_path / "champion"
    parts.pack(folder / "artifacts" / "model", 0.0, 0.7)
    read = []
    recommend = gate.Recommender.recommend
    monkeypatch.setattr(
        gate.Recommender, "recommend", lambda self, asked, *more: read.extend(asked) or recommend(self, asked, *more)
    )
    sequences = parts.sequences
    challenger = Evidence("new", list(sequences.users), [1] * 24, [])
    verdict = gate.judge(challenger, folder.as_uri(), sequences, neutral(sequences), parts.stars, 500)
    assert verdict.figures["users"] == 24 and len(read) == 24
    for row, query in enumerate(read):
        np.testing.assert_array_equal(query.stars, parts.stars[sequences.span("valid", row)])


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
    }
    statistics = Statistics(
        {"joy": 3, "anger": 1}, {"2": 3, "-2": 1}, {"a": 2, "b": 2}, {"2": 2}, {"2014-01": 3, "2014-03": 1}
    )
    config = replace(parts.config, data=DataConfig("toys", "toys"))
    fusion = {"weight": 0.5, "validation_users": ["u1", "u2"]}
    text = card.model_card(config, stages, fusion, "| a table |\n" * 500, statistics, 24)
    for part in (
        "4 reviews by 2 users of 2 items, 2014-01 to 2014-03",
        "7 rows were rejected",
        "271 users",
        "0.0800",
        "0.449",
        "Of 1 sampled texts, 100.0% are German, 0.0% are English",
        "25.0%",
        "strong negative 25.0%",
        "`digest-retrieve",
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
