import json

import numpy as np
import pytest

from sealr.satisfaction.calibration import MIN_REVIEWS, TEXT_SHARE, Calibration, calibrate, review_stars

RNG = np.random.default_rng(0)
N = 400
PROBABILITIES = RNG.random((N, 28)).astype(np.float32)
VECTORS = RNG.normal(size=(N, 5)).astype(np.float16)
EXPECTED = (PROBABILITIES[:, 0] - PROBABILITIES[:, 1]).astype(np.float32)
TRUTH = np.clip(3.5 + EXPECTED + 0.5 * VECTORS[:, 0].astype(np.float32), 1, 5)
TRAIN = np.arange(N) < 300
HALF = np.where(np.arange(N) % 2, TRUTH, np.nan).astype(np.float32)  # every second review has stars


def error(found):
    return np.abs(found - TRUTH)[~TRAIN & np.isnan(HALF)].mean()


def test_a_text_without_stars_gets_those_that_similar_texts_have():
    with_vectors = review_stars(HALF, PROBABILITIES, EXPECTED, VECTORS, TRAIN)
    without = review_stars(HALF, PROBABILITIES, EXPECTED, None, TRAIN)
    assert error(with_vectors) < error(without) - 0.1
    assert error(without) < error(review_stars(HALF, PROBABILITIES, EXPECTED, None, TRAIN, "labels")) - 0.1
    assert with_vectors.dtype == np.float32 and 1 <= with_vectors.min() and with_vectors.max() <= 5


def test_given_stars_count_most():
    calibration = calibrate(HALF, EXPECTED, PROBABILITIES, VECTORS, TRAIN)
    unrated = calibration.stars(np.full(N, np.nan), EXPECTED, PROBABILITIES, VECTORS)
    found = calibration.stars(HALF, EXPECTED, PROBABILITIES, VECTORS)
    rated = np.isfinite(HALF)
    assert found[rated] == pytest.approx(((1 - TEXT_SHARE) * HALF + TEXT_SHARE * unrated)[rated], abs=1e-5)
    assert np.array_equal(found[~rated], unrated[~rated])


def test_held_out_stars_are_not_read():
    """Other stars in held-out reviews change nothing about reviews without stars."""
    other = np.where(TRAIN, HALF, 6 - HALF)
    one, two = (review_stars(r, PROBABILITIES, EXPECTED, VECTORS, TRAIN) for r in (HALF, other))
    assert np.array_equal(one[np.isnan(HALF)], two[np.isnan(HALF)])


def test_without_stars_anywhere_it_is_expected_sentiment():
    nothing = np.full(4, np.nan, np.float32)
    expected = np.array([-2, 0.5, 2, np.nan], np.float32)
    found = review_stars(nothing, np.full((4, 28), 0.1), expected, None, np.ones(4, bool))
    assert found.tolist()[:3] == [1, 3.5, 5] and np.isnan(found[3])


@pytest.mark.parametrize("rated", [0, MIN_REVIEWS - 1])
def test_too_few_stars_calibrate_nothing_but_are_believed(rated):
    stars = np.where(np.arange(N) < rated, 1.0, np.nan).astype(np.float32)
    found = review_stars(stars, PROBABILITIES, EXPECTED, VECTORS, TRAIN)
    assert (found[:rated] == 1).all() and found[rated:] == pytest.approx(3 + EXPECTED[rated:])


def test_stars_only_and_labels_only():
    only = review_stars(HALF, PROBABILITIES, EXPECTED, VECTORS, TRAIN, "stars")
    assert np.array_equal(only, HALF, equal_nan=True)
    assert review_stars(HALF, PROBABILITIES, EXPECTED, VECTORS, TRAIN, "labels") == pytest.approx(3 + EXPECTED)


def test_a_request_may_know_less_than_the_training_data():
    """A class alone, or a text that nobody has turned into a vector, still becomes stars."""
    calibration = calibrate(HALF, EXPECTED, PROBABILITIES, VECTORS, TRAIN)
    nothing = np.full(3, np.nan)
    classes = calibration.stars(nothing, np.array([-1.0, 0.0, 1.0]))
    assert (np.diff(classes) > 0.5).all()
    zeros = calibration.stars(nothing, EXPECTED[:3], PROBABILITIES[:3], np.zeros((3, 5)))
    assert np.array_equal(zeros, calibration.stars(nothing, EXPECTED[:3], PROBABILITIES[:3]))
    assert np.isnan(calibration.stars(nothing, nothing)).all()


def test_comes_back_from_json():
    calibration = calibrate(HALF, EXPECTED, PROBABILITIES, VECTORS, TRAIN)
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    arrays = (HALF, EXPECTED, PROBABILITIES, VECTORS)
    assert np.array_equal(calibration.stars(*arrays), again.stars(*arrays))
    assert Calibration.from_dict(Calibration("labels").to_dict()) == Calibration("labels")


def test_refuses():
    with pytest.raises(ValueError, match="'given' is not one of auto, stars, labels"):
        review_stars(HALF, PROBABILITIES, EXPECTED, None, TRAIN, "given")
    with pytest.raises(ValueError, match="no training review has a rating: set it to auto or labels"):
        review_stars(np.where(TRAIN, np.nan, HALF), PROBABILITIES, EXPECTED, None, TRAIN, "stars")
