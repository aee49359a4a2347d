import numpy as np
import pytest

from sealr.satisfaction import content
from sealr.satisfaction import fit as fitting
from sealr.satisfaction.calibration import Calibration
from sealr.satisfaction.effects import training_mask
from sealr.satisfaction.fit import fit
from sealr.satisfaction.model import Satisfaction
from sealr.settings import SatisfactionConfig
from tests.satisfaction.worlds import reviews, sequences_of

EFFECTS, RIDGE = SatisfactionConfig(model="effects"), SatisfactionConfig(model="ridge")
KINDS = [EFFECTS, RIDGE, SatisfactionConfig(model="ridge", shuffled=True, seed=3)]
HISTORIES = [np.array([3, 5, 7]), np.array([2]), np.array([], np.int64), np.array([4, 6])]
STARS = [np.array([1.0, 5.0, 4.0]), np.array([5.0]), np.array([]), np.array([np.nan, 2.0])]


def valid(model):
    """Correlation of the forecast with the true stars of the validation targets."""
    sequences, stars, _ = reviews()
    split = sequences.split("valid")
    found = model.forecast(list(split.histories()), list(split.histories(stars)))
    return np.corrcoef(found[np.arange(len(split)), split.targets], stars[split.ends])[0, 1]


def test_the_forecast_beats_its_placebo_and_texts_help():
    sequences, stars, vectors = reviews()
    effects, ridge = fit(EFFECTS, sequences, stars), fit(RIDGE, sequences, stars, vectors)
    assert valid(effects) > valid(effects.placebo()) + 0.1
    assert valid(ridge) > valid(effects) + 0.05
    assert valid(ridge) > valid(ridge.placebo()) + 0.1


def test_effects_by_hand():
    """Two items, no difference between users: mu 3, item effects +-1 shrunk by the pull of one review."""
    sequences = sequences_of(*[[1, 2, 1, 2]] * 40)
    stars = np.where(sequences.flat == 1, 4.0, 2.0).astype(np.float32)
    model = fit(EFFECTS, sequences, stars)
    assert model.mean == 3 and model.table[1:, 0] == pytest.approx([40 / 41, -40 / 41])
    found = model.predict(np.array([1]), np.array([5.0]))
    user = (5 - 3 - 40 / 41) / (1 + model.pull)
    assert found == pytest.approx([0, 3 + 40 / 41 + user, 3 - 40 / 41 + user])


def test_held_out_reviews_are_not_read():
    sequences, stars, vectors = reviews()
    out = ~training_mask(sequences)
    other_stars, other_vectors = np.where(out, 1, stars), np.where(out[:, None], 9, vectors)
    one, two = fit(RIDGE, sequences, stars, vectors), fit(RIDGE, sequences, other_stars, other_vectors)
    assert np.array_equal(one.forecast(HISTORIES, STARS), two.forecast(HISTORIES, STARS))


def test_a_review_does_not_foretell_itself():
    """Stars without any order: a model whose rows saw their own review would find some."""
    sequences, _, vectors = reviews()
    stars = np.random.default_rng(5).integers(1, 6, len(sequences.flat)).astype(np.float32)
    model = fit(RIDGE, sequences, stars, vectors)
    assert model.forecast(HISTORIES, STARS)[:, 1:].std() < 0.15


@pytest.mark.parametrize("config", KINDS)
def test_comes_back_from_its_folder(config, tmp_path):
    sequences, stars, vectors = reviews()
    model = fit(config, sequences, stars, vectors, Calibration("labels"))
    model.save(tmp_path)
    again = Satisfaction.load(tmp_path)
    assert np.array_equal(model.forecast(HISTORIES, STARS), again.forecast(HISTORIES, STARS))
    assert np.array_equal(model.standardised(HISTORIES, STARS), again.standardised(HISTORIES, STARS))
    assert again.config == config and again.calibration == Calibration("labels")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["satisfaction.json", "satisfaction.safetensors"]


@pytest.mark.parametrize("config", KINDS)
def test_standardised_over_the_catalogue(config):
    sequences, stars, vectors = reviews()
    model = fit(config, sequences, stars, vectors)
    forecast = model.forecast(HISTORIES, STARS)
    expected = (forecast[:, 1:] - forecast[:, 1:].mean(1, keepdims=True)) / forecast[:, 1:].std(1, keepdims=True)
    found = model.standardised(HISTORIES, STARS)
    assert found.shape == (4, 26) and found.dtype == np.float32 and (found[:, 0] == 0).all()
    assert found[:, 1:] == pytest.approx(expected, abs=1e-3)
    items = np.array([[4, 9, 0], [1, 20, 2], [3, 3, 3], [25, 1, 0]])
    some = model.standardised(HISTORIES, STARS, items)
    assert some == pytest.approx(np.take_along_axis(found, items, 1), abs=1e-4) and some.dtype == np.float32


