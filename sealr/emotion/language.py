"""Languages of the reviews, for the label report: labellers learn from English texts only."""

from __future__ import annotations

import functools
import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sealr.emotion.cleaning import has_letters

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SAMPLE = 2_000  # distinct texts that are looked at
CHARACTERS = 300  # read of each
CONFIDENCE = 0.5  # the least probability of a language; GoEmotions' short texts above it are all found to be English
REPORTED = 3  # languages
ENOUGH = 0.9  # English share below which the labels need a warning
UNCLEAR = "unclear"
PREFIX = "share.language."
NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese",
    "nl": "Dutch", "pl": "Polish", "sv": "Swedish", "tr": "Turkish", "ru": "Russian", "uk": "Ukrainian",
    "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "ar": "Arabic", "hi": "Hindi",
}  # fmt: skip
NO_WORDS = re.compile(r"<[^>]*>|\S*(?:://|www\.)\S*|[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]")  # tags, links, emoji


def language_shares(texts: Iterable[str | None], seed: int = 0) -> dict[str, float]:
    """Metrics: the shares of the most frequent languages in a random sample of distinct texts, and the sample's size.

    A text whose most probable language is not sure enough, as in most texts of one or two words, is unclear. Texts
    without letters are left out; an empty dictionary means that there are no others.
    """
    distinct = pd.Series(texts, dtype=object).dropna().unique()
    if len(distinct) > SAMPLE:
        distinct = distinct[np.sort(np.random.default_rng(seed).choice(len(distinct), SAMPLE, replace=False))]
    cleaned = [NO_WORDS.sub(" ", html.unescape(t.strip()[: 4 * CHARACTERS]))[:CHARACTERS] for t in distinct]
    cleaned = [t for t in cleaned if has_letters(t)]
    if not cleaned:
        return {}
    found = Counter(_identifier().classify(t.encode("utf-8", "replace"))[0] for t in cleaned)
    unclear = found.pop("und", 0)
    shares = {f"{PREFIX}{name}": count / len(cleaned) for name, count in found.most_common(REPORTED)}
    more = {f"{PREFIX}{UNCLEAR}": unclear / len(cleaned), "language.texts": float(len(cleaned))}
    return {f"{PREFIX}en": found["en"] / len(cleaned)} | shares | more


@functools.cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # of the extra "train": serving detects nothing

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=CONFIDENCE)


def language_report(metrics: Mapping[str, float]) -> tuple[str, bool]:
    """A sentence from `language_shares`, and whether it is a warning: too few clear texts are English."""
    if "language.texts" not in metrics:
        return "The language of the texts is not known.", False
    shares = {k.removeprefix(PREFIX): v for k, v in metrics.items() if k.startswith(PREFIX)}
    unclear, english = shares.pop(UNCLEAR), shares["en"]
    order = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [f"{share:.1%} are {NAMES.get(name, name)}" for name, share in order]
    parts.append(f"{unclear:.1%} are too short or too mixed to tell")
    sentence = f"Of {metrics['language.texts']:,.0f} sampled texts, {', '.join(parts)}"
    if english < ENOUGH * (1 - unclear):
        return f"{sentence}: the labeller learned English, labels of the rest mean little.", True
    return f"{sentence}.", False
