"""Cleans review texts for a labeller, and names emoji where a text has no words in Latin letters.

GoEmotions' annotators judged the words: naming emoji beside English words costs macro-F1 (docs/labelling.md). Without
such words, emoji are all that an English labeller can read, and to MiniLM they are all the same unknown token.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

import emoji

VERSION = f"2, emoji {emoji.__version__}"  # raise the number when cleaned texts change: labels are computed again
# CLDR names describe the picture. These are the ones that English readers read as another word
MEANINGS: dict[str, str] = {
    **dict.fromkeys("❤🧡💛💚💙💜🤎🖤🤍🩷🩵🩶💕💖💗💓💞💘💝❣♥", "love"),
    "👍": "good", "👎": "bad", "👌": "perfect", "💯": "perfect", "👏": "bravo", "🔥": "awesome", "🎉": "hooray",
    "🙏": "thank you", "🤮": "disgusting", "🤬": "angry", "😒": "annoyed", "🙄": "annoyed", "💩": "crap",
}  # fmt: skip
EMOTICONS = {
    re.compile(r"[:;=]['’]?[-o^]?\)+|\(+[-o^]?[:=]"): " smiling face ",
    re.compile(r"[:=]['’]?[-o^]?\(+|\)+[-o^]?[:=]"): " frowning face ",
    re.compile(r"<3+"): " love ",
}
LATIN = re.compile("[A-Za-z]")
TONE = re.compile(r"[\U0001f3fb-\U0001f3ff]")  # of skin: no part of a feeling


def clean(text: str | None, limit: int) -> str:
    """The first ``limit`` characters with entities resolved and white space collapsed; "" if none is readable.

    Without a Latin letter among them, emoji and emoticons are replaced by words.
    """
    if not isinstance(text, str):
        return ""
    text = html.unescape(text.strip()[: 4 * limit])
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())[:limit]  # lone surrogates become "?"
    if LATIN.search(text):
        return text
    # separators and control, format or unassigned characters are not readable; letters, digits, signs and emoji are
    if not any(unicodedata.category(c)[0] not in "ZC" for c in text):
        return ""
    return name_emoji(text)[:limit]


def has_letters(text: str) -> bool:
    return any(c.isalpha() for c in text)


def name_emoji(text: str) -> str:
    """Emoji and emoticons as words: "😡" becomes "enraged face"."""
    for pattern, words in EMOTICONS.items():
        text = pattern.sub(words, text)
    return " ".join(emoji.replace_emoji(TONE.sub("", text), _words).split())


def _words(sign: str, names: dict[str, Any]) -> str:
    if sign[0] < "\u2300":  # signs such as ©, ™, arrows and numbered keys are emoji to Unicode
        return sign
    return f" {MEANINGS.get(sign[0]) or names['en'].strip(':').replace('_', ' ')} "
