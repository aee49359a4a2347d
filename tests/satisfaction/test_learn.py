"""Learning the forecast from the tables of a job: what is held out of it, and what a refit holds out."""

from sealr.data.sequences import build
from sealr.satisfaction.learn import REPORT, Forecast, learn
from sealr.settings import SatisfactionConfig
from tests.serving.toy_model import toy_tables


def test_a_refit_learns_from_everybodys_newest_reviews(tmp_path):
    """Item i99 is everybody's newest one, and nobody likes it."""
    reviews, labels = toy_tables()
    newest = reviews["position"] == 5
    reviews.loc[newest, ["item", "rating"]] = ["i99", 1.0]
    labels.loc[newest, ["emotion", "sentiment", "expected"]] = ["anger", -2, -1.6]
    item = build(reviews).item_ids()["i99"]
    found = {}
    for whole in (False, True):
        folder = tmp_path / str(whole)
        folder.mkdir()
        learned = learn(reviews, labels, SatisfactionConfig(), None, folder, whole=whole)
        model = Forecast.load(folder).model
        found[whole] = (learned.rows["reviews"], float(model.table[item, 0]), (folder / REPORT).read_text())
    held_out, whole = found[False], found[True]
    assert held_out[0] == 24 * 4 and whole[0] == 24 * 6
    assert whole[1] < -0.5 < held_out[1]
    assert "too few" in held_out[2] and "too few" not in whole[2]
