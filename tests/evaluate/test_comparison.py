"""Tables of a comparison by hand: means over seeds, spread, baselines, chance, published figures and times."""

import math

import numpy as np
import pandas as pd
import pytest

from sealr.evaluate.comparison import (
    FULL,
    INJECTED,
    PAPER_METRICS,
    Run,
    differences,
    liked,
    per_seed,
    table,
    times_table,
)
from sealr.evaluate.gladness import Gladness
from sealr.evaluate.metrics import chance

RANKS = {("a", 0): [1, 3, 0, 11], ("a", 1): [1, 0, 0, 2], ("b", 0): [0, 60, 0, 0]}
DEEP = (*PAPER_METRICS, "HR@20", "HR@50", "HR@100")


@pytest.fixture
def runs():
    return [
        Run(system, seed, {FULL: np.array(ranks)}, coverage=0.5, seconds=10.0)
        for (system, seed), ranks in RANKS.items()
    ]


def injected(system, ranks, pool=50, **more):
    return Run(system, 0, {INJECTED: np.array(ranks)}, pool, np.full(len(ranks), pool), **more)


def test_a_user_counts_with_the_mean_over_seeds(runs):
    ranks = [run.ranks[FULL] for run in runs if run.system == "a"]
    assert per_seed(ranks, "HR@10").mean(axis=0).tolist() == [1.0, 0.5, 0.0, 0.5]
    assert per_seed(ranks, "NDCG@10").tolist() == [[1, 0.5, 0, 0], [1, 0, 0, pytest.approx(1 / np.log2(3))]]


def test_rows_by_hand(runs):
    made = table(runs, FULL, DEEP, {"somebody": [0.1, 0.2, 0.3, 0.4]}).set_index("system")
    a, b = made.loc["a"], made.loc["b"]
    assert (a["seeds"], a["HR@10"], a["HR@20"], b["HR@50"], b["HR@100"]) == (2, 0.5, 0.625, 0.0, 0.25)
    spread = [np.mean([1, 0.5, 0, 0]), np.mean([1, 0, 0, 1 / np.log2(3)])]
    assert a["sd NDCG@10"] == pytest.approx(np.std(spread, ddof=1)) and pd.isna(b["sd NDCG@10"])
    assert a["coverage@10"] == 0.5 and a["seconds"] == 10
    assert made.loc["published: somebody", "NDCG@10"] == 0.4 and pd.isna(made.loc["published: somebody", "seeds"])


def test_differences_are_over_shared_seeds_and_signed(runs):
    made = differences(runs, [["a", "b"], ["a", "not trained"]])
    assert made["metric"].tolist() == ["HR@10", "NDCG@10"] and made["seeds"].tolist() == [1, 1]
    assert made["mean"][0] == 0.5 and made["low"][0] <= 0.5 <= made["high"][0]


def test_seeds_that_disagree_widen_a_difference():
    """With seed 0 the first system misses everybody, with seed 1 it hits everybody. The second does the opposite."""
    ranks = {0: np.zeros(50, dtype=int), 1: np.ones(50, dtype=int)}
    runs = [Run(name, seed, {FULL: ranks[seed ^ flip]}) for name, flip in (("a", 0), ("b", 1)) for seed in (1, 0)]
    runs.append(Run("same as a", 1, {FULL: ranks[1]}))
    runs.append(Run("same as a", 0, {FULL: ranks[0]}))
    made = differences(runs, [["a", "b"], ["same as a", "a"]]).set_index(["system", "metric"])
    assert made.loc[("a", "HR@10"), ["mean", "low", "high"]].tolist() == [0, -1, 1]
    assert made.loc[("same as a", "HR@10"), ["mean", "low", "high"]].tolist() == [0, 0, 0]  # seed beside the same seed
    assert made["verdict"].tolist() == ["undecided", "undecided", "equal within .005", "equal within .003"]
    beside = table(runs, FULL, baseline=ranks[0]).set_index("system")["NDCG@10 minus retriever"]
    assert beside["a"] == "+0.5000 (+0.0000 to +1.0000), undecided"


def test_liked_and_disliked_targets_of_systems_and_of_pairs():
    liking = np.repeat([1, 0], 40).astype(np.float32)
    targets = Gladness(np.where(liking, 5, 1).astype(np.float32), liking, "stars")
    everybody, nobody = np.ones(80, dtype=int), np.zeros(80, dtype=int)
    knows = np.where(liking, 1, 0)  # hits only what is liked
    runs = [Run("a", 0, {FULL: knows}), Run("a", 1, {FULL: nobody}), Run("b", 0, {FULL: everybody})]
    made = liked(runs, FULL, targets, [["a", "b"], ["a", "not trained"]])
    assert made.title == "Liked and disliked targets, full" and "40 liked, 40 disliked" in made.reading
    assert list(made.rows) == ["a", "b", "a minus b"]
    assert made.means("a")["HR@10 liked minus disliked"] == 0.5 and made.rows["a"]["HR@10 liked"] == (0.5, 0, 1)
    assert made.rows["a minus b"]["HR@10 disliked"] == (-1, -1, -1)  # of seed 0, the only one that both have
    assert made.rows["a minus b"]["HR@10 liked"] == (0, 0, 0)
    assert liked([], FULL, targets).table().empty


