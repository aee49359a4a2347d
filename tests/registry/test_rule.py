"""Who wins, by numbers that a hand can check."""

import numpy as np
import pytest

from sealr.registry.rule import ALPHA, MARGIN, compare, level


def test_the_levels_of_all_tries_add_up_to_alpha():
    assert [level(k) for k in (1, 2, 10)] == pytest.approx([0.030396, 0.007599, 0.00030396], rel=1e-4)
    assert sum(level(k) for k in range(1, 100_000)) == pytest.approx(ALPHA, abs=1e-5)


def test_a_gain_wins_at_the_first_try_and_not_at_the_second():
    """Six users of 60 gain and nobody loses: p is 1 / 64 = .0156, of which try 1 needs .0304 and try 2 .0076."""
    old, new = np.zeros(60), np.r_[np.ones(6), np.zeros(54)]
    wins, words, figures = compare(new, old, 1, 20_000)
    assert wins and figures["p"] == pytest.approx(1 / 64, abs=0.003) and figures["difference"] == pytest.approx(0.1)
    assert words.startswith("gate NDCG@10 0.1000 against 0.0000 on 60 users: difference +0.1000 (+0.0")
    assert words.endswith("where try 1 needs 0.03: a significant gain")
    wins, words, figures = compare(new, old, 2, 20_000)
    assert not wins and words.endswith("where try 2 needs 0.0076: no significant gain") and figures["try"] == 2


def test_a_loss_and_no_difference_never_win():
    old = np.r_[np.ones(30), np.zeros(30)]
    for new in (old, np.zeros(60)):
        assert not compare(new, old, 1, 1000)[0]


def test_a_certain_gain_that_nobody_notices_does_not_win():
    """All of 100 users gain .004 of .5, which is .8 %; with .006 it is 1.2 %."""
    old = np.full(100, 0.5)
    assert MARGIN == 0.01
    wins, words, _ = compare(old + 0.004, old, 1, 1000)
    assert not wins and words.endswith("a gain under 1%")
    assert compare(old + 0.006, old, 1, 1000)[0]
