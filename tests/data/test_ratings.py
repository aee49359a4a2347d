import math

import pytest

from sealr.data.sources.ratings import ScaleError, star_reader


@pytest.mark.parametrize(
    ("value", "stars"),
    [
        ("4", 4), (4, 4), ("4,5", 4.5), ("3/5", 3), ("2.5/4", 3.125), ("8/10", 4), ("83/100", 4.15), ("0/5", 1),
        ("4.0 out of 5 stars", 4), ("5 stars", 5), ("1 star", 1), ("7", math.inf), ("9/5", 9), ("1/0", math.inf),
        ("B+", "B+"), ("nan", "nan"), (None, None), ("", ""), (True, True), (["5"], ["5"]),
    ],
)  # fmt: skip
def test_stars_and_fractions(value, stars):
    """What is not from 1 to 5 is left to cleaning, which rejects it."""
    assert star_reader("")(value) == stars


def test_ranges_are_linear():
    ten, percent, sign = star_reader("1..10"), star_reader("0..100"), star_reader("-1..1")
    assert [ten(1), ten("5.5"), ten(10), ten(11), ten("8/10")] == [1, 3, 5, math.inf, 4]
    assert [percent(0), percent("50"), percent(100)] == [1, 3, 5] and [sign(-1), sign(0), sign(1)] == [1, 3, 5]


def test_words():
    read = star_reader({"Like": 5, "dislike": 1, "B+": 4.2, "true": 5, "1": 2})
    assert [read(v) for v in ("like", " DISLIKE", "b+", True, 1.0, "1", "3/5", "4")] == [5, 1, 4.2, 5, 2, 2, 3, 4]
    assert read("so so") == "so so"


@pytest.mark.parametrize("scale", ["ten", "1-10", "10..1", "1..10..2"])
def test_a_wrong_scale(scale):
    with pytest.raises(ScaleError, match="data.rating_scale"):
        star_reader(scale)
