"""The feelings of one text, and the words that carry them: each word is left out in turn, the rest is read again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sealr.data.tables import EMOTIONS
from sealr.emotion.label import label_texts
from sealr.emotion.labeller import Labeller

WORDS = 80  # read of a text: the labeller reads the text once more for each
EMOTIONS_SHOWN = 3


@dataclass(frozen=True)
class Word:
    """One word, as it was written.

    sentiment: by how much it raises the expected sentiment (-2..2) of the text. emotion: by how much it raises the
    probability of the text's first emotion.
    """

    text: str
    sentiment: float
    emotion: float


@dataclass(frozen=True)
class Feeling:
    """What the labeller finds in a text.

    sentiment: the class, -2..2, of the most probable emotion. expected: the mean class. emotions: the most probable
    ones with their probabilities. cut: whether the text has more words than were read.
    """

    sentiment: int
    expected: float
    emotions: list[tuple[str, float]]
    words: list[Word]
    cut: bool


def read_text(text: str, labeller: Labeller) -> Feeling | None:
    """Labels a text, and the same text without each of its words, in one batch; None where it has no feeling to find.

    Only the first WORDS words are read, by all of these readings.
    """
    everything = text.split()
    words = everything[:WORDS]
    rest = [" ".join(words[:place] + words[place + 1 :]) for place in range(len(words))]
    whole, *others = label_texts([" ".join(words), *rest], labeller)
    if whole["emotion"] is None:
        return None
    first = EMOTIONS.index(whole["emotion"])
    left = [  # a text of which nothing is left has no feeling
        (0.0, 0.0) if o["expected"] is None else (o["expected"], float(o["probabilities"][first])) for o in others
    ]
    found = [
        Word(word, float(whole["expected"]) - expected, float(whole["probabilities"][first]) - p)
        for word, (expected, p) in zip(words, left, strict=True)
    ]
    top = np.argsort(-whole["probabilities"], kind="stable")[:EMOTIONS_SHOWN]
    emotions = [(EMOTIONS[i], float(whole["probabilities"][i])) for i in top]
    return Feeling(int(whole["sentiment"]), float(whole["expected"]), emotions, found, len(everything) > WORDS)
