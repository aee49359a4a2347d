"""What the comparison files ask for, and the runs of a small comparison with a toy LLM; everything else is real."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from sealr import tracking
from sealr.config import ConfigError, load_config
from sealr.data.tables import read_json
from sealr.evaluate.comparison import FULL, INJECTED, KEPT, TIMES, table, times_table
from sealr.evaluate.metrics import chance
from sealr.pipeline import comparison, stages
from sealr.pipeline.comparison import Bench, open_bench, retriever_config, run_system
from sealr.pipeline.comparison_files import merged_comparison, read_comparisons, select_names
from sealr.pipeline.job import Job
from sealr.rerank.rerank import FUSED, GLAD
from sealr.retrieve.models.fusion import built_on, part_configs

TABLES = ("retrievers", "sealr", "table2", "table3", "figure4")
SPECS = [(name, data) for name in TABLES for data in read_comparisons(name)]


@pytest.mark.parametrize(("name", "data"), SPECS)
def test_every_system_has_settings_that_load(name, data):
    spec = read_comparisons(name)[data]
    base = load_config(spec.configuration, spec.base, spec.settings)
    for own in spec.chains.values():
        config = load_config(spec.configuration, spec.base, f"{spec.settings} {own}")
        assert name == "sealr" or config.rerank.user_split == "inductive"  # nobody is evaluated who was trained on
        assert name != "sealr" or config.rerank.ranker == "scoring"
    retrievers = {system: own for system, own in spec.systems.items() if system not in spec.chains}
    for system in retrievers:
        retriever_config(base.retrieve, system, retrievers, 0)
    rows = {*spec.systems, *(f"{system}, {ranker}" for system in spec.chains for ranker in (FUSED, GLAD))}
    assert {system for pair in spec.compare for system in pair} <= rows
    assert not [system for system in spec.systems if "," in system]  # --only is separated by commas
    assert spec.published.keys() <= spec.protocols.keys()
    for figures in spec.published.values():
        assert all(len(values) == 4 for values in figures.values())
        assert not name.startswith("table") or figures.keys() <= rows


def test_figure_4_shares_its_cells_with_table_2():
    table2, figure = read_comparisons("table2"), read_comparisons("figure4")
    pairs = {
        "PALR": "names (PALR)",
        "SEALR generative FT20 Can50": "encoded ids (generative)",
        "SEALR scoring FT20 Can50": "soft tokens (scoring)",
    }
    for data in figure:
        for name, pair in pairs.items():
            one, other = (
                load_config(s.configuration, s.base, f"{s.settings} {s.systems[cell]}")
                for s, cell in ((table2[data], name), (figure[data], pair))
            )
            assert one == other


def test_a_data_set_adds_to_the_top_of_the_file():
    top = {
        "title": "T",
        "settings": "rerank.layers=2",
        "note": "Of all.",
        "protocols": {"full": "Whole."},
        "systems": {"a": {"model": "ease"}, "LLM": ""},
        "compare": [["a", "LLM"]],
    }
    own = {
        "settings": ["retrieve.parts=[{model: ease}]", "rerank.layers=3"],
        "note": "Of one.",
        "systems": {"a": {"epochs": 3}, "b": {}},
        "compare": [["b", "a"]],
        "seeds": 2,
    }
    spec = merged_comparison(top, "demo", own)
    own = "rerank.layers=2 'retrieve.parts=[{model: ease}]' rerank.layers=3"
    assert spec.settings == f"evaluate.gate_share=0 {own}"  # nothing is promoted, so everybody may choose
    assert spec.note == "Of one.\n\nOf all." and spec.configuration == "demo" and spec.seeds == 2
    assert spec.systems == {"a": {"model": "ease", "epochs": 3}, "LLM": "", "b": {}} and list(spec.chains) == ["LLM"]
    assert spec.compare == (("a", "LLM"), ("b", "a"))
    with pytest.raises(ConfigError, match="comparison on demo.*\n.*publish"):
        merged_comparison(top, "demo", {"publish": {}})


def test_names_that_are_not_there_are_named():
    assert select_names("", {"a": 1, "b": 2}, "data set") == ["a", "b"]
    assert select_names("b, A", {"a": 1, "b": 2}, "data set") == ["b", "a"]
    assert select_names("sasrec", ["SASRec", "BSARec"], "system") == ["SASRec"]
    with pytest.raises(ConfigError, match="no data set 'c'.*a, b"):
        select_names("c", {"a": 1, "b": 2}, "data set")
    with pytest.raises(ConfigError, match="no comparison 'tabel2'.*did you mean table2"):
        read_comparisons("tabel2")


def test_a_systems_settings_leave_other_settings_alone():
    base = load_config("demo", "", "retrieve.cooccurrence.decay=0.5 retrieve.seed=2").retrieve
    systems = {"ease": {"model": "ease", "ease": {"l2": 7.0}}, "both": {"parts": ["ease"], "seeds": 3}}
    made = retriever_config(base, "ease", systems, 3)
    assert (made.cooccurrence.decay, made.ease.l2, made.seed) == (0.5, 7.0, 3)
    assert retriever_config(base, "ease", systems, None).seed == 2
    fused = retriever_config(base, "both", systems, 0)
    assert fused.model == "fusion" and fused.parts == (systems["ease"],)
    alone = load_config("demo", "", "retrieve.model=fusion 'retrieve.parts=[{model: ease}]'").retrieve
    assert retriever_config(alone, "ease", systems, 0).parts == ()
    assert retriever_config(alone, "own", {"own": {}}, 0).parts == ({"model": "ease"},)
    with pytest.raises(ConfigError, match="settings of ease: unknown setting retrieve.epoch; did you mean"):
        retriever_config(base, "ease", {"ease": {"epoch": 3}}, 0)


def test_a_part_named_again_has_another_seed_and_no_replicate_shares_one():
    systems = {"SASRec": {"model": "sasrec", "epochs": 3}, "three": {"parts": ["SASRec"] * 3, "seeds": 3}}
    base = load_config("demo").retrieve
    made = [retriever_config(base, "three", systems, seed) for seed in range(3)]
    seeds = [[part.seed for part in part_configs(config)] for config in made]
    assert seeds == [[0, 100, 200], [1, 101, 201], [2, 102, 202]]
    first = part_configs(made[1])[0]
    assert first == retriever_config(base, "SASRec", systems, 1)  # so the network of the row SASRec is used again


def test_a_teacher_is_named_by_the_rows_it_fuses():
    systems = {"near": {"model": "cooccurrence"}, "net": {"model": "bsarec", "hidden": 32, "seeds": 3}}
    systems["taught"] = {"model": "sasrec", "hidden": 16, "epochs": 3, "teacher": ["net", "near"]}
    base = load_config("demo").retrieve
    made = retriever_config(base, "taught", systems, 1)
    first, second, fused = built_on(made)
    assert (made.model, made.hidden, fused.model, fused.seed) == ("sasrec", 16, "fusion", 1)
    assert first == retriever_config(base, "net", systems, 1) and first.hidden == 32 and first.epochs == base.epochs
    assert second == retriever_config(base, "near", systems, 1)  # so what these rows trained is used again
    assert retriever_config(made, "net", systems, 1).teacher == ()  # a row has the teacher that it names
    systems |= {"both": {"parts": ["net", "near"]}, "twice": systems["taught"] | {"teacher": ["net", "net"]}}
    assert retriever_config(made, "both", systems, 1).teacher == ()
    assert [part.seed for part in built_on(retriever_config(base, "twice", systems, 1))[:2]] == [1, 101]
    for wrong in ("both", "taught", "nett"):
        for key in ("parts", "teacher"):
            rows = systems | {"bad": {"model": "sasrec", key: [wrong]}}
            with pytest.raises(ConfigError, match=f"settings of bad: '{wrong}' is not a row of one model"):
                retriever_config(base, "bad", rows, 0)


def test_a_retriever_must_not_learn_what_everybody_is_evaluated_on():
    spec = read_comparisons("retrievers")["s3rec-beauty"]
    with pytest.raises(ConfigError, match="tuning_users"):
        load_config(spec.configuration, spec.base, f"{spec.settings} retrieve.tuning_users=whole")


def test_a_split_by_time_needs_timestamps_and_is_for_retrievers():
    spec = read_comparisons("retrievers")["s3rec-beauty"]
    with pytest.raises(ConfigError, match="sequences has none.*set evaluate.split=last"):
        load_config(spec.configuration, spec.base, f"{spec.settings} evaluate.split=time")
    with pytest.raises(ConfigError, match="set rerank.user_split=transductive"):
        load_config("demo", "", "evaluate.split=time rerank.user_split=inductive")
    with pytest.raises(ConfigError, match="not for jobs"):
        stages.through_evaluation(Job(load_config("demo", "", "evaluate.split=time"), "run"))


@pytest.fixture
def retrievers(tmp_path, monkeypatch):
    """Retrievers that are trained at once: five users, of whom three are evaluated."""

    def train(job, config, reviews, labels, name=""):
        folder = tmp_path / f"{config.model}-{config.seed}"
        folder.mkdir(exist_ok=True)
        np.save(folder / "test_ranks.npy", np.array([1, 20, 0, 3 + config.seed, 60]))
        np.save(folder / "test_ranks_kept.npy", np.array([1, 20, 9, 3, 60]))
        metrics = {"coverage@10": 0.5, "valid_ndcg@10": {"sasrec": 0.1, "bsarec": 0.2}.get(config.model, 0.9)}
        config = {"model": config.model}
        return SimpleNamespace(path=folder.joinpath, config=config, metrics=metrics, seconds=3.0)

    monkeypatch.setattr(comparison, "train_retriever", train)
    top = {
        "title": "T",
        "protocols": {FULL: "", KEPT: "", INJECTED: ""},
        "systems": {
            "best": {"best_part": True, "seeds": 2},
            "own": {},
            "BSARec": {"model": "bsarec"},
            "both": {"parts": ["BSARec", "BSARec"]},
        },
    }
    settings = "retrieve.seed=2 retrieve.model=fusion 'retrieve.parts=[{model: sasrec}, {model: bsarec}]'"
    job = Job(load_config("demo", "smollm2-135m", settings), "run")
    places = np.array([3, 2, 4])
    return Bench(merged_comparison(top, "demo", {}), job, "", None, None, None, list("dce"), places, False)


def test_runs_of_retrievers(retrievers):
    (own,) = run_system(retrievers, "own")
    assert own.seed == 2 and own.ranks[FULL].tolist() == [5, 0, 60] and own.ranks[KEPT].tolist() == [3, 9, 60]
    assert own.ranks[INJECTED].tolist() == [5, 20, 20] and own.sizes.tolist() == [20] * 3  # a missed target comes last
    assert own.seconds == 9 and np.isnan(own.coverage)  # not everybody is evaluated
    first, second = run_system(retrievers, "best")
    assert (first.seed, second.seed, first.note, first.seconds) == (0, 1, "bsarec", 3)
    assert second.ranks[FULL].tolist() == [4, 0, 60]
    assert run_system(retrievers, "both")[0].seconds == 9 and not run_system(retrievers, "BSARec")[0].note


@pytest.fixture(scope="module")
def bench(tmp_path_factory, toy_llama, toy_labeller):
    """A comparison on generated reviews, through the real stages."""
    folder, patch = tmp_path_factory.mktemp("bench"), pytest.MonkeyPatch()
    patch.setenv("SEALR_HOME", str(folder))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    patch.chdir(folder)  # MLflow puts artifacts beside
    top = {
        "title": "Small",
        "base": "smollm2-135m",
        "settings": f"data.demo_users=40 label.model={toy_labeller} rerank.base={toy_llama} rerank.layers=0 "
        "rerank.epochs=1 rerank.max_history=4 rerank.n_reranked=12 "
        "evaluate.users=12 retrieve.hidden=16 retrieve.epochs=2",
        "feelings": True,
        "baseline": True,
        "protocols": {FULL: "", INJECTED: "", TIMES: ""},
        "systems": {"EASE": {"model": "ease"}, "own": {}, "LLM": ""},
    }
    spec = merged_comparison(top, "demo", {})
    config = load_config(spec.configuration, spec.base, spec.settings)
    with tracking.job("benchmark", config) as run_id:
        yield open_bench(spec, Job(config, run_id), "", stages)
    patch.undo()


@pytest.mark.slow
def test_a_chain_beside_its_retriever(bench):
    assert len(bench.users) == 12 and not bench.everybody
    (own,), (ease,) = run_system(bench, "own"), run_system(bench, "EASE")
    alone, fused, glad, order, inverted = run_system(bench, "LLM")
    results = read_json(next((bench.reviews.folder.parent.parent / "evaluate").glob("*/results.json")))
    rows = {(row["protocol"], row["system"]): row for row in results["rows"]}
    names = {"own": "retriever", "LLM": "scoring", "LLM, fused": "fused"}
    names["LLM, fused + satisfaction"] = "fused + satisfaction"
    called = {run.system: run.label or run.system for run in (own, alone, fused, glad, order, inverted)}
    full = table([own, ease, alone, fused, glad, order, inverted], FULL, baseline=bench.baseline()).set_index("system")
    for system, name in names.items():
        # as the evaluation of the chain says
        assert full.loc[called[system], "NDCG@10"] == rows["full", name]["NDCG@10"]
        mean = results["differences"].get(f"NDCG@10, {name} minus retriever", [0.0])[0]
        assert full.loc[called[system], "NDCG@10 minus retriever"].startswith(f"{mean:+.4f} (")
    injected = table([order, inverted, alone, fused], INJECTED).set_index("system")
    names = {"LLM": "scoring", "LLM, fused": "fused", "retriever's order, Can12": "retriever"}
    names |= {"retriever's order inverted, Can12": "retriever inverted", "chance, Can12": "chance"}
    for system, name in names.items():
        assert injected.loc[called.get(system, system), "HR@5"] == rows["injected", name]["HR@5"]
    assert injected.loc["chance, Can12", "HR@5"] == pytest.approx(chance(12, 5)[0])
    assert glad.note.startswith(f"{fused.note}, of satisfaction ")
    used = rf"{alone.system}, \d+ of {bench.reviews.rows['users']} users"
    assert re.fullmatch(used, alone.label) and fused.label == f"{alone.label}, fused"
    assert fused.note.startswith("weight of the LLM") and fused.seconds > own.seconds
    assert len(times_table([own, alone, fused], 40, 8)) == 1 and np.isfinite(alone.times).all()
    targets = bench.gladness()
    assert targets.source in ("stars", "labels") and targets.liked.shape == (12,)
    assert np.isin(targets.liked[~np.isnan(targets.liked)], [0, 1]).all()


@pytest.mark.slow
def test_a_chain_must_evaluate_the_users_of_the_comparison(bench):
    bench.spec.systems["other users"] = "evaluate.users=5"
    with pytest.raises(ConfigError, match="other users evaluates other users than this comparison"):
        run_system(bench, "other users")
