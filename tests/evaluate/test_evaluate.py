"""The metrics of two-stage lists, from a rankings table of four users over five items."""

import math

import numpy as np
import pandas as pd
import pytest

from sealr.data.sequences import Sequences
from sealr.data.tables import read_json
from sealr.evaluate.evaluate import evaluate
from sealr.evaluate.gladness import Gladness
from sealr.settings import EvaluateConfig

USERS, ITEMS = list("abcd"), [f"i{n}" for n in range(1, 6)]
LISTS = {"retriever": [[4, 5], [4, 5], [5, 4], [2, 5]], "scoring": [[5, 4], [5, 4], [5, 4], [2, 5]]}


@pytest.fixture
def asked(tmp_path):
    """Everybody had 1, 2, 3 and then takes 4."""
    sequences = Sequences(USERS, ITEMS, np.array([1, 2, 3, 4] * 4), np.arange(5) * 4)
    rows = [
        (user, f"i{item}", rank, float(-rank), ranker, split)
        for split in ("test", "injected")
        for ranker, lists in LISTS.items()
        for user, items in zip(USERS, lists, strict=True)
        for rank, item in enumerate(items if split == "test" or user != "d" else [2, 4], start=1)
    ]
    table = pd.DataFrame(rows, columns=["user", "item", "rank", "score", "ranker", "split"])

    def run(glad: Gladness | None = None, learned: tuple[int, ...] = ()):
        config, ranks = EvaluateConfig(bootstrap=100), np.array([1, 1, 2, 9])
        return evaluate(table, ranks, USERS, 1.0, sequences, glad, config, tmp_path, learned)

    return run


def test_full_protocol_by_hand(asked, tmp_path):
    metrics = asked().metrics
    assert metrics["full.retriever.NDCG@10"] == pytest.approx((1 + 1 + 1 / math.log2(3) + 1 / math.log2(10)) / 4)
    assert metrics["full.scoring.NDCG@10"] == pytest.approx(
        3 / math.log2(3) / 4
    )  # second in three lists, not in the pool of d
    assert metrics["ceiling_HR@2"] == 0.75
    chance = (1 + 1 / math.log2(3)) / 2  # the target is one of two candidates
    among = (3 / math.log2(3) + 1 / math.log2(3)) / 4  # of d, too, once it is put in
    assert metrics["difference.injected.scoring_minus_chance.NDCG@10"] == pytest.approx(among - chance)
    assert read_json(tmp_path / "results.json")["differences"]["HR@10, scoring minus chance, injected"] == [0, 0, 0]


def test_users_learned_whole_are_nobodys_test(asked):
    assert asked().metrics["full.retriever_all_users.HR@5"] == 0.75
    # d, whose target is ninth, was one of them
    assert asked(learned=(1, 3)).metrics["full.retriever_all_users.HR@5"] == 1.0


def test_without_stars_and_labels_nothing_is_said_about_liking(asked, tmp_path):
    """Sequences without reviews: the file is JSON, which knows no NaN."""
    metrics = asked().metrics
    assert not [name for name in metrics if "liked" in name or "graded" in name]
    assert all(map(math.isfinite, metrics.values())) and "full.retriever.HR@10" in metrics
    assert "liked" not in (tmp_path / "results.md").read_text()
    assert "Liked and disliked targets" not in read_json(tmp_path / "results.json")["sections"]


def test_a_group_of_four_users_shows_no_figure(asked, tmp_path):
    stars = np.full(16, 5, dtype=np.float32)
    metrics = asked(Gladness(stars, np.ones(16, dtype=np.float32), "stars")).metrics
    assert not [name for name in metrics if "liked" in name or "short" in name or "novelty" in name]
    assert "4 liked, 0 disliked, 4 with stars" in (tmp_path / "results.md").read_text()
    assert all("HR@10 liked" not in row for row in read_json(tmp_path / "results.json")["rows"])


