"""Languages in the label report, with the real library."""

import logging

import pandas as pd
import pytest

from sealr.emotion.label import label
from sealr.emotion.labeller import Labeller
from sealr.emotion.language import SAMPLE, language_report, language_shares
from sealr.settings import LabelConfig

ENGLISH = [
    "It works great and arrived on time, I would buy it again.",
    "The strings broke after two days, very disappointing.",
    "My son plays this guitar every day and loves the sound.",
]
GERMAN = [
    "Die Gitarre klingt fantastisch, ich bin sehr zufrieden.",
    "Leider nach zwei Wochen kaputt gegangen, nicht zu empfehlen.",
]
SHORT = ["good", "ok", "Perfecto"]


def test_shares_by_hand():
    texts = [*ENGLISH, *ENGLISH, *GERMAN, *SHORT, "10/10", "👍👍", "", None]
    assert language_shares(texts) == {
        "share.language.en": 3 / 8,  # distinct texts with letters
        "share.language.de": 2 / 8,
        "share.language.unclear": 3 / 8,
        "language.texts": 8,
    }


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Très déçu, la corde a cassé au bout de deux jours.", "fr"),
        ("Excelente producto, llegó a tiempo y suena muy bien.", "es"),
        ("Очень хороший товар, рекомендую всем.", "ru"),
        ("质量非常好，物流也很快，非常满意。", "zh"),
        ("좋아요", "ko"),
        ("यह उत्पाद बहुत अच्छा है, मुझे पसंद आया।", "hi"),
        ("<p>Die Gitarre klingt sehr gut</p> 😍😍 https://example.com/the-best-guitar-in-the-world", "de"),
        ("Die Gitarre klingt f&uuml;r den Preis sehr gut \ud800", "de"),
    ],
)
def test_the_language_of_a_sentence(text, language):
    assert language_shares([text])[f"share.language.{language}"] == 1


def test_the_sample_is_bounded_and_fixed():
    texts = [f"{ENGLISH[i % 3]} Number {i}" for i in range(SAMPLE)] + [f"{GERMAN[0]} Nummer {i}" for i in range(500)]
    shares = language_shares(texts)
    assert shares["language.texts"] == SAMPLE and shares["share.language.de"] == pytest.approx(0.2, abs=0.03)
    assert shares == language_shares(texts) != language_shares(texts, seed=1)


def test_the_report_warns_when_few_clear_texts_are_english():
    sentence, doubtful = language_report(language_shares(ENGLISH + GERMAN))
    assert doubtful and sentence == (
        "Of 5 sampled texts, 60.0% are English, 40.0% are German, 0.0% are too short or too mixed to tell: the "
        "labeller learned English, labels of the rest mean little."
    )
    assert language_report(language_shares(ENGLISH + SHORT)) == (
        "Of 6 sampled texts, 50.0% are English, 50.0% are too short or too mixed to tell.",
        False,
    )
    assert (
        language_report(language_shares(GERMAN))[1]
        and "0.0% are English" in language_report(language_shares(GERMAN))[0]
    )
    assert language_report(language_shares(["", "...", None])) == ("The language of the texts is not known.", False)


@pytest.mark.parametrize(("texts", "level"), [(ENGLISH, logging.INFO), (GERMAN, logging.WARNING)])
def test_the_label_stage_says_it(toy_labeller, tmp_path, caplog, texts, level):
    config = LabelConfig(model=str(toy_labeller))
    frame = pd.DataFrame({"user": "u", "position": range(len(texts)), "text": texts})
    with caplog.at_level(logging.INFO, "sealr"):
        output = label(frame, config, tmp_path, Labeller.from_config(config))
    (record,) = [r for r in caplog.records if "sampled texts" in r.getMessage()]
    assert record.levelno == level
    assert output.metrics["share.language.en"] == (1 if texts is ENGLISH else 0)
