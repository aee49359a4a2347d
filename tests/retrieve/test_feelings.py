import numpy as np
import pandas as pd
import pytest
from toy_sequences import make_sequences

from sealr.retrieve.feelings import feelings


@pytest.fixture
def sequences():
    return make_sequences([[1, 2, 3], [4, 5]], 5)


@pytest.fixture
def labels():
    """Not in the order of the sequences; the third review of u0 has no text."""
    rows = [("u1", 1, 2, 1.5), ("u0", 0, -2, -1.0), ("u0", 2, 0, None), ("u0", 1, 1, 0.5), ("u1", 0, 0, 0.25)]
    return pd.DataFrame(rows, columns=["user", "position", "sentiment", "expected"]).astype(
        {"sentiment": "Int8", "expected": "float32"}
    )


def test_aligned(labels, sequences):
    found = feelings(labels, sequences, "class", 0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[-2, -1], [1, 0.5], [np.nan, np.nan], [0, 0.25], [2, 1.5]])
    assert feelings(labels, sequences, "none", 0) is None


def test_shuffled_keeps_the_distribution_and_depends_on_the_seed(labels, sequences):
    real = feelings(labels, sequences, "class", 0)
    drawn = [feelings(labels, sequences, "shuffled", seed) for seed in range(4)]
    for found in drawn:
        np.testing.assert_array_equal(found[found[:, 0].argsort()], real[real[:, 0].argsort()])
    np.testing.assert_array_equal(drawn[0], feelings(labels, sequences, "shuffled", 0))
    assert any(not np.array_equal(drawn[0], other, equal_nan=True) for other in drawn[1:])