def test_equal_forecasts_standardise_to_zero():
    sequences = sequences_of(*[[1, 2, 3, 4]] * 20)
    model = fit(EFFECTS, sequences, np.full(80, 5, np.float32))
    assert (model.standardised([np.array([1])], [np.array([5.0])]) == 0).all()
    assert model.predict(np.array([1]), np.array([5.0]))[1:].tolist() == [5, 5, 5, 5]


def test_items_without_reviews_are_average():
    """Items 4 and 5 are only ever held out: no training review speaks of them."""
    sequences = sequences_of(*[[1, 2, 3, 4, 5], [2, 1, 3, 5, 4]] * 30)
    stars = np.select([sequences.flat == 1, sequences.flat == 2], [5, 1], 3).astype(np.float32)
    vectors = np.eye(6, dtype=np.float16)[sequences.flat]
    model = fit(RIDGE, sequences, stars, vectors)
    found = model.standardised(HISTORIES[2:3], STARS[2:3])[0]
    assert found[1] > 0.5 > -0.5 > found[2] and found[4] == found[5] == pytest.approx(found[1:4].mean(), abs=1e-4)


def test_the_placebo_keeps_users_and_judges_by_other_items():
    sequences, stars, vectors = reviews()
    model = fit(RIDGE, sequences, stars, vectors)
    placebo = model.placebo(1)
    real, other = model.forecast(HISTORIES, STARS), placebo.forecast(HISTORIES, STARS)
    assert np.sort(real[:, 1:]) == pytest.approx(np.sort(other[:, 1:]), abs=1e-4)
    assert np.array_equal(model.users(HISTORIES, STARS).effects, placebo.users(HISTORIES, STARS).effects)
    assert (real != other).mean() > 0.8 and np.array_equal(model.placebo(1).source, placebo.source)
    shuffled = fit(SatisfactionConfig(shuffled=True, seed=1), sequences, stars, vectors)
    assert np.array_equal(shuffled.forecast(HISTORIES, STARS), other)


def test_unknown_stars_say_nothing():
    sequences, stars, vectors = reviews()
    model = fit(RIDGE, sequences, stars, vectors)
    some = model.forecast([np.array([3, 9, 7])], [np.array([1.0, np.nan, 4.0])])
    assert np.array_equal(some, model.forecast([np.array([3, 7])], [np.array([1.0, 4.0])]))


def test_blocks_are_only_a_matter_of_memory(monkeypatch):
    sequences, stars, vectors = reviews()
    whole = fit(RIDGE, sequences, stars, vectors)
    monkeypatch.setattr(content, "BLOCK", 50)
    monkeypatch.setattr(fitting, "BLOCK", 50)
    parts = fit(RIDGE, sequences, stars, vectors)
    assert parts.forecast(HISTORIES, STARS) == pytest.approx(whole.forecast(HISTORIES, STARS), abs=1e-3)


def test_texts_may_be_missing():
    """A review without text adds nothing to its item's content, and one NaN spoils nothing."""
    sequences, stars, vectors = reviews()
    holes = vectors.copy()
    holes[::3], holes[1] = 0, np.nan
    model = fit(RIDGE, sequences, stars, holes)
    assert np.isfinite(model.forecast(HISTORIES, STARS)).all()
    empty = fit(RIDGE, sequences, stars, np.zeros_like(vectors))
    assert empty.forecast(HISTORIES, STARS) == pytest.approx(
        fit(RIDGE, sequences, stars).forecast(HISTORIES, STARS), abs=1e-4
    )


def test_refuses():
    sequences, stars, _ = reviews()
    model = fit(EFFECTS, sequences, stars)
    with pytest.raises(ValueError, match="as many stars as items"):
        model.forecast([np.array([1, 2])], [np.array([5.0])])
    with pytest.raises(ValueError, match="outside of 0 to 25"):
        model.forecast([np.array([26])], [np.array([5.0])])
    with pytest.raises(ValueError, match="satisfaction.model is none"):
        fit(SatisfactionConfig(model="none"), sequences, stars)
