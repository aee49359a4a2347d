"""The metrics of two-stage lists, from a rankings table of four users over five items."""

import math

import numpy as np
import pandas as pd
import pytest

from sealr.data.sequences import Sequences
from sealr.data.tables import read_json
from sealr.evaluate.evaluate import evaluate
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

    def run(felt: list[float], learned: tuple[int, ...] = ()):
        feelings = np.full((16, 2), np.nan, dtype=np.float32)
        feelings[3::4, 0] = felt  # about the test items
        config, ranks = EvaluateConfig(bootstrap=100), np.array([1, 1, 2, 9])
        return evaluate(table, ranks, USERS, 1.0, sequences, feelings, config, tmp_path, learned)

    return run


def test_full_protocol_by_hand(asked, tmp_path):
    metrics = asked([2, -2, -1, 1]).metrics
    assert metrics["full.retriever.NDCG@10"] == pytest.approx((1 + 1 + 1 / math.log2(3) + 1 / math.log2(10)) / 4)
    assert metrics["full.scoring.NDCG@10"] == pytest.approx(
        3 / math.log2(3) / 4
    )  # second in three lists, not in the pool of d
    assert metrics["full.scoring.satisfied_HR@10"] == 0.5  # of a and d, who liked it, only a's list has it
    assert metrics["full.retriever.regret@10"] == 1.0  # b and c regret theirs
    assert metrics["ceiling_HR@2"] == 0.75
    chance = (1 + 1 / math.log2(3)) / 2  # the target is one of two candidates
    among = (3 / math.log2(3) + 1 / math.log2(3)) / 4  # of d, too, once it is put in
    assert metrics["difference.injected.scoring_minus_chance.NDCG@10"] == pytest.approx(among - chance)
    assert read_json(tmp_path / "results.json")["differences"]["HR@10, scoring minus chance, injected"] == [0, 0, 0]


def test_users_learned_whole_are_nobodys_test(asked):
    assert asked([0, 0, 0, 0]).metrics["full.retriever_all_users.HR@5"] == 0.75
    assert (
        asked([0, 0, 0, 0], (1, 3)).metrics["full.retriever_all_users.HR@5"] == 1.0
    )  # d, whose target is ninth, was one of them


def test_without_feelings_there_are_no_metrics_about_them(asked, tmp_path):
    """Sequences without reviews: the file is JSON, which knows no NaN."""
    metrics = asked([math.nan] * 4).metrics
    assert not [name for name in metrics if "satisfied" in name or "regret" in name]
    assert all(map(math.isfinite, metrics.values())) and "full.retriever.HR@10" in metrics
    assert "satisfied" not in (tmp_path / "results.md").read_text()
    assert all("regret@10" not in row for row in read_json(tmp_path / "results.json")["rows"])
