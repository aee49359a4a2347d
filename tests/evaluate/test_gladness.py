"""Who was glad of what: stars before labels, and nobody is glad of what they did not judge."""

import numpy as np
import pandas as pd
import pytest

from sealr.data.sequences import SequenceError, build
from sealr.evaluate.gladness import gladness

USERS, POSITIONS = ["a", "a", "a", "b", "b", "b"], [0, 1, 2, 0, 1, 2]
NAN = np.nan


@pytest.fixture
def reviews():
    items = ["x", "y", "z", "x", "y", "w"]
    return pd.DataFrame({"user": USERS, "position": POSITIONS, "item": items, "rating": np.float32(NAN)})


@pytest.fixture
def labels():
    """The second review of each user has no label; its class stays from a reader that gave no probability."""
    classes = pd.array([2, 0, -1, 1, None, 0], dtype="Int8")
    expected = [1.5, NAN, -0.4, 0.2, NAN, 0.1]
    return pd.DataFrame({"user": USERS, "position": POSITIONS, "sentiment": classes, "expected": expected})


def test_stars_come_first(reviews, labels):
    reviews["rating"] = np.array([5, 4, 3, NAN, 3.5, 1], dtype=np.float32)
    glad = gladness(reviews, labels, build(reviews))
    assert glad.source == "stars" and glad.stars.dtype == glad.liked.dtype == np.float32
    np.testing.assert_array_equal(glad.stars, [5, 4, 3, NAN, 3.5, 1])
    np.testing.assert_array_equal(glad.liked, [1, 1, 0, NAN, NAN, 0])  # labels fill no gap of the stars


def test_labels_where_nobody_gave_stars(reviews, labels):
    glad = gladness(reviews, labels, build(reviews))
    assert glad.source == "labels" and np.isnan(glad.stars).all()
    np.testing.assert_array_equal(glad.liked, [1, NAN, 0, 1, NAN, NAN])  # neutral is neither


def test_values_follow_the_sequences_and_not_the_rows(reviews, labels):
    reviews["rating"] = np.arange(6, dtype=np.float32) % 5 + 1
    sequences = build(reviews)
    glad = gladness(reviews.iloc[::-1], labels, sequences).take(sequences.split("test").ends)
    assert glad.stars.tolist() == [3, 1] and glad.liked.tolist() == [0, 0] and glad.source == "stars"


def test_neither_stars_nor_labels(reviews, labels):
    sequences = build(reviews)
    assert gladness(reviews, None, sequences) is None
    assert gladness(reviews, labels.assign(expected=NAN), sequences) is None


def test_a_table_of_other_sequences_is_refused(reviews, labels):
    with pytest.raises(SequenceError, match="sentiment: 0 rows for user 'b' position 2"):
        gladness(reviews, labels.iloc[:-1], build(reviews))
