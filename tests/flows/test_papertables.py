"""What the paper's tables ask for, and how a sheet is put together; the stages themselves are tested elsewhere."""

from types import SimpleNamespace

import mlflow
import numpy as np
import pytest

from sealr.flows import papertables, steps
from sealr.pipeline.job import Job
from sealr.flows.papertables import PAPER, Sheet, figures, times
from sealr.flows.specs import configuration, read_spec, wanted
from sealr import tracking
from sealr.config import ConfigError, load_config
from sealr.data.manifest import Manifest
from sealr.data.tables import write_json
from tests.evaluate.test_paper_tables import RESULTS

SPEC = {
    "title": "Table 2",
    "base": "smollm2-135m",
    "note": "A note.",
    "reading": {"full": "Whole catalogue.", "injected": "Injected.", "times": "Times."},
    "data": {"demo": {"paper": "Beauty", "note": "Generated."}},
    "retrievers": {"SASRec": {"model": "sasrec"}},
    "rerankers": {"SEALR FT10": "rerank.ranker=generative rerank.finetune_share=0.1", "PALR": "rerank.ranker=palr"},
    "published": {"Beauty": {"SASRec": [0.0276, 0.0482, 0.0152, 0.0218], "SEALR FT10": [0.1, 0.1922, 0.06, 0.0895]}},
}


@pytest.mark.parametrize("table", PAPER)
def test_every_cell_of_a_table_has_settings_that_load(table):
    spec = read_spec(table)
    for name, given in spec["data"].items():
        settings = f"{spec['settings']} {(given or {}).get('settings', '')}"
        for own in spec["rerankers"].values():
            config = load_config(name, spec["base"], f"{settings} {own}")
            assert config.rerank.user_split == "inductive"  # nobody is evaluated who was trained on
        sheet = Sheet(Job(load_config(name, spec["base"], settings), ""), spec, name, settings, "")
        assert (given or {}).get("retrievers", {}).keys() <= sheet.retrievers.keys()
        for system in sheet.retrievers:
            configuration(sheet.job.config.retrieve, system, sheet.retrievers, 0)
    for rows in spec.get("published", {}).values():
        assert set(rows) <= {*spec["rerankers"], *spec.get("retrievers", {})} and all(len(v) == 4 for v in rows.values())
    papers = {(given or {}).get("paper") for given in spec["data"].values()} - {None}
    assert papers <= set(spec.get("published", {}))


def test_figure_4_shares_its_cells_with_table_2():
    table, figure = read_spec("table2"), read_spec("figure4")
    pairs = {
        "PALR": "names (PALR)",
        "SEALR generative FT20 Can50": "encoded ids (generative)",
        "SEALR scoring FT20 Can50": "soft tokens (scoring)",
    }
    for name, pair in pairs.items():
        for data in figure["data"]:
            one, other = (
                load_config(data, s["base"], f"{s['settings']} {(s['data'][data] or {}).get('settings', '')} {s['rerankers'][cell]}")
                for s, cell in ((table, name), (figure, pair))
            )
            assert one == other


@pytest.fixture
def sheet(tmp_path, monkeypatch):
    """Cells whose chain is done at once; PALR's fails."""
    write_json(RESULTS, tmp_path / "results.json")
    results = SimpleNamespace(path=lambda name: tmp_path / name)
    adapter = SimpleNamespace(rows={"train_users": 10}, metrics={"epochs": 2.0, "train_seconds": 80.0})
    ranked = SimpleNamespace(metrics={"seconds_a_list": 2.0})

    def chain(job):
        if job.config.rerank.ranker == "palr":
            raise ValueError("no weights\nfor it")
        return {"results": results, "adapter": adapter, "rankings": ranked}

    monkeypatch.setattr(papertables.steps, "through_evaluation", chain)
    ranks = SimpleNamespace(path=lambda name: tmp_path / "ranks.npy")
    np.save(tmp_path / "ranks.npy", np.array([1, 20, 0, 3]))
    monkeypatch.setattr(papertables, "train_retriever", lambda *arguments: ranks)
    monkeypatch.setattr(papertables, "evaluated", lambda job, reviews: np.array([0, 1, 3]))
    return Sheet(Job(load_config("demo", "smollm2-135m"), "run"), SPEC, "demo", "evaluate.users=3", "")


def test_a_sheet_has_both_protocols_with_the_papers_figures_where_they_compare(sheet):
    made, text = figures(sheet, None, "")
    full, injected = (made[p].set_index("system") for p in ("full", "injected"))
    assert full.loc["SASRec", "paper HR@10"] == 0.0482 and full.loc["SASRec", "HR@10"] == pytest.approx(2 / 3)
    assert full.loc["SASRec", "NDCG@10 minus retriever"] == "+0.0000 (+0.0000 to +0.0000)"  # it is the LLM's
    assert np.isnan(full.loc["SEALR FT10", "paper HR@10"]) and injected.loc["SEALR FT10", "paper HR@10"] == 0.1922
    assert injected.index[:3].str.contains("Can50|Can20").all() and np.isnan(injected.loc["SASRec", "paper HR@10"])
    assert full.loc["PALR", "note"] == "not run: no weights for it"
    assert all(part in text for part in ("## Table 2: demo", "A note.", "Generated.", "Whole catalogue.", "rerank.finetune_share=0.1"))
    assert "Over all of these" not in text


