import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences
from sealr.emotion.feelings import feelings

SEQUENCES = Sequences(["u1", "u2"], list("abcde"), np.array([1, 2, 3, 4, 4, 3, 2, 1, 5]), np.array([0, 4, 9]))
LABELS = pd.DataFrame(
    {
        "user": ["u1"] * 4 + ["u2"] * 5,
        "position": [0, 1, 2, 3, 0, 1, 2, 3, 4],
        "sentiment": pd.array([2, -2, None, 1, -1, 0, 1, 2, -2], dtype="Int8"),
        "expected": [1.5, -1.5, np.nan, 0.5, -0.5, 0.25, 0.75, 1.75, -1.25],
    }
)


def test_a_review_without_a_label_is_unknown():
    made = feelings(LABELS, SEQUENCES)
    assert made.dtype == np.float32 and np.isnan(made[2]).all()
    assert made[[0, 4]].tolist() == [[2, 1.5], [-1, -0.5]]


def test_shuffling_moves_pairs_and_keeps_their_distribution():
    true, shuffled = feelings(LABELS, SEQUENCES), feelings(LABELS, SEQUENCES, shuffle_seed=1)
    assert sorted(map(str, true.tolist())) == sorted(map(str, shuffled.tolist()))
    assert not np.array_equal(true, shuffled, equal_nan=True)
