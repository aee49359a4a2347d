import numpy as np
import pandas as pd
import pytest

from sealr.data.sequences import build
from sealr.satisfaction.effects import Reviews, fit_effects, training_mask, training_reviews, without


def sequences_of(*histories):
    rows = [(f"u{user}", f"i{item}", place) for user, h in enumerate(histories) for place, item in enumerate(h)]
    return build(pd.DataFrame(rows, columns=["user", "item", "position"]))


def test_learns_from_all_but_the_last_two():
    sequences = sequences_of([1, 2, 3, 4], [1, 2], [2, 3, 1])
    assert training_mask(sequences).astype(int).tolist() == [1, 1, 0, 0, 1, 1, 1, 0, 0]
    found = training_reviews(sequences, np.array([5, np.nan, 1, 1, 4, 3, 2, 1, 1], np.float32))
    assert found.users.tolist() == [0, 1, 1, 2] and found.items.tolist() == [1, 1, 2, 2]
    assert found.stars.tolist() == [5, 4, 3, 2] and found.index.tolist() == [0, 4, 5, 6]
    whole = sequences.with_whole(["u0"])
    assert training_mask(whole)[:4].all()


def test_refuses_when_nothing_is_known():
    sequences = sequences_of([1, 2, 3])
    with pytest.raises(ValueError, match="no review of the training split has stars or a label"):
        training_reviews(sequences, np.array([np.nan, 5, 5], np.float32))


def test_without_leaves_out_the_row_itself():
    found = without(np.array([0, 0, 0, 1]), np.array([1.0, 2.0, 6.0, 9.0]), 1.0)
    assert found.tolist() == pytest.approx([8 / 3, 7 / 3, 3 / 3, 0])


def test_an_item_is_not_blamed_for_its_severe_users():
    """Item 1 is as good as item 2, but severe users took it: plain means differ by two stars, effects hardly."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 10)
    severe = users < 100
    first = np.where(np.arange(2000) % 10 == 0, np.where(severe, 1, 2), rng.integers(3, 30, 2000))
    stars = np.where(severe, 2.0, 4.0) + rng.normal(0, 0.1, 2000)
    found = fit_effects(Reviews(users, first, stars, np.arange(2000), 30, 200))
    means = [stars[first == item].mean() for item in (1, 2)]
    assert means[1] - means[0] > 1.9 and abs(found.items[1] - found.items[2]) < 0.2
    assert found.users[:100].mean() == pytest.approx(-1, abs=0.1) and found.mean == pytest.approx(3, abs=0.1)


def test_noise_is_shrunk_harder_than_truth():
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(300), 6), np.tile(np.arange(1, 7), 300)
    noise = fit_effects(Reviews(users, items, rng.normal(size=1800), np.arange(1800), 6, 300))
    truth = rng.normal(size=300)[users] + rng.normal(0, 0.5, 1800)
    sure = fit_effects(Reviews(users, items, truth, np.arange(1800), 6, 300))
    assert noise.user_pull == 50 and sure.user_pull <= 1
