from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from sealr.data.tables import read_json
from sealr.registry import drift
from sealr.settings import DriftSettings

CONFIG = DriftSettings()


def tables(seed, users=200, items=40, positive=0.7, first="2014-01-01", days=400, each=10):
    """Reviews and labels with a popularity that falls with the item's number."""
    rng = np.random.default_rng(seed)
    n = users * each
    weights = 1 / np.arange(1, items + 1)
    reviews = pd.DataFrame(
        {
            "user": np.repeat([f"u{i}" for i in range(users)], each),
            "item": rng.choice([f"i{i}" for i in range(items)], n, p=weights / weights.sum()),
            "timestamp": pd.Timestamp(first).timestamp() + rng.integers(0, days * 86400, n),
        }
    )
    good = rng.random(n) < positive
    labels = pd.DataFrame(
        {"emotion": np.where(good, "joy", "anger"), "sentiment": pd.array(np.where(good, 2, -2), dtype="Int8")}
    )
    labels.loc[:4, ["emotion", "sentiment"]] = None  # reviews without a readable text
    return reviews.astype({"timestamp": "int64"}), labels


@pytest.fixture(scope="module")
def old():
    return drift.describe(*tables(0))


def drifted(old, new):
    return [c.name.split(",")[0] for c in drift.compare(old, new, CONFIG) if c.drifted]


def test_statistics_count_every_review(old):
    assert sum(old.items.values()) == sum(old.months.values()) == 2000 and old.activity == {"10": 200}
    assert sum(old.emotions.values()) == sum(old.sentiments.values()) == 1995 and set(old.sentiments) == {"-2", "2"}


def test_the_same_and_another_sample_of_the_same_world_are_no_drift(old):
    assert [c.value for c in drift.compare(old, old, CONFIG)] == [0, 0, 0, 0, 0, 0, 1]
    assert drifted(old, drift.describe(*tables(1))) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"positive": 0.4}, "emotions"),
        ({"positive": 0.4}, "sentiments"),
        ({"items": 80}, "new items"),
        ({"items": 20}, "lost items"),
        ({"each": 20}, "reviews per user"),
        ({"first": "2015-03-01", "days": 60}, "reviews per month since then"),
    ],
)
def test_what_changed_is_named(old, change, name):
    assert name in drifted(old, drift.describe(*tables(1, **change)))


def test_a_month_that_has_only_begun_is_no_drift(old):
    last = max(old.months)
    filled = old.months | {last: 150, "2015-03": 2}  # it was cut short, and now the next one is
    assert drifted(old, replace(old, months=filled)) == []
    assert drifted(old, replace(old, months=filled | {last: 900})) == ["reviews per month since then"]


def test_popularity_shift(old):
    names = sorted(old.items)
    turned = dict(zip(names, [old.items[n] for n in sorted(names, key=lambda n: old.items[n])], strict=True))
    assert drifted(old, replace(old, items=turned)) == ["popularity of shared items"]


def test_few_reviews_are_not_drift_however_large_the_figure_looks(old):
    few = replace(old, emotions={"joy": 2, "anger": 3}, sentiments={"2": 2, "-2": 3})
    check = drift.compare(old, few, CONFIG)[0]
    assert check.value > check.threshold and check.p > drift.ALPHA and not check.drifted


def test_the_activity_distance_is_scipys_on_the_users(old):
    reviews, labels = tables(2)
    part = reviews.index[reviews["item"] != "i0"]
    new = drift.describe(reviews.loc[part], labels.loc[part])
    expected = ks_2samp([10] * 200, reviews.loc[part].groupby("user").size(), method="asymp")
    found = next(c for c in drift.compare(old, new, CONFIG) if c.name.startswith("reviews per user"))
    assert (found.value, found.p) == (expected.statistic, expected.pvalue) and found.drifted


def test_the_report(old, tmp_path):
    new = drift.describe(*tables(1, positive=0.4, items=60))
    output = drift.report(old, new, CONFIG, "3", tmp_path)
    values = read_json(tmp_path / "drift.json")
    assert values["champion"] == "3" and sum(c["drifted"] for c in values["checks"]) == output.metrics["drifted"] == 3
    assert output.rows == {"reviews": 2000, "users": 200, "items": 60}
    said = drift.sentence(values)
    assert said.count(";") == 2 and said.startswith("emotions, Jensen-Shannon distance: 0.2")
    text = (tmp_path / "drift.md").read_text()
    assert text.count("**yes**") == 3 and "| reviews | 2,000 | 2,000 |" in text
    assert (tmp_path / "drift.png").read_bytes().startswith(b"\x89PNG")
