import numpy as np
import pandas as pd
import pytest

from sealr.satisfaction.ranking import WEIGHTS, frontier, frontier_plot, ranks, tune

POOL = np.array([7, 8, 9])


def test_ranks_by_hand():
    base, glad = [np.array([1.0, 0.5, 0.0])] * 3, [np.array([0.0, 0.0, 1.0])] * 3
    found = ranks(base, [POOL] * 3, glad, np.array([9, 7, 5]), (0.0, 0.6, 1.0, 2.0))
    assert found[:, 0].tolist() == [3, 2, 2, 1]  # at 1 its score ties with item 7, which comes first
    assert found[:, 1].tolist() == [1, 1, 1, 2]
    assert found[:, 2].tolist() == [0, 0, 0, 0]  # not in the pool
    nothing = np.zeros(0)
    assert ranks([nothing], [nothing], [nothing], np.array([3])).tolist() == [[0]] * len(WEIGHTS)


def world(users=600, signal=1.5, harm=0.0, seed=0):
    """Pools of 40; the target ranks about 12th, and satisfaction, with noise, lifts it if it is liked."""
    rng = np.random.default_rng(seed)
    liked = (rng.random(users) < 0.7).astype(np.float32)
    base, glad = rng.normal(size=(users, 40)), rng.normal(size=(users, 40)) * 0.5
    base[:, 0] = 0.7 + rng.normal(0, 0.7, users)
    glad[:, 0] += signal * (liked - 0.5) - harm
    return list(base), [np.arange(1, 41)] * users, list(glad), np.ones(users, int), liked


def test_a_forecast_that_knows_gets_a_weight():
    choice = tune(*world())
    assert choice.weight > 0 and choice.gain[1] > 0 and choice.rise[1] > 0
    row = choice.tried.set_index("weight").loc[choice.weight]
    plain = choice.tried.iloc[0]
    assert row["HR@10 liked"] > plain["HR@10 liked"] and row["HR@10 disliked"] < plain["HR@10 disliked"]
    assert row["gain"] > 0 and plain["gain"] == 0
    assert row["HR@10"] >= 0.98 * plain["HR@10"]


@pytest.mark.parametrize("seed", range(4))
def test_one_that_knows_nothing_gets_none(seed):
    assert tune(*world(signal=0.0, seed=seed)).weight == 0


def test_users_do_not_prove_the_weight_that_they_chose():
    """A forecast without meaning. On the users who choose it the weight .05 has a rise clear of 0, by luck."""
    choice = tune(*world(users=300, signal=0.0, seed=104))
    assert choice.tried.set_index("weight").loc[0.05, "rise low"] > 0
    assert choice.rise[1] <= 0 and choice.weight == 0


def test_all_hits_are_unharmed():
    """It tells liked from disliked, but sinks the targets of both."""
    choice = tune(*world(signal=1.0, harm=3.0))
    assert choice.weight == 0 or choice.tried.set_index("weight").loc[choice.weight, "change of hits high"] >= 0
    assert choice.tried["gain"].max() > choice.gain[0]


def test_ranks_prove_what_few_hits_cannot():
    """The gain in hits is not clear of 0, but the ranks of all targets show that liked ones rise further."""
    choice = tune(*world(users=300, signal=0.2, seed=2))
    assert choice.gain[1] <= 0 < choice.rise[1] and choice.weight > 0


def test_the_rise_by_hand():
    """One weight step lifts every liked target from rank 2 to 1 and leaves the disliked ones: log 2."""
    liked = np.repeat([1.0, 0.0], 40)
    base = [np.array([0.0, 0.01])] * 80
    glad = [np.array([1.0, 0.0])] * 40 + [np.array([0.0, 0.0])] * 40
    choice = tune(base, [np.array([1, 2])] * 80, glad, np.ones(80, int), liked)
    assert choice.rise == pytest.approx((0, 0, 0)) and choice.weight == 0  # all are hits already: weight 0 is best
    assert choice.tried["rise"].tolist()[1:] == pytest.approx([np.log(2)] * 9)


def test_too_few_disliked_targets_choose_nothing():
    base, pools, glad, targets, liked = world(users=90)
    liked[:] = 1
    liked[:29] = 0
    choice = tune(base, pools, glad, targets, liked)
    assert choice.weight == 0 and np.isnan([choice.gain[0], choice.rise[0]]).all()
    assert choice.tried["HR@10 disliked"].isna().all() and choice.tried["HR@10"].notna().all()


def test_targets_that_are_neither_count_in_all_hits_only():
    base, pools, glad, targets, liked = world(users=300)
    liked[:100] = np.nan
    table = frontier(base, pools, glad, targets, liked)
    hits = (ranks(base, pools, glad, targets) <= 10).mean(1)
    assert table["HR@10"].tolist() == pytest.approx(hits.tolist())
    known = frontier(base[100:], pools[100:], glad[100:], targets[100:], liked[100:])
    for name in ("HR@10 liked", "NDCG@10 disliked", "HR@10 liked minus disliked"):
        assert table[name].tolist() == pytest.approx(known[name].tolist())


def test_plot(tmp_path):
    real, placebo = frontier(*world()), frontier(*world(signal=0))
    frontier_plot({"feelings": real, "placebo": placebo}, tmp_path / "a.png", "Frontier")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG" and isinstance(real, pd.DataFrame)
