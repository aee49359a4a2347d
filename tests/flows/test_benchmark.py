"""The page of a comparison, and which failures end it; tests/pipeline/test_comparing_systems.py tests the runs."""

from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest

from sealr import tracking
from sealr.config import ConfigError, load_config
from sealr.data.manifest import Manifest
from sealr.data.tables import read_json, write_json, write_table
from sealr.evaluate.comparison import FULL, INJECTED, TIMES, Run
from sealr.flows import benchmark, steps
from sealr.pipeline import stages
from sealr.pipeline.comparison import Bench
from sealr.pipeline.comparison_files import merged_comparison
from sealr.pipeline.costs import Cost
from sealr.pipeline.job import Job

TOP = {
    "title": "Table 2",
    "note": "A note.",
    "settings": "evaluate.users=3",
    "metrics": ["HR@10", "NDCG@10"],
    "protocols": {FULL: "Whole catalogue.", INJECTED: "Injected.", TIMES: "Times."},
    "systems": {"SASRec": {"model": "sasrec"}, "FT10": "rerank.finetune_share=0.1", "PALR": "rerank.ranker=palr"},
    "compare": [["FT10", "SASRec"]],
    "published": {FULL: {"SASRec": [0, 0.0482, 0, 0.0218]}, INJECTED: {"FT10": [0, 0.1922, 0, 0.0895]}},
}


@pytest.fixture(scope="module")
def run_id(tmp_path_factory):
    """An MLflow run; one for all tests, because a new database takes seconds."""
    folder, patch = tmp_path_factory.mktemp("mlflow"), pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    patch.chdir(folder)  # MLflow puts artifacts beside
    with tracking.job("benchmark-table2", load_config("demo")) as run_id:
        yield run_id
    patch.undo()


@pytest.fixture
def bench(tmp_path, monkeypatch, run_id):
    """Three users; systems are done at once, but PALR fails."""
    monkeypatch.setenv("SEALR_HOME", str(tmp_path))
    monkeypatch.setattr(benchmark, "create_markdown_artifact", lambda **given: None)
    monkeypatch.setattr(benchmark, "run_system", run)
    rows = [(u, f"i{n}", n, 5.0 - n, "", n) for u in "abc" for n in range(3)]
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp", "rating", "text", "position"])
    write_table(table, tmp_path / "reviews.parquet", "reviews")
    reviews = SimpleNamespace(rows={"users": 100}, path=lambda name: tmp_path / name)
    job = Job(load_config("demo", "smollm2-135m"), run_id)
    spec, places = merged_comparison(TOP, "demo", {}), np.arange(3)
    return Bench(spec, job, "rerank.lr=1", None, reviews, None, list("abc"), places, True)


def run(bench, system):
    ranks, sizes = np.array([1, 20, 3]), np.full(3, 50)
    if system == "PALR":
        raise ValueError("no weights\nfor it")
    if system == "SASRec":
        return [Run(system, 0, {FULL: ranks, INJECTED: ranks}, 50, sizes)]
    reference = Run("retriever's order, Can50", 0, {INJECTED: ranks}, 50, sizes)
    return [Run(system, 0, {FULL: ranks, INJECTED: ranks}, 50, sizes, times=(4.0, 2.0)), reference]


def page(bench, tmp_path, only=""):
    benchmark.compare(bench, only, "table2-demo", "sealr benchmark --table 2 --data demo")
    folder = tmp_path / "benchmarks" / "table2-demo"
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")
    return (folder / "results.md").read_text(), read_json(folder / "results.json")


def test_a_page_has_every_protocol_with_published_figures(bench, tmp_path):
    text, made = page(bench, tmp_path)
    assert "`sealr benchmark --table 2 --data demo`" in text
    full, injected = ([row["system"] for row in made[protocol]] for protocol in (FULL, INJECTED))
    assert full == ["SASRec", "published: SASRec", "FT10", "PALR"]
    references = ["chance, Can50", "retriever's order, Can50"]
    assert injected == [*references, "SASRec", "FT10", "published: FT10", "PALR"]
    assert made[FULL][0]["HR@10"] == pytest.approx(2 / 3) and made[FULL][1]["HR@10"] == 0.0482
    assert made[FULL][3]["note"] == "not run: no weights for it" and made[FULL][3]["HR@10"] is None
    assert made[TIMES][0]["training, s each"] == 4.0 and made["differences"][0]["mean"] == 0
    assert all(
        part in text for part in ("## Table 2: demo", "A note.", "Whole catalogue.", "rerank.finetune_share=0.1")
    )
    assert "3 users" in text and "- settings over all: `rerank.lr=1`" in text
    assert "### Liked and disliked targets, full\n\nBy stars: " in text and "0 liked, 3 disliked" in text
    run_names = [run.info.run_name for run in mlflow.MlflowClient().search_runs(["1"])]
    assert "comparison" in run_names


