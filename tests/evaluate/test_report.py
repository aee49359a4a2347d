import pytest

from sealr.evaluate.report import markdown, metrics_table, plot

ROWS = [
    {"protocol": "full", "system": "retriever", "users": 1429, "ceiling": 0.31, "HR@10": 0.0922, "NDCG@10": 0.05},
    {"protocol": "full", "system": "a|b", "users": 1429, "ceiling": 0.31, "HR@10": 0.1, "NDCG@10": 0.0601},
    {"protocol": "injected", "system": "a|b", "users": 700, "HR@10": 0.3, "NDCG@10": 0.1},
    {"protocol": "injected", "system": "chance", "users": 700, "HR@10": 0.2, "NDCG@10": 0.0909},
]


def test_markdown():
    lines = markdown(ROWS).splitlines()
    assert lines[0] == "| protocol | system    | users |  HR@10 | NDCG@10 | ceiling |"
    assert lines[1] == "| -------- | --------- | ----: | -----: | ------: | ------: |"
    assert lines[2] == "| full     | retriever |  1429 | 0.0922 |  0.0500 |  0.3100 |"
    assert lines[3].split(" | ")[1].strip() == "a\\|b" and lines[5].endswith("       - |")
    assert len({len(line) for line in lines}) == 1


def test_missing_column():
    with pytest.raises(ValueError, match="'system'"):
        metrics_table([{"protocol": "full", "users": 1}])


@pytest.mark.parametrize("metric", ["NDCG@10", "HR@10"])
def test_plot(tmp_path, metric):
    plot(ROWS, tmp_path / "figure.png", metric)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1
