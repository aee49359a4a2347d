import numpy as np
import pytest

from sealr.data.tables import EMOTIONS
from sealr.emotion.sentiment import CLASS_NAMES, SENTIMENT_MAP, SentimentMapError, sentiment_classes, to_sentiment


def one_hot(**values):
    p = np.zeros((1, 28), np.float32)
    for emotion, value in values.items():
        p[0, EMOTIONS.index(emotion)] = value
    return p


def test_the_map_is_complete():
    assert set(SENTIMENT_MAP) == set(EMOTIONS) and set(SENTIMENT_MAP.values()) == set(CLASS_NAMES)
    classes = sentiment_classes({})
    assert classes.dtype == np.int8 and classes.shape == (28,)
    assert np.bincount(classes + 2).tolist() == [9, 3, 3, 6, 7]


def test_overrides_change_one_emotion():
    changed = sentiment_classes({"curiosity": 0})
    assert changed[EMOTIONS.index("curiosity")] == 0
    assert (changed != sentiment_classes()).sum() == 1


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"hapiness": 1}, "'hapiness'"),
        ({"joy": 3}, "joy must be"),
        ({"joy": 1.5}, "joy must be"),
        ({"joy": True}, "joy must be"),
    ],
)
def test_wrong_overrides_are_named(overrides, part):
    with pytest.raises(SentimentMapError, match=part):
        sentiment_classes(overrides)


def test_argmax_decides_the_class_and_all_decide_the_expectation():
    sentiment, expected = to_sentiment(one_hot(neutral=0.5, love=0.3, joy=0.2))
    assert sentiment.tolist() == [0]
    assert expected[0] == pytest.approx(1.0)
    assert to_sentiment(one_hot(love=0.1, anger=0.1))[1][0] == pytest.approx(0.0)


def test_the_expectation_does_not_depend_on_the_scale():
    assert to_sentiment(one_hot(love=0.9))[1][0] == pytest.approx(to_sentiment(one_hot(love=0.01))[1][0]) == 2.0


def test_a_text_without_label_is_neutral_and_has_no_expectation():
    p = np.concatenate([np.full((1, 28), np.nan, np.float32), one_hot(anger=1.0)])
    sentiment, expected = to_sentiment(p, sentiment_classes({"anger": -1}))
    assert sentiment.tolist() == [0, -1] and np.isnan(expected[0]) and expected[1] == -1
    assert to_sentiment(np.empty((0, 28)))[0].shape == (0,)