def test_a_page_shows_what_retrievers_cost(bench, tmp_path, monkeypatch):
    def timed(bench, system):
        if system == "SASRec":
            bench.trained[system] = "its stage"
        seconds = {"SASRec": 3.0, "FT10": 60.0, "PALR": 90.0}[system]
        return [Run(system, 0, {FULL: np.array([1, 20, 3])}, seconds=seconds)]

    monkeypatch.setattr(benchmark, "run_system", timed)
    monkeypatch.setattr(benchmark, "cost_of", lambda bench, trained: {"its stage": Cost(250.0, 7)}[trained])
    text, made = page(bench, tmp_path)
    costs = {row["system"]: (row["epochs"], row["seconds"], row["lists/s"]) for row in made[FULL]}
    assert costs["SASRec"] == (7, 3, 250) and costs["FT10"] == (None, 60, None)
    assert "`lists/s`: users a second of CPU time" in text and "### accuracy and cost" in text
    assert "![NDCG@10 against costs; on the front against seconds: SASRec](pareto.png)" in text
    logged = {run.info.run_name: run.info.run_id for run in mlflow.MlflowClient().search_runs(["1"], max_results=1)}
    paths = [file.path for file in mlflow.MlflowClient().list_artifacts(logged["comparison"], "results")]
    assert paths == [f"results/{name}" for name in ("pareto.png", "results.json", "results.md", "results.png")]
    text, _ = page(bench, tmp_path, "SASRec")  # too few for a picture: the old one is gone
    assert "pareto.png" not in text and not (tmp_path / "benchmarks" / "table2-demo" / "pareto.png").exists()


def test_only_the_systems_asked_for_are_run(bench, tmp_path):
    text, made = page(bench, tmp_path, "SASRec")
    assert [row["system"] for row in made[FULL]] == ["SASRec", "published: SASRec"] and "differences" not in made
    assert "published: FT10" not in text
    with pytest.raises(ConfigError, match="no system 'SAS'.*did you mean SASRec"):
        benchmark.compare(bench, "SAS", "table2-demo", "")


def test_a_tracking_server_that_went_away_is_no_systems_fault(bench, monkeypatch):
    def away(bench, system):
        raise tracking.TrackingError("API request to http://127.0.0.1:5000 failed with exception refused")

    monkeypatch.setattr(benchmark, "run_system", away)
    with pytest.raises(tracking.TrackingError, match="refused"):
        benchmark.compare(bench, "PALR", "table2-demo", "")


def test_a_full_disk_is_no_systems_fault(bench, monkeypatch):
    monkeypatch.setattr(benchmark, "external_failure", lambda error: "no space left")
    with pytest.raises(ValueError, match="no weights"):
        benchmark.compare(bench, "PALR", "table2-demo", "")


def test_a_misspelt_system_is_refused_before_any_work():
    with pytest.raises(ConfigError, match="no system 'SAS'"):
        benchmark.benchmark.fn("2", "demo", "SAS")
    with pytest.raises(ConfigError, match="no data set 'beauty'"):
        benchmark.benchmark.fn("retrievers", "beauty")


def test_cells_do_not_overwrite_each_others_metrics(tmp_path, monkeypatch, run_id):
    described, client, config = [], mlflow.MlflowClient(), load_config("demo", "smollm2-135m", "retrieve.content=none")
    monkeypatch.setattr(steps, "create_markdown_artifact", lambda **given: described.append(given["description"]))
    monkeypatch.setattr(steps, "create_table_artifact", lambda **given: None)
    row = {"protocol": "full", "system": "retriever", "users": 3, "HR@5": 0.1, "HR@10": 0.2, "NDCG@5": 0.1}
    write_json({}, tmp_path / "manifest.json")
    write_json({"rows": [row | {"NDCG@10": 0.1}]}, tmp_path / "results.json")
    (tmp_path / "results.md").write_text("a table")

    def evaluated(cell, value):
        made = Manifest("evaluate", tmp_path, "k", "d", {}, {}, "c", {}, {"full.fused.HR@10": value}, {}, 1.0)
        monkeypatch.setattr(stages, "run_stage", lambda *arguments: made)
        steps.evaluate.fn(Job(config, run_id, cell), *[None] * 4)

    for cell, value in (("FT10", 0.1), ("FT20", 0.2)):
        evaluated(cell, value)
    # A slow machine has time to measure itself
    assert not [name for name in client.get_run(run_id).data.metrics if not name.startswith("system/")]
    children = client.search_runs([client.get_run(run_id).info.experiment_id], "tags.`sealr.stage` LIKE 'evaluate%'")
    found = {run.info.run_name: run.data.metrics["full.fused.HR_at_10"] for run in children}
    assert found == {"measure: FT10": 0.1, "measure: FT20": 0.2}
    assert described == ["Metrics of demo FT10", "Metrics of demo FT20"]
    evaluated("", 0.3)  # a job of one chain
    assert client.get_run(run_id).data.metrics["HR_at_10_retriever"] == 0.2
