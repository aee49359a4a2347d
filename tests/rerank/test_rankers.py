from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sealr.data.sequences import Sequences
from sealr.rerank.rankers import Scored, fuse, order, target_rank, tune_weight
from sealr.rerank.requests import Pools, RerankInput, finetuning_requests, inject, ranking_request
from sealr.rerank.rerank import rerank, score_parts


def test_fusion_by_hand():
    """z-scores of 1, 2, 3 are -1.2247, 0, 1.2247; equal scores count as 0."""
    assert fuse(np.array([1.0, 2.0, 3.0]), np.array([7.0, 7.0, 7.0]), 2) == pytest.approx(
        [-1.2247, 0, 1.2247], abs=1e-4
    )
    assert fuse(np.array([5.0, 5.0]), np.array([1.0, 3.0]), 0.5).tolist() == [-0.5, 0.5]


def test_fusion_weight_moves_between_the_two_orders():
    retriever, llm = np.array([3.0, 2.0, 1.0]), np.array([0.0, 1.0, 2.0])
    assert order(fuse(retriever, llm, 0)).tolist() == [0, 1, 2]
    assert order(fuse(retriever, llm, 8)).tolist() == [2, 1, 0]


def test_equal_scores_keep_the_retrievers_order():
    assert order(np.array([0.0, 5.0, 0.0, 5.0])).tolist() == [1, 3, 0, 2]


def test_target_rank():
    assert target_rank(np.array([0.1, 0.9]), [7, 8], 7) == 2
    assert target_rank(np.array([0.1, 0.9]), [7, 8], 9) == np.inf


def requests(n=20):
    return [RerankInput([1], [[0, 0]], [5, 6, 7], [3.0, 2.0, 1.0]) for _ in range(n)]


def test_weight_is_zero_when_the_llm_adds_nothing():
    weight, tried, _ = tune_weight(requests(), [np.array([0.0, 1.0, 2.0])] * 20, [5] * 20, users=40)
    assert weight == 0 and tried[0.0] == pytest.approx(0.5)  # half of the users' targets were not retrieved


def test_a_gain_that_may_be_luck_gives_weight_zero():
    """Two of twenty targets gain, one loses: better on average, but no interval clear of 0."""
    weight, tried, gain = tune_weight(requests(3), [np.array([0.0, 0.0, 2.0])] * 3, [7, 7, 5], users=20)
    assert max(tried.values()) > tried[0.0] and weight == 0 and gain[1] <= 0


def test_users_do_not_prove_the_weight_that_they_chose():
    """Scores without meaning. On the 100 users who choose it the best weight's gain is clear of 0, by luck."""
    rng = np.random.default_rng(63)
    retriever = rng.normal(size=(100, 20))
    retriever[:, 0] += 1.0  # the target's
    lists = [RerankInput([1], [[0, 0]], list(range(1, 21)), scores.tolist()) for scores in retriever]
    weight, tried, gain = tune_weight(lists, list(rng.normal(size=(100, 20))), [1] * 100, 100)
    assert max(tried.values()) > tried[0.0] + 0.01 and gain[1] <= 0 and weight == 0


def test_weight_is_positive_when_the_llm_knows():
    weight, tried, gain = tune_weight(requests(), [np.array([0.0, 0.0, 2.0])] * 20, [7] * 20, users=20)
    assert weight > 0 and tried[weight] == pytest.approx(1.0)
    assert gain == pytest.approx((0.5, 0.5, 0.5))  # each target rises from rank 3 to 1


@pytest.fixture
def sequences():
    """u1: 1 2 3 4, u2: 4 3 2 1 5."""
    return Sequences(["u1", "u2"], list("abcdefgh"), np.array([1, 2, 3, 4, 4, 3, 2, 1, 5]), np.array([0, 4, 9]))


@pytest.fixture
def pools(sequences):
    rows = [("u1", "cde", "valid"), ("u1", "efg", "test"), ("u2", "fgh", "valid"), ("u2", "efg", "test")]
    frame = pd.DataFrame(
        [
            {"user": u, "item": i, "rank": r, "score": 9.0 - r, "split": s}
            for u, items, s in rows
            for r, i in enumerate(items, start=1)
        ]
    )
    return Pools(frame, sequences, 3)