def test_a_row_stands_beside_the_retriever_that_the_llm_reranks():
    ranks, retriever = np.array([1, 2, 0, 40]), np.array([2, 2, 1, 0])
    made = table([Run("GRU4Rec", 0, {FULL: ranks}), Run("SASRec", 0, {FULL: retriever})], FULL, baseline=retriever)
    by_hand = (1 - 1 / math.log2(3) + 0 - 1 + 0) / 4
    assert made["NDCG@10 minus retriever"][0].startswith(f"{by_hand:+.4f} (")
    assert made["NDCG@10 minus retriever"][1] == "+0.0000 (+0.0000 to +0.0000), equal within .003"


def test_under_injection_every_row_stands_beside_chance_for_its_pool():
    runs = [injected("Can50", [1, 7, 50, 50]), injected("Can20", [1, 7, 20, 20], 20), injected("other", [2] * 4)]
    runs.append(runs[0])  # every chain brings the rows of reference with it
    made = table(runs, INJECTED).set_index("system")
    assert made.index.tolist() == ["chance, Can20", "chance, Can50", "Can50", "Can20", "other"]
    assert (
        made.loc["Can50", "seeds"] == 1
        and made.loc["chance, Can50", "HR@10"] == 0.2
        and made.loc["chance, Can20", "NDCG@5"] == chance(20, 5)[1]
    )
    mean = (1 + 1 / 3) / 4 - chance(50, 10)[1]
    assert made.loc["Can50", "NDCG@10 minus chance"].startswith(f"{mean:+.4f} (")
    assert "coverage@10" not in made and "NDCG@10 minus retriever" not in made


def test_published_figures_follow_the_row_of_their_name_and_a_missing_row_says_why():
    runs = [injected("FT10", [1, 2]), injected("FT10, fused", [1, 2], note="weight 0"), Run("PALR", note="not run: x")]
    published = {"FT10": [0.1, 0.1922, None, 0.0895], "PALR": [0.07, 0.12, 0.04, 0.06]}
    made = table(runs, INJECTED, published=published)
    names = ["chance, Can50", "FT10", "published: FT10", "FT10, fused", "PALR", "published: PALR"]
    assert made["system"].tolist() == names and list(made)[-1] == "note"
    assert made["HR@10"].tolist()[2::3] == [0.1922, 0.12] and math.isnan(made["NDCG@5"][2])
    assert made["note"].tolist()[3:5] == ["weight 0", "not run: x"] and pd.isna(made["HR@10"][4])
    few = table(runs[:1], INJECTED, ["HR@10"], published)
    assert list(few) == ["system", "seeds", "HR@10", "NDCG@10 minus chance"]  # no note, no column
    assert table(runs, FULL)["system"].tolist() == ["PALR"]  # the others have no figures under this protocol


def test_a_row_is_called_by_its_label_and_found_by_its_name():
    one = injected("FT10 Can50", [1, 2], label="Can50, 90 of 22,363 users")
    other = injected("FT10 Can50, fused", [1, 2], label="Can50, 90 of 22,363 users, fused")
    made = table([one, other], INJECTED, published={"FT10 Can50": [0.1, 0.2, 0.3, 0.4]})
    names = ["Can50, 90 of 22,363 users", "published: FT10 Can50", "Can50, 90 of 22,363 users, fused"]
    assert made["system"].tolist() == ["chance, Can50", *names]
    timed = times_table([Run("ids", times=(1.0, 2.0), label="ids, 90 users"), Run("names", note="not run")], 1, 1)
    assert timed["system"].tolist() == ["ids, 90 users", "names"]


def test_a_table_without_runs_is_empty():
    assert len(table([], FULL)) == 0 and list(table([], FULL))[1:] == list(PAPER_METRICS)


def test_times_are_compared_with_the_first_system():
    runs = [Run("names", times=(8.0, 10.0)), Run("fused", ranks={FULL: [1]}), Run("soft tokens", times=(0.5, 0.1))]
    made = times_table(runs, users=3600, prompts=720)
    assert made["training, times faster"].tolist() == [1.0, 16.0] and made["inference, times faster"][
        1
    ] == pytest.approx(100)
    assert made["inference, hours for 3,600"].tolist() == pytest.approx([10.0, 0.1])
    assert made["training, hours for 720"].tolist() == pytest.approx([1.6, 0.1]) and "note" not in made
    assert times_table([Run("PALR", note="not run: no weights"), *runs], 1, 1)["note"].tolist()[-1].endswith("weights")
    assert times_table([Run("PALR", note="not run")], 1, 1)["system"].tolist() == ["PALR"]
