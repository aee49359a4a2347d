"""Leaving one word out finds the words that carry a feeling."""

import numpy as np
import pytest

from sealr.data.tables import EMOTIONS
from sealr.emotion.labeller import Labeller
from sealr.explore import markup, words
from sealr.explore.words import read_text
from sealr.settings import LabelConfig


class OneWord:
    """A labeller for which "bad" is anger (-2), and everything else joy (+2); no word is no text."""

    def __init__(self):
        self.config, self.calls = LabelConfig(), 0

    def clean(self, texts):
        known = [t for t in texts if t]
        return np.array([known.index(t) if t else -1 for t in texts]), known

    def predict_texts(self, texts):
        self.calls += 1
        p = np.zeros((len(texts), 28), np.float32)
        for row, text in enumerate(texts):
            p[row, EMOTIONS.index("anger" if "bad" in text.split() else "joy")] = 0.8
        return p


def test_the_loaded_word_has_the_whole_effect_and_one_batch_reads_all():
    labeller = OneWord()
    found = read_text("a  bad <b>day</b>", labeller)
    assert (found.sentiment, found.expected, found.cut) == (-2, -2.0, False)
    assert found.emotions[0] == ("anger", pytest.approx(0.8))
    assert [w.text for w in found.words] == ["a", "bad", "<b>day</b>"]
    assert [w.sentiment for w in found.words] == [0, -4, 0]  # without it the text is +2
    assert [w.emotion for w in found.words] == [0, pytest.approx(0.8), 0]
    assert labeller.calls == 1


def test_a_text_of_one_word_is_compared_with_no_feeling():
    (word,) = read_text("bad", OneWord()).words
    assert word.sentiment == -2 and word.emotion == pytest.approx(0.8)


def test_a_text_with_nothing_to_read_has_no_feeling():
    class Nothing(OneWord):
        def clean(self, texts):
            return np.full(len(texts), -2), []

    assert read_text("grüezi", Nothing()) is None


def test_long_texts_are_cut(monkeypatch):
    monkeypatch.setattr(words, "WORDS", 3)
    found = read_text("one two three bad", OneWord())
    assert found.cut and len(found.words) == 3 and found.emotions[0][0] == "joy"


def test_words_are_escaped_and_coloured_by_what_they_do():
    html = markup.feeling(read_text("a bad <script>x</script>", OneWord()))
    assert "<script>" not in html and "&lt;script&gt;x&lt;/script&gt;" in html
    assert f"rgba({markup.RED}, 0.55)" in html and f"rgba({markup.BLUE}, 0.55)" not in html


@pytest.mark.slow
def test_the_embedded_labeller_is_moved_most_by_the_loaded_word():
    labeller = Labeller.from_config(LabelConfig("embedded"))
    love = read_text("The parcel came on Monday and I love this little guitar strap", labeller)
    hate = read_text("The parcel came on Monday and I hate this little guitar strap", labeller)
    assert love.sentiment == 2 and hate.sentiment == -2
    assert max(love.words, key=lambda w: w.sentiment).text == "love"
    assert min(hate.words, key=lambda w: w.sentiment).text == "hate"