FEELINGS = np.array([2, -2, 0, 1, -1, 0, 1, 2, -2])[:, None] * [1, 0.8]


def test_histories_stop_before_the_target(sequences, pools):
    valid = ranking_request(1, "valid", sequences, FEELINGS, pools)
    assert (valid.history, valid.pool) == ([4, 3, 2], [6, 7, 8])
    assert valid.feelings.tolist() == [[-1, -0.8], [0, 0], [1, 0.8]]
    test = ranking_request(1, "test", sequences, FEELINGS, pools)
    assert (test.history, test.feelings[:, 0].tolist(), test.pool) == ([4, 3, 2, 1], [-1, 0, 1, 2], [5, 6, 7])


def test_finetuning_answers_are_last_then_second_to_last_and_in_the_pool(sequences, pools):
    first, second = finetuning_requests([0, 1], sequences, FEELINGS, pools)
    assert (first.history, first.answer, first.pool) == (
        [1, 2],
        [4, 3],
        [3, 4, 5],
    )  # both were retrieved: nothing changes
    assert (second.history, second.answer) == ([4, 3, 2], [5, 1])
    assert sorted(second.pool) == [1, 5, 6]  # neither was retrieved: the worst two candidates made room


def test_injection_replaces_the_last_candidate_only_when_needed(sequences, pools):
    request = ranking_request(0, "test", sequences, FEELINGS, pools)
    assert inject(request, 4).pool == [5, 6, 4]
    assert inject(request, 6).pool == [5, 6, 7]


class Backwards:
    """A ranker that turns the retriever's order round, and counts its calls."""

    name = "backwards"

    def __init__(self):
        self.calls = 0

    def score(self, requests):
        self.calls += 1
        return [Scored(np.arange(len(r.pool), dtype=np.float32)) for r in requests]


def test_finished_parts_are_not_ranked_again(tmp_path):
    ranker = Backwards()
    first = score_parts(ranker, requests(5), tmp_path, "test", 2)
    again = score_parts(ranker, requests(5), tmp_path, "test", 2)
    assert ranker.calls == 3 and [a.values.tolist() for a in again] == [f.values.tolist() for f in first]


def test_scores_that_are_not_numbers_are_refused_and_not_kept(tmp_path):
    broken = Backwards()
    broken.score = lambda asked: [Scored(np.array([1.0, np.nan, 0.0]))] * len(asked)
    with pytest.raises(FloatingPointError, match="2 of 2 users.*lower rerank.lr"):
        score_parts(broken, requests(2), tmp_path, "test", 2)
    assert not list(tmp_path.rglob("*.npz"))


def test_rerank_writes_every_split_and_tunes_on_validation(sequences, pools, tmp_path):
    output = rerank(Backwards(), [0, 1], [0, 1], sequences, FEELINGS, pools, 2, tmp_path)
    table = pd.read_parquet(tmp_path / "rankings.parquet")
    lists = {key: g.sort_values("rank")["item"].tolist() for key, g in table.groupby(["split", "ranker", "user"])}
    assert lists["test", "backwards", "u1"] == ["g", "f", "e"]
    assert lists["injected", "retriever", "u1"] == ["e", "f", "d"]  # u1's target, d, was not retrieved
    assert lists["injected", "retriever", "u2"] == lists["test", "retriever", "u2"]  # u2's target, e, was
    assert ("valid", "retriever", "u2") not in lists  # its validation target was not retrieved: nothing to tune
    assert output.metrics["fusion_weight"] == 0 and output.rows["lists_generated"] == 1 + 2 + 1


def test_the_time_of_a_list_is_that_of_the_test_lists(sequences, pools, tmp_path, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("sealr.rerank.rerank.time", SimpleNamespace(monotonic=lambda: 7 * next(clock)))
    output = rerank(Backwards(), [0, 1], [0, 1], sequences, FEELINGS, pools, 1, tmp_path)
    assert output.metrics["seconds_a_list"] == 7 and next(clock) == 4  # two lists, begun and ended
