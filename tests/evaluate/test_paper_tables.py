import math

import numpy as np
import pytest
from matplotlib.axes import Axes

from sealr.evaluate.metrics import chance
from sealr.evaluate.report import markdown_table
from sealr.evaluate.tables import (
    FULL,
    INJECTED,
    METRICS,
    Cell,
    Timing,
    frame,
    plot,
    plot_times,
    records,
    reference_cells,
    reranker_cells,
    retriever_cell,
    timing_frame,
)

SAME = {"HR@5": 0.1, "HR@10": 0.2, "NDCG@5": 0.05, "NDCG@10": 0.09}
ROWS = [
    {"protocol": "full", "system": "retriever", "users": 40} | SAME,
    {"protocol": "full", "system": "generative", "users": 40} | SAME,
    {"protocol": "full", "system": "fused", "users": 40} | SAME | {"NDCG@10": 0.11},
    {"protocol": "retrieved", "system": "generative", "users": 9} | SAME,
    {"protocol": "injected", "system": "retriever", "users": 40} | SAME,
    {"protocol": "injected", "system": "retriever inverted", "users": 40} | SAME,
    {"protocol": "injected", "system": "generative", "users": 40} | SAME | {"HR@10": 0.3},
    {"protocol": "injected", "system": "fused", "users": 40} | SAME,
    {"protocol": "injected", "system": "chance", "users": 40} | SAME | {"HR@10": float(chance(50, 10)[0])},
]

RESULTS = {
    "rows": ROWS,
    "differences": {
        f"NDCG@10, {name} minus {beside}": [0.01, -0.02, 0.04]
        for name in ("generative", "fused")
        for beside in ("retriever", "chance, injected")
    },
}


def test_a_retriever_keeps_its_figures_under_injection_but_for_the_last_place():
    ranks = np.array([1, 7, 300, 0])
    cell = retriever_cell("SASRec", ranks, 50)
    assert cell.metrics[FULL] == cell.metrics[INJECTED] and cell.metrics[FULL]["HR@10"] == 0.5 and cell.users == 4
    low, high = cell.differences[INJECTED][1:]
    assert FULL not in cell.differences and low < cell.metrics[FULL]["NDCG@10"] - chance(50, 10)[1] < high
    assert retriever_cell("SASRec", ranks, 10).metrics[INJECTED]["HR@10"] == 1.0  # the last place of ten counts


def test_a_retriever_stands_beside_the_one_that_the_llm_reranks():
    ranks, llms = np.array([1, 2, 0, 40]), np.array([2, 2, 1, 0])
    by_hand = (1 - 1 / math.log2(3) + 0 - 1 + 0) / 4
    mean, low, high = retriever_cell("GRU4Rec", ranks, 50, llms).differences[FULL]
    assert mean == pytest.approx(by_hand) and low < mean < high
    assert retriever_cell("SASRec", llms, 50, llms).differences[FULL] == (0, 0, 0)


def test_a_rerankers_cells_are_the_llm_alone_and_fused():
    alone, fused = reranker_cells("SEALR FT10", RESULTS, "generative")
    assert alone.metrics[INJECTED]["HR@10"] == 0.3 and alone.users == 40 and alone.paper == "SEALR FT10"
    assert fused.system == "SEALR FT10, fused" and fused.metrics[FULL]["NDCG@10"] == 0.11 and fused.paper == ""


def test_chance_stands_beside_the_injected_figures():
    systems = {c.system: c for c in reference_cells(ROWS, 50)}
    assert list(systems) == ["retriever's order, Can50", "retriever's order inverted, Can50", "random order, Can50"]
    assert systems["random order, Can50"].metrics[INJECTED]["HR@10"] == 0.2 and FULL not in systems["random order, Can50"].metrics


def test_the_papers_figures_stand_beside_ours_and_a_missing_cell_says_why():
    cells = [*reranker_cells("SEALR FT10", RESULTS, "generative"), Cell("PALR", paper="PALR", note="not run: no weights")]
    table = frame(cells, INJECTED, {"SEALR FT10": [0.1, 0.1922, None, 0.0895], "PALR": [0.07, 0.12, 0.04, 0.06]})
    assert table["system"].tolist() == ["SEALR FT10", "SEALR FT10, fused", "PALR"]
    assert table["paper HR@10"].tolist()[::2] == [0.1922, 0.12] and math.isnan(table["paper HR@10"][1])
    assert table["NDCG@10 minus chance"].tolist()[:2] == ["+0.0100 (-0.0200 to +0.0400)"] * 2
    text = markdown_table(table)
    assert "not run: no weights" in text and "| 40 " in text and "0.3000" in text
    assert records(table)[2]["HR@10"] is None and records(table)[0]["users"] == 40
    assert list(frame(cells[:2], FULL, {}, ["HR@10"])) == ["system", "users", "HR@10", "NDCG@10 minus retriever", "paper HR@10"]  # no note, no column


def test_a_table_without_cells_is_empty():
    assert len(frame([], FULL, {})) == 0 and list(frame([], FULL, {}))[2:6] == list(METRICS)


def test_times_are_compared_with_the_first_system():
    table = timing_frame([Timing("names", 8.0, 10.0), Timing("soft tokens", 0.5, 0.1)], users=3600, prompts=720)
    assert table["training, times faster"].tolist() == [1.0, 16.0] and table["inference, times faster"][1] == pytest.approx(100)
    assert table["inference, hours for 3,600"].tolist() == pytest.approx([10.0, 0.1])
    assert table["training, hours for 720"].tolist() == pytest.approx([1.6, 0.1]) and "note" not in table


def test_each_bar_of_the_plot_has_chance_for_its_own_pool(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "vlines", lambda self, x, low, high, *args, label, **kwargs: drawn.append((label, x[0], [*low])))
    names = ["random order, Can20", "SEALR Can20", "random order, Can200", "SEALR Can200, fused", "SEALR Can200"]
    cells = [Cell(name, {INJECTED: dict.fromkeys(METRICS, 0.1 * i)}) for i, name in enumerate(names)]
    plot({INJECTED: frame(cells, INJECTED, {})}, "Table 3", tmp_path / "a.png")
    assert drawn == [("chance 0.2000 Can200", 0.2, [-0.5, 0.5]), ("chance 0.0000 Can20", 0.0, [1.5])]
    drawn.clear()
    plot({INJECTED: frame(cells[1:], INJECTED, {})}, "Table 2", tmp_path / "a.png")
    assert [(x, low) for _, x, low in drawn] == [(0.2, [-0.5, 0.5, 1.5])]  # one chance line is everybody's


def test_plots_are_written(tmp_path):
    cells = [*reference_cells(ROWS, 50), *reranker_cells("SEALR FT10", RESULTS, "generative"), Cell("PALR", note="not run")]
    both = {p: frame(cells, p, {"SEALR FT10": [0.1, 0.2, 0.06, 0.09]}) for p in (FULL, INJECTED)}
    plot(both, "Table 2", tmp_path / "a.png")
    plot_times(timing_frame([Timing("names", 8.0, 10.0), Timing("ids", 1.0, 2.0)], 10, 10), "Figure 4", tmp_path / "b.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "b.png"))
