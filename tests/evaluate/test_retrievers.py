import numpy as np
import pandas as pd
import pytest

from sealr.evaluate.retrievers import Trained, comparison, differences, per_user, plot

RANKS = {("a", 0): [1, 3, 0, 11], ("a", 1): [1, 0, 0, 2], ("b", 0): [0, 60, 0, 0]}


@pytest.fixture
def trained():
    return [Trained(system, seed, np.array(ranks), 0.5, 10.0) for (system, seed), ranks in RANKS.items()]


def test_a_user_counts_with_the_mean_over_seeds(trained):
    ranks = [t.ranks for t in trained if t.system == "a"]
    assert per_user(ranks, "HR@10").tolist() == [1.0, 0.5, 0.0, 0.5]
    assert per_user(ranks, "NDCG@10").tolist() == pytest.approx([1.0, 0.25, 0.0, 0.5 / np.log2(3)])


def test_rows_by_hand(trained):
    felt = np.array([2.0, -1.0, 1.0, np.nan])
    table = comparison(trained, felt, {"somebody": [0.1, 0.2, 0.3, 0.4]}).set_index("system")
    a, b = table.loc["a"], table.loc["b"]
    assert (a["seeds"], a["HR@10"], a["HR@20"], b["HR@50"], b["HR@100"]) == (2, 0.5, 0.625, 0.0, 0.25)
    assert a["satisfied HR@10"] == 0.5 and a["regret@10"] == 0.5  # users 0 and 2 liked theirs; user 1 did not
    spread = [np.mean([1, 0.5, 0, 0]), np.mean([1, 0, 0, 1 / np.log2(3)])]
    assert a["sd NDCG@10"] == pytest.approx(np.std(spread, ddof=1)) and pd.isna(b["sd NDCG@10"])
    assert table.loc["published: somebody", "NDCG@10"] == 0.4


def test_differences_are_over_shared_seeds_and_signed(trained):
    hit, _ = differences(trained, [["a", "b"], ["a", "not trained"]])
    assert hit.startswith("HR@10, a minus b: +0.5000 (") and hit.endswith("1 seeds")


def test_plot_is_written(trained, tmp_path):
    plot(comparison(trained, None, {"somebody": [0.1, 0.2, 0.3, 0.4]}), "tiny", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
