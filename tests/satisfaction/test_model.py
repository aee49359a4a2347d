import numpy as np
import pandas as pd
import pytest

from sealr.data.sequences import build
from sealr.satisfaction.fit import fit
from sealr.satisfaction.model import Satisfaction
from sealr.settings import SatisfactionConfig

EFFECTS, RIDGE = SatisfactionConfig(model="effects"), SatisfactionConfig(model="ridge")


def sequences_of(histories):
    rows = [
        (f"u{user:03}", f"i{item:03}", position)
        for user, history in enumerate(histories)
        for position, item in enumerate(history)
    ]
    return build(pd.DataFrame(rows, columns=["user", "item", "position"]))


@pytest.fixture(scope="module")
def world():
    """60 users with 12 of 20 items each; items differ, users differ, and texts say what kind an item is."""
    rng = np.random.default_rng(0)
    sequences = sequences_of([rng.permutation(20)[:12] + 1 for _ in range(60)])
    users = np.repeat(np.arange(60), 12)
    items = sequences.flat
    good, kind = rng.normal(0, 0.7, 21), rng.normal(size=(21, 6))
    generous, taste = rng.normal(0, 0.5, 60), rng.normal(size=(60, 6))
    fits = 0.5 * (taste[users] * kind[items]).sum(1)
    stars = (3 + good[items] + generous[users] + fits + rng.normal(0, 0.4, len(items))).astype(np.float32)
    vectors = (kind[items] + rng.normal(0, 0.3, (len(items), 6))).astype(np.float16)
    return sequences, stars, vectors


def valid(model, world):
    sequences, stars, *_ = world
    split = sequences.split("valid")
    found = model.forecast(list(split.histories()), list(split.histories(stars)))
    return np.corrcoef(found[np.arange(len(split)), split.targets], stars[split.ends])[0, 1]


def test_the_forecast_beats_its_placebo_and_texts_help(world):
    sequences, *arrays = world
    effects, ridge = fit(EFFECTS, sequences, arrays[0]), fit(RIDGE, sequences, *arrays)
    assert valid(effects, world) > valid(effects.placebo(), world) + 0.1
    assert valid(ridge, world) > valid(effects, world) + 0.05
    assert valid(ridge, world) > valid(ridge.placebo(), world) + 0.1


@pytest.mark.parametrize("config", [EFFECTS, RIDGE, SatisfactionConfig(model="ridge", shuffled=True)])
def test_comes_back_from_its_folder(world, config, tmp_path):
    sequences, stars, *texts = world
    model = fit(config, sequences, stars, *texts)
    model.save(tmp_path)
    again = Satisfaction.load(tmp_path)
    history = [np.array([3, 5]), np.array([], np.int64)]
    values = [np.array([1.0, np.nan]), np.array([])]
    assert np.array_equal(model.forecast(history, values), again.forecast(history, values))
    assert np.array_equal(model.standardised(history, values), again.standardised(history, values))
    assert again.config == config and sorted(p.name for p in tmp_path.iterdir()) == [
        "satisfaction.json",
        "satisfaction.safetensors",
    ]


@pytest.mark.parametrize("config", [EFFECTS, RIDGE, SatisfactionConfig(model="ridge", shuffled=True)])
def test_standardised_over_the_catalogue(world, config):
    sequences, stars, *texts = world
    model = fit(config, sequences, stars, *texts)
    history, values = [np.array([3, 5, 7]), np.array([2])], [np.array([1.0, 5.0, 4.0]), np.array([5.0])]
    forecast = model.forecast(history, values)
    expected = (forecast[:, 1:] - forecast[:, 1:].mean(1, keepdims=True)) / forecast[:, 1:].std(1, keepdims=True)
    found = model.standardised(history, values)
    assert found.shape == (2, 21) and found[:, 0].tolist() == [0, 0]
    assert found[:, 1:] == pytest.approx(expected, abs=1e-3)
    items = np.array([[4, 9, 0], [1, 20, 2]])
    assert model.standardised(history, values, items) == pytest.approx(np.take_along_axis(found, items, 1), abs=1e-4)