def test_a_data_set_may_have_settings_of_its_own_for_a_baseline(sheet, monkeypatch):
    seen = []
    monkeypatch.setitem(SPEC["data"]["demo"], "retrievers", {"SASRec": {"epochs": 3}})
    original = papertables.train_retriever
    monkeypatch.setattr(papertables, "train_retriever", lambda job, config, *rest: [seen.append(config.epochs), original()][1])
    made, _ = figures(sheet, None, "SASRec")
    assert seen == [3] and made["full"]["NDCG@10 minus retriever"].isna().all()  # it is not the LLM's then


def test_a_systems_settings_leave_other_overrides_alone():
    base = load_config("demo", "", "retrieve.cooccurrence.neighbours=50").retrieve
    made = configuration(base, "recent", {"recent": {"model": "cooccurrence", "cooccurrence": {"decay": 0.5}}}, 3)
    assert (made.cooccurrence.neighbours, made.cooccurrence.decay, made.seed) == (50, 0.5, 3)


def test_baselines_have_the_seed_of_the_job(sheet, monkeypatch):
    seeds, original = [], papertables.train_retriever
    monkeypatch.setattr(papertables, "train_retriever", lambda job, config, *rest: [seeds.append(config.seed), original()][1])
    seeded = Sheet(Job(load_config("demo", "smollm2-135m", "retrieve.seed=2"), "run"), SPEC, "demo", "", "")
    assert not figures(seeded, None, "SASRec")[0]["full"]["NDCG@10 minus retriever"].isna().any() and seeds == [2]


def test_only_the_systems_asked_for_are_run(sheet):
    made, _ = figures(sheet, None, "SASRec")
    assert made["full"]["system"].tolist() == ["SASRec"]
    with pytest.raises(ConfigError, match="no system 'SAS'"):
        figures(sheet, None, "SAS")


def test_times_are_by_prompt_and_list(sheet):
    made, text = times(sheet, SimpleNamespace(rows={"users": 100}), "")
    assert made["times"]["training, s each"].tolist() == [4.0] and made["times"]["inference, s each"].tolist() == [2.0]
    assert "PALR: not run: no weights for it" in text


def test_a_tracking_server_that_went_away_is_no_cells_fault(sheet, monkeypatch):
    def away(job):
        raise tracking.TrackingError("API request to http://127.0.0.1:5000 failed with exception refused")

    monkeypatch.setattr(papertables.steps, "through_evaluation", away)
    with pytest.raises(tracking.TrackingError, match="refused"):
        figures(sheet, None, "PALR")


def test_a_full_disk_is_no_cells_fault(sheet, monkeypatch):
    monkeypatch.setattr(papertables, "outside", lambda error: "no space left")
    with pytest.raises(ValueError, match="no weights"):
        figures(sheet, None, "PALR")


def test_names_that_are_not_there_are_named():
    assert wanted("", {"a": 1, "b": 2}, "data set") == ["a", "b"] and wanted("b", {"a": 1, "b": 2}, "data set") == ["b"]
    with pytest.raises(ConfigError, match="no data set 'c'.*a, b"):
        wanted("c", {"a": 1, "b": 2}, "data set")
    with pytest.raises(ConfigError, match="table2"):
        read_spec("nothing")


def test_cells_do_not_overwrite_each_others_metrics(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts beside
    monkeypatch.setattr(steps, "create_markdown_artifact", lambda **given: described.append(given["description"]))
    for name in ("manifest.json", "results.json"):
        write_json({}, tmp_path / name)
    (tmp_path / "results.md").write_text("a table")
    described, config = [], load_config("demo", "smollm2-135m")

    def evaluated(run_id, cell, value):
        made = Manifest("evaluate", tmp_path, "k", "d", {}, {}, "c", {}, {"full.fused.HR@10": value}, {}, 1.0)
        monkeypatch.setattr(steps, "run_stage", lambda *arguments: made)
        steps.evaluate.fn(Job(config, run_id, cell), *[None] * 4)

    with tracking.job("benchmark-table2", config) as run_id:
        for cell, value in (("FT10", 0.1), ("FT20", 0.2)):
            evaluated(run_id, cell, value)
        client = mlflow.MlflowClient()
        assert client.get_run(run_id).data.metrics == {}
        children = client.search_runs([client.get_run(run_id).info.experiment_id], "tags.`sealr.stage` LIKE 'evaluate%'")
        found = {run.info.run_name: run.data.metrics["full.fused.HR_at_10"] for run in children}
        assert found == {"evaluate FT10": 0.1, "evaluate FT20": 0.2}
        assert described == ["Metrics of demo FT10", "Metrics of demo FT20"]
        evaluated(run_id, "", 0.3)  # a job of one chain
        assert client.get_run(run_id).data.metrics == {"full.fused.HR_at_10": 0.3}
