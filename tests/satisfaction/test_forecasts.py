import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr

from sealr.satisfaction.evaluate import auc, calibration_plot, calibration_table, forecasts, judged
from sealr.satisfaction.fit import fit
from sealr.settings import SatisfactionConfig
from tests.satisfaction.worlds import reviews


def test_auc_by_hand():
    mean, low, high = auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    assert mean == (1 + 0.5 + 1 + 1) / 4 and low <= mean <= high
    assert np.isnan(auc(np.arange(3.0), np.ones(3))[0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for seed in range(150):
        liked = rng.random(200) < 0.7
        values = rng.normal(size=200) + liked  # AUC = P(N(1, sqrt 2) > 0) = .7602
        _, low, high = auc(values, liked, 300, seed)
        covered += low <= 0.7602 <= high
    assert 0.88 <= covered / 150 <= 0.99


def test_judges_each_forecast():
    rng = np.random.default_rng(0)
    stars = rng.integers(1, 6, 100).astype(np.float32)
    stars[:5] = np.nan
    liked = np.where(np.isnan(stars), np.nan, stars >= 4)
    table = pd.DataFrame({"truth": np.nan_to_num(stars, nan=3), "noise": rng.normal(size=100), "constant": 4.0})
    found = judged(table, liked, stars).set_index("forecast")
    known = ~np.isnan(stars)
    assert found.loc["truth", "AUC"] == 1 and found.loc["constant", "AUC"] == 0.5
    assert found.loc["noise", "Pearson"] == pytest.approx(pearsonr(table["noise"][known], stars[known])[0])
    assert found.loc["noise", "Spearman"] == pytest.approx(spearmanr(table["noise"][known], stars[known])[0])
    assert np.isnan(found.loc["constant", "Pearson"])
    assert found["targets"].tolist() == [95] * 3 and found["disliked"].tolist() == [int((liked == 0).sum())] * 3


def test_too_few_are_not_judged():
    liked = np.r_[np.zeros(29), np.ones(70)]
    assert judged(pd.DataFrame({"x": np.arange(99.0)}), liked, np.full(99, np.nan)) is None


def test_forecasts_of_all_kinds():
    sequences, stars, vectors = reviews()
    model = fit(SatisfactionConfig(), sequences, stars, vectors)
    found = forecasts(model, sequences, "test", stars)
    assert list(found) == ["item", "user", "item + user", "ridge", "placebo"] and len(found) == len(sequences)
    split = sequences.split("test")
    assert found["ridge"][3] == pytest.approx(
        model.predict(split.history(3), split.history(3, stars))[split.targets[3]]
    )
    assert np.allclose(found["item + user"] + model.mean, found["item"] + found["user"], atol=1e-5)
    plain = fit(SatisfactionConfig(model="effects"), sequences, stars)
    assert list(forecasts(plain, sequences, "valid", stars)) == ["item", "user", "item + user", "placebo"]
    table = judged(found, np.where(stars[split.ends] > 3, 1.0, 0.0), stars[split.ends]).set_index("forecast")
    assert table["AUC"]["ridge"] > table["AUC"]["item + user"] > table["AUC"]["placebo"]


def test_calibration(tmp_path):
    predicted, stars = np.arange(100.0), np.arange(100.0) + 1
    stars[99] = np.nan
    table = calibration_table(predicted, stars)
    assert table["targets"].tolist() == [10] * 9 + [9] and table["forecast"][0] == 4.5 and table["stars"][0] == 5.5
    assert calibration_table(predicted[:29], stars[:29]).empty
    calibration_plot({"ridge": table}, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
