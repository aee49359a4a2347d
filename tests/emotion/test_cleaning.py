"""What a labeller reads of a text: emoji get names where there are no Latin letters."""

import emoji
import pytest

from sealr.emotion.cleaning import MEANINGS, clean

NAMED = {
    "😡": "enraged face",
    "😡😡 !!": "enraged face enraged face !!",
    "❤️": "love",
    "\u2764": "love",  # without the variation selector
    "❤️\u200d🔥": "love",
    "👍🏽": "good",
    "👩🏽\u200d💻": "woman technologist",
    "10/10 👌": "10/10 perfect",
    "🇩🇪": "Germany",
    ":-)": "smiling face",
    ":((": "frowning face",
    "&lt;3": "love",
    "Хорошо 👍": "Хорошо good",
}


@pytest.mark.parametrize(("text", "wanted"), NAMED.items())
def test_emoji_without_latin_letters_are_named(text, wanted):
    assert clean(text, 100) == wanted


@pytest.mark.parametrize("text", ["Nice 👍", "so 😡", "x :)", "© 2014", "10 → 12", "3 * 4 = 12™", "(12:30)", "Хорошо"])
def test_other_texts_stay(text):
    assert clean(text, 100) == text


def test_names_do_not_exceed_the_limit():
    assert clean("😡" * 50, 20) == "enraged face enraged"


def test_every_sign_with_a_meaning_is_an_emoji():
    assert all(emoji.is_emoji(sign) or emoji.is_emoji(sign + "\ufe0f") for sign in MEANINGS)
