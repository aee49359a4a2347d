import numpy as np
import pandas as pd
import pytest

from sealr.satisfaction.reasons import item_feelings
from sealr.serving.reasons import others_felt
from tests.satisfaction.worlds import sequences_of


def test_says_what_training_reviews_felt():
    sequences = sequences_of([1, 2, 1, 1], [1, 2, 3, 3], [1, 3, 2, 2], [2, 1])  # the last user is only in training
    felt = [
        ("joy", 2), ("fear", -2), ("anger", -2), ("anger", -2),  # fmt: skip
        ("admiration", 2), (None, 0), ("love", 2), ("love", 2),
        ("joy", 2), ("neutral", 0), ("anger", -2), ("anger", -2),
        ("disappointment", -1), ("disappointment", -1),
    ]  # fmt: skip
    labels = pd.DataFrame(felt, columns=["emotion", "sentiment"])
    labels["user"] = np.repeat(sequences.users, sequences.lengths)
    labels["position"] = np.concatenate([np.arange(n) for n in sequences.lengths])
    labels["expected"] = labels["sentiment"].astype("float32").where(labels["emotion"].notna())
    stars = np.arange(14, dtype=np.float32)
    found = item_feelings(labels, sequences, stars).set_index("item")
    assert list(found.index) == ["i0001", "i0002", "i0003"]
    first = found.loc["i0001"]  # joy, admiration, joy, and disappointment of the short user
    assert (first["reviews"], first["emotion"], first["but_emotion"]) == (4, "joy", "disappointment")
    assert first["share"] == 0.5 and first["but_share"] == 0.25
    assert first["mean_stars"] == pytest.approx((0 + 4 + 8 + 13) / 4)
    second = found.loc["i0002"]  # fear and disappointment, once each; the review without a label does not count
    assert second["reviews"] == 2 and second["emotion"] is None and second["share"] == 0
    assert second["but_emotion"] == "disappointment" and second["but_share"] == 0.5
    assert found.loc["i0003", "emotion"] is None and found.loc["i0003", "but_emotion"] is None
    assert item_feelings(labels, sequences)["mean_stars"].isna().all()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            (38, 4.2, 0.71, "admiration", 0.13, "disappointment"),
            "others in 38 reviews (4.2 stars): 71% admiration, 13% disappointment",
        ),
        ((1, np.nan, 0.0, None, 1.0, "anger"), "others in 1 review: 100% anger"),
        ((9, 3.0, 0.01, "joy", 0.0, None), "others in 9 reviews (3.0 stars): no strong feelings"),
    ],
)
def test_what_others_felt_in_words(values, said):
    names = ("reviews", "mean_stars", "share", "emotion", "but_share", "but_emotion")
    frame = pd.DataFrame([{"item": "i1", **dict(zip(names, values, strict=True))}])
    assert others_felt(frame, {"i1": 7}) == {7: said}
