import pandas as pd
import pytest
from matplotlib.axes import Axes

from sealr.evaluate.report import Panel, markdown_table, plot

TABLE = pd.DataFrame(
    [
        {"system": "retriever", "users": 1429, "HR@10": 0.0922, "NDCG@10": 0.05, "ceiling": 0.31},
        {"system": "a|b", "users": 1429, "HR@10": 0.1, "NDCG@10": 0.0601, "ceiling": 0.31},
        {"system": "a|b", "users": 700, "HR@10": 0.3, "NDCG@10": 0.1},
        {"system": "chance", "users": 700, "HR@10": 0.2, "NDCG@10": 0.0909},
    ]
)


def test_markdown():
    lines = markdown_table(TABLE).splitlines()
    assert lines[0] == "| system    | users |  HR@10 | NDCG@10 | ceiling |"
    assert lines[1] == "| --------- | ----: | -----: | ------: | ------: |"
    assert lines[2] == "| retriever |  1429 | 0.0922 |  0.0500 |  0.3100 |"
    assert lines[3].split(" | ")[0] == "| a\\|b     " and lines[5].endswith("       - |")
    assert len({len(line) for line in lines}) == 1


def test_a_table_without_rows_has_a_header():
    assert markdown_table(TABLE.head(0)).count("\n") == 2


@pytest.mark.parametrize("metric", ["NDCG@10", "HR@10"])
def test_plot(tmp_path, metric):
    full, injected = TABLE.head(2), TABLE.tail(2)
    plot([Panel("full", full, metric, ceiling=0.31), Panel("injected", injected, metric)], tmp_path / "a.png", "title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_spread_over_seeds_and_a_logarithmic_axis(tmp_path, monkeypatch):
    spreads = []
    monkeypatch.setattr(Axes, "errorbar", lambda self, x, y, *, xerr, **given: spreads.append((x, y, xerr)))
    table = pd.DataFrame({"system": ["a", "b", "published: a"], "s": [0.1, 20.0, 5.0], "sd s": [None, 0.5, None]})
    plot([Panel("times", table, "s", log=True)], tmp_path / "a.png")
    assert spreads == [(20.0, 1, 0.5)]  # the first row is at the top


def test_each_bar_of_the_plot_has_chance_for_its_own_pool(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        Axes, "vlines", lambda self, x, low, high, *args, label, **kwargs: drawn.append((label, x[0], [*low]))
    )
    names = ["chance, Can20", "SEALR Can20", "chance, Can200", "SEALR Can200, fused", "SEALR Can200"]
    table = pd.DataFrame({"system": names, "NDCG@10": [0.1 * i for i in range(5)]})
    plot([Panel("injected", table)], tmp_path / "a.png")
    assert drawn == [("chance 0.2000 Can200", 0.2, [-0.5, 0.5]), ("chance 0.0000 Can20", 0.0, [1.5])]
    drawn.clear()
    plot([Panel("injected", table.iloc[1:])], tmp_path / "a.png")
    assert [(x, low) for _, x, low in drawn] == [(0.2, [-0.5, 0.5, 1.5])]  # a single chance line is everybody's
