"""The page of the whole system: whose ranks stand in which row, and that every configuration of the table loads."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer

from sealr.flows.benchmark import main
from sealr.pipeline.job import Job
from sealr.flows.specs import read_spec
from sealr.flows.wholesystem import EVERYTHING, LLM, RETRIEVED, SINGLE, WHOLE, compare, systems
from sealr.config import load_config
from sealr.data.tables import write_json

# Users a, b, c; their test items are y, z, x. b is not evaluated.
REVIEWS = pd.DataFrame(
    [(u, i, t) for u, items in {"a": "xzy", "b": "xyz", "c": "yzx"}.items() for t, i in enumerate(items)],
    columns=["user", "item", "position"],
)


def manifest(folder: Path, model: str, ranks: list[int], valid: float = 0.0) -> SimpleNamespace:
    folder.mkdir()
    np.save(folder / "test_ranks.npy", np.array(ranks))
    metrics = {"coverage@10": 0.5, "valid_ndcg@10": valid}
    return SimpleNamespace(path=folder.joinpath, config={"model": model}, metrics=metrics, seconds=3.0)


@pytest.fixture
def made(tmp_path):
    reviews = REVIEWS.assign(timestamp=pd.Timestamp("2020-01-01"), rating=5.0, text="", review_id=range(len(REVIEWS)))
    lists = {"retriever": {"a": "zxy", "c": "xyz"}, "scoring": {"a": "yzx", "c": "zy"}, "fused": {"a": "zyx", "c": "zxy"}}
    rows = [
        (user, item, rank, -float(rank), ranker, "test")
        for ranker, users in lists.items()
        for user, items in users.items()
        for rank, item in enumerate(items, start=1)
    ]
    rankings = pd.DataFrame(rows, columns=["user", "item", "rank", "score", "ranker", "split"])
    (tmp_path / "r").mkdir()
    stage = SimpleNamespace(path=(tmp_path / "r").joinpath, seconds=2.0)
    write_json({"test_users": ["c", "a"]}, tmp_path / "r" / "fusion.json")
    return stage, reviews, rankings


def test_rows_of_the_page(made, tmp_path, monkeypatch):
    stage, reviews, rankings = made
    tables = {"reviews.parquet": reviews, "rankings.parquet": rankings}
    for module in ("inputs", "wholesystem"):
        monkeypatch.setattr(f"flows.{module}.read_table", lambda path, schema: tables[path.name])
    parts = [manifest(tmp_path / "1", "sasrec", [9, 9, 9], 0.1), manifest(tmp_path / "2", "bsarec", [4, 5, 6], 0.2)]
    fused = manifest(tmp_path / "3", "fusion", [1, 2, 3], 0.9)
    found = {run.system: run for run in systems({"reviews": stage, "rankings": stage, "adapter": stage}, *parts, fused, seed=7)}
    assert list(found) == [SINGLE, RETRIEVED, LLM, EVERYTHING]
    assert found[SINGLE].ranks.tolist() == [6, 4]  # bsarec's, the better one on validation, of c and a
    assert found[RETRIEVED].ranks.tolist() == [3, 1]
    assert found[LLM].ranks.tolist() == [0, 1]  # c's x is not in the LLM's list
    assert found[EVERYTHING].ranks.tolist() == [2, 2]
    assert [run.seconds for run in found.values()] == [3, 9, 13, 13]  # with all that each builds on
    assert all(np.isnan(run.coverage) for run in found.values())  # b has lists of the retrievers alone
    assert {run.seed for run in found.values()} == {7}


def test_without_a_fusion_there_is_no_row_for_one(made, tmp_path, monkeypatch):
    stage, reviews, rankings = made
    tables = {"reviews.parquet": reviews, "rankings.parquet": rankings}
    for module in ("inputs", "wholesystem"):
        monkeypatch.setattr(f"flows.{module}.read_table", lambda path, schema: tables[path.name])
    alone = manifest(tmp_path / "1", "sasrec", [9, 8, 7])
    everybody = rankings.query("user == 'a'").assign(user="b")
    tables["rankings.parquet"] = pd.concat([rankings, everybody])
    write_json({"test_users": ["c", "a", "b"]}, tmp_path / "r" / "fusion.json")
    found = systems({"reviews": stage, "rankings": stage, "adapter": stage}, alone, seed=0)
    assert [run.system for run in found] == [SINGLE, LLM, EVERYTHING]
    assert [run.coverage for run in found] == [0.5, 1.0, 1.0]


def test_variants_have_rows_of_their_own_and_their_differences(made, tmp_path, monkeypatch):
    stage, reviews, rankings = made
    labels = reviews.assign(sentiment=np.where(reviews["user"] == "a", -1, 1), expected=0.5)
    tables = {"reviews.parquet": reviews, "rankings.parquet": rankings, "labels.parquet": labels}
    for module in ("inputs", "wholesystem"):
        monkeypatch.setattr(f"flows.{module}.read_table", lambda path, schema: tables[path.name])
    sentiments, written = [], {}

    def through_evaluation(job):
        sentiments.append((job.config.rerank.sentiment, job.config.rerank.seed))
        write_json({"test_users": ["c", "a"], "weight": 0.5}, tmp_path / "r" / "fusion.json")
        return dict.fromkeys(("reviews", "labels", "candidates", "adapter", "rankings", "results"), stage)

    sasrec = manifest(tmp_path / "1", "sasrec", [9, 8, 7])
    monkeypatch.setattr("sealr.flows.wholesystem.stages.through_evaluation", through_evaluation)
    monkeypatch.setattr("sealr.flows.wholesystem.train_retriever", lambda *given: sasrec)
    monkeypatch.setattr("sealr.flows.wholesystem.write", lambda folder, job, table, text: written.update(table=table, text=text))
    spec = {"configuration": "demo", "seeds": 2, "variants": {"shuffled (placebo)": ["rerank.sentiment=shuffled"]}}
    compare(Job(load_config("demo"), "run"), "two", spec, "")
    assert sentiments == [("class", 0), ("shuffled", 0), ("class", 1), ("shuffled", 1)]
    placebo = [f"{LLM}, shuffled (placebo)", f"{EVERYTHING}, shuffled (placebo)"]
    assert written["table"]["system"].tolist() == [SINGLE, LLM, EVERYTHING, *placebo]
    assert written["table"]["satisfied HR@10"].notna().all() and written["table"]["seeds"].tolist() == [2] * 5
    assert f"NDCG@10, {LLM} minus {placebo[0]}: +0.0000 (+0.0000 to +0.0000), 2 seeds" in written["text"]
    assert "the LLM orders the first 20 candidates" in written["text"]
    assert "seed 1, shuffled (placebo): the LLM's weight in the fusion is 0.5" in written["text"]


@pytest.mark.parametrize("name", read_spec(WHOLE))
def test_every_configuration_of_the_table_loads(name):
    given = read_spec(WHOLE)[name]
    for changes in ([], *given.get("variants", {}).values()):
        config = load_config(given.get("configuration", name), "", [*given.get("overrides", []), *changes])
        assert config.rerank.ranker == "scoring"


def test_systems_cannot_be_chosen_from_the_whole():
    with pytest.raises(typer.BadParameter, match="use --data"):
        main(table=WHOLE, only="SASRec")