@pytest.fixture
def many(tmp_path):
    """80 users over 6 items, all with target 4: it is first for half of them in the retriever's lists, then second.

    Two rankers: one puts the target first, the other last. 40 users like the target, the others do not. Those who like
    it have one more item in their history.
    """
    users = [f"u{n:02}" for n in range(80)]
    liking = np.arange(80) % 2 == 0
    histories = [[1, 2, 3, 5, 4] if likes else [1, 2, 3, 4] for likes in liking]
    offsets = np.cumsum([0, *map(len, histories)])
    sequences = Sequences(users, [f"i{n}" for n in range(1, 7)], np.concatenate(histories), offsets)
    orders = {
        "retriever": [[4, 6] if n < 40 else [6, 4] for n in range(80)],
        "scoring": [[6, 4]] * 80,
        "scoring + b": [[4, 6]] * 80,
    }
    rows = [
        (user, f"i{item}", rank, float(-rank), ranker, split)
        for split in ("test", "injected")
        for ranker, lists in orders.items()
        for user, items in zip(users, lists, strict=True)
        for rank, item in enumerate(items, start=1)
    ]
    table = pd.DataFrame(rows, columns=["user", "item", "rank", "score", "ranker", "split"])
    ends = sequences.split("test").ends
    stars = np.full(len(sequences.flat), np.nan, dtype=np.float32)
    stars[ends] = np.where(liking, 5, 3)
    glad = Gladness(stars, np.where(np.isnan(stars), np.nan, stars == 5).astype(np.float32), "stars")
    ranks = np.array([1] * 40 + [11] * 40)
    config, content = EvaluateConfig(bootstrap=100), np.eye(7)
    return evaluate(table, ranks, users, 1.0, sequences, glad, config, tmp_path, content=content).metrics


def test_liking_by_hand_for_every_ranker_of_the_table(many, tmp_path):
    assert many["full.retriever.HR@10_liked"] == 0.5 and many["full.retriever.HR@10_liked_minus_disliked"] == 0
    assert many["full.scoring_b.NDCG@10_liked"] == 1 and many["full.scoring_b.graded_NDCG@10"] == (1 + 0.2) / 2
    assert many["difference.scoring_b_minus_retriever.HR@10_disliked"] == 0.5
    gain = 1 - 1 / math.log2(3)
    assert many["difference.scoring_b_minus_scoring.NDCG@10"] == pytest.approx(gain)
    assert many["difference.scoring_b_minus_scoring.NDCG@10_liked"] == pytest.approx(gain)
    found = read_json(tmp_path / "results.json")
    liked = found["sections"]["Liked and disliked targets"]
    names = ["retriever", "scoring", "scoring + b", "scoring minus retriever"]
    names += ["scoring + b minus retriever", "scoring + b minus scoring"]  # what is added beside what it is added to
    assert [row["system"] for row in liked["rows"]] == names
    mean, low, high = liked["rows"][0]["HR@10 liked"]
    assert low < mean == 0.5 < high and liked["rows"][2]["HR@10 liked"] == [1, 1, 1]
    rows = {(row["protocol"], row["system"]): row for row in found["rows"]}
    assert rows["full", "scoring"]["NDCG@10 liked"] == pytest.approx(1 / math.log2(3))
    assert rows["injected", "scoring"]["NDCG@10 liked"] is None
    page = (tmp_path / "results.md").read_text()
    assert "By stars: 4 and 5 are liked, 1 to 3 disliked. Targets: 40 liked, 40 disliked, 80 with stars." in page
    assert "| scoring minus retriever     | +0.5000 (+0." in page
    assert "liked" not in page.split("Differences")[0]  # the table of protocols stays narrow


def test_lists_beyond_accuracy_and_groups_of_users(many, tmp_path):
    sections = read_json(tmp_path / "results.json")["sections"]
    row = sections["Beyond accuracy, test lists"]["rows"][1]
    # Of 80 users nobody had 4 or 6 in training, and such an item counts as taken once
    assert row["system"] == "scoring" and row["novelty@10"] == pytest.approx([math.log2(80)] * 3)
    assert row["coverage@10"] == [2 / 6, None, None] and row["popularity@10"] == [0, 0, 0]
    assert row["diversity@10"] == [1, 1, 1]  # the contents of two items are orthogonal
    assert many["full.test_targets.coverage@10"] == 1 / 6
    short = sections["Short and long histories"]
    assert short["reading"].endswith("at most the median number of items, 3.5.")
    assert many["full.scoring_b.NDCG@10_short"] == many["full.scoring_b.NDCG@10_long"] == 1
    assert "### Short and long histories" in (tmp_path / "results.md").read_text()
