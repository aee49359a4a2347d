"""What retrievers cost, in columns and in a picture; the points of the front are made by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sealr.evaluate.comparison import FULL, Run, table
from sealr.pipeline import costs, pareto
from sealr.pipeline.costs import Cost, cost_of, with_costs
from sealr.retrieve.fusion import fuse
from sealr.retrieve.retriever import load
from sealr.retrieve.train import train
from sealr.settings import RetrieveConfig
from tests.retrieve.toy_sequences import make_sequences

SMALL = {"hidden": 8, "layers": 1, "max_len": 6, "epochs": 2, "batch_size": 8}
PARTS = ({"model": "sasrec"}, {"model": "popularity"})


@pytest.fixture
def runs():
    ranks = {"counted": [9, 0, 0, 0], "network": [2, 0, 1, 0], "both": [1, 1, 1, 0], "LLM": [1, 1, 2, 0]}
    seconds = {"counted": 0.004, "network": 20.0, "both": 30.0, "LLM": 900.0}
    return [Run(name, 0, {FULL: np.array(r)}, seconds=seconds[name]) for name, r in ranks.items()]


MADE = {"counted": Cost(4000.4), "network": Cost(500.0, 17), "both": Cost(450.0)}


@pytest.fixture
def trained(tmp_path):
    """A network, a fusion of it and of counts, and the bench of their five users."""
    sequences = make_sequences([[(start + step) % 12 + 1 for step in range(5)] for start in range(20)], 12)
    folders = {name: tmp_path / name for name in ("sasrec", "popularity", "fusion")}
    for folder in folders.values():
        folder.mkdir()
    for part in PARTS:
        train(RetrieveConfig(**SMALL | part), sequences, folders[part["model"]])
    parts = [load(folders[part["model"]]) for part in PARTS]
    fuse(RetrieveConfig(**SMALL, model="fusion", parts=PARTS), parts, sequences, folders["fusion"])
    bench = SimpleNamespace(job=None, reviews=None, labels=None, places=np.array([3, 0, 7, 12, 5]))
    return bench, sequences, {name: SimpleNamespace(folder=folder) for name, folder in folders.items()}


def test_a_trained_retriever_is_measured_as_it_is_served(trained, monkeypatch):
    bench, sequences, made = trained
    asked, pools_for = [], costs.pools_for

    def served(retriever, histories, k, exclude_seen, feelings):
        asked.append(([history.tolist() for history in histories], k, exclude_seen))
        return pools_for(retriever, histories, k, exclude_seen, feelings)

    monkeypatch.setattr(costs, "read_sequences", lambda job, reviews: sequences)
    monkeypatch.setattr(costs, "pools_for", served)
    clock = iter([0.0, 100.0, 1.0, 2.0, 5.0, 5.25, 7.0, 7.5])  # warm-up, then passes of 1, .25 and .5 s
    monkeypatch.setattr(costs.time, "process_time", lambda: next(clock))
    cost = cost_of(bench, made["sasrec"])
    assert cost.lists == 5 / 0.5 and cost.epochs == load(made["sasrec"].folder).epochs[0] > 0
    split = sequences.split("test")
    assert asked[1] == ([split.history(place).tolist() for place in bench.places], 10, True)
    assert asked[1:] == asked[1:2] * 3  # the warm-up is shorter where there are more users


def test_counts_and_fusions_have_no_epochs_and_every_part_is_asked(trained, monkeypatch):
    bench, sequences, made = trained
    monkeypatch.setattr(costs, "read_sequences", lambda job, reviews: sequences)
    popular, fused = cost_of(bench, made["popularity"]), cost_of(bench, made["fusion"])
    assert popular.epochs is None and fused.epochs is None
    assert 0 < fused.lists < popular.lists


def test_many_users_are_a_sample_of_all(trained, monkeypatch):
    _, sequences, made = trained
    asked, split = [], sequences.split("test")
    monkeypatch.setattr(costs, "USERS", 4)
    monkeypatch.setattr(costs, "pools_for", lambda retriever, histories, *rest: asked.append(histories) or [])
    costs.lists_per_second(load(made["popularity"].folder), sequences, np.arange(10))
    assert [h.tolist() for h in asked[-1]] == [split.history(place).tolist() for place in (0, 3, 6, 9)]


def test_columns_are_for_retrievers_alone(runs):
    shown = with_costs(table(runs, FULL, published={"counted": [0.1, 0.2, 0.3, 0.4]}), MADE)
    assert shown.columns[-3:].tolist() == ["epochs", "seconds", "lists/s"]
    rows = shown.set_index("system")
    assert rows.loc[["counted", "network", "both"], "lists/s"].tolist() == [4000, 500, 450]
    assert rows.loc["network", "epochs"] == 17 and rows["epochs"].notna().sum() == 1
    assert rows.loc[["LLM", "published: counted"], "lists/s"].isna().all()
    assert with_costs(shown.iloc[:1], {"counted": Cost(1.0)})["lists/s"].tolist() == [1]
    assert "note" not in shown and with_costs(shown.assign(note="x"), MADE).columns[-1] == "note"


def test_the_front_has_the_points_that_none_beats():
    #                  a    b    c    d    e    f
    values = np.array([0.1, 0.3, 0.2, 0.3, 0.4, 0.4])
    prices = np.array([1.0, 5.0, 6.0, 5.0, 9.0, 8.0])
    assert pareto.front(values, prices).tolist() == [0, 1, 3, 5]  # b and d are equal; c is beaten by b, e by f
    assert pareto.front(np.array([0.2, 0.5]), np.array([3.0, 1.0])).tolist() == [1]


def test_points_have_what_is_known(runs):
    made = pareto.points(table(runs, FULL, published={"somebody": [0.1, 0.2, 0.3, 0.4]}), runs, MADE)
    assert made["system"].tolist() == ["counted", "network", "both", "LLM"]
    assert made["seconds"].tolist() == [0.01, 20, 30, 900]  # a logarithmic axis has no 0
    assert made["lists/s"].tolist()[:3] == [4000.4, 500, 450] and np.isnan(made["lists/s"][3])
    found = {column: best["system"].tolist() for column, (_, best) in pareto.panels(made).items()}
    assert found == {"lists/s": ["counted", "network", "both"], "seconds": ["counted", "network", "both"]}


def test_a_run_of_unknown_seconds_or_without_figures_is_no_point(runs):
    untimed = [Run("untimed", 0, {FULL: np.array([1, 1, 1, 1])}), Run("failed", note="not run")]
    made = pareto.points(table(runs + untimed, FULL), runs + untimed, MADE)
    assert made["system"].tolist()[4:] == ["untimed"]
    assert pareto.panels(made)["seconds"][0]["system"].tolist() == ["counted", "network", "both", "LLM"]


def test_the_picture_is_written_and_described(runs, tmp_path):
    made = pareto.points(table(runs, FULL), runs, MADE)
    words = pareto.picture(made, tmp_path / "pareto.png", "title")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "on the front against lists/s: counted, network, both; on the front against seconds: counted" in words
    assert pareto.picture(made.head(2), tmp_path / "few.png", "title") == "" and not (tmp_path / "few.png").exists()


def test_names_lie_apart(monkeypatch, tmp_path):
    """Ten points in one place: no name covers another."""
    from matplotlib.axes import Axes
    from matplotlib.text import Text

    texts, annotate = [], Axes.annotate
    monkeypatch.setattr(Axes, "annotate", lambda self, *a, **k: texts.append(annotate(self, *a, **k)) or texts[-1])
    names = [f"a retriever {number}" for number in range(10)]
    table = pd.DataFrame({"system": names, "NDCG@10": 0.06, "lists/s": np.nan, "seconds": 20.0})
    pareto.picture(table, tmp_path / "pareto.png", "")
    boxes = [Text.get_window_extent(text) for text in texts if text.get_text()]  # without the lines that lead to them
    assert len(boxes) == 10
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
