"""The instruction template of the paper (Figure 3) and encoded item ids (Section 2.3).

An item's encoded id is its catalogue index in digits, such as ``"17"``; lists are comma-separated. Constrained decoding
needs an id to have the same tokens everywhere, so `IdTokens` checks that digits and commas are tokens of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from sealr.emotion.sentiment import CLASS_NAMES
from sealr.rerank.requests import RerankInput

TEMPLATE = (
    "Instruction: Recommend ten {category} from the candidate list based on user's interaction history and sentiment "
    "label from the reviews.\n\nInput:\nInteraction history: {history}\nSentiment label: {sentiments}\n"
    "Candidate list: {candidates}\n\nOutput:\nRecommend Products: "
)
TEMPLATE_WITHOUT_SENTIMENT = (
    "Instruction: Recommend ten {category} from the candidate list based on user's interaction history.\n\n"
    "Input:\nInteraction history: {history}\nCandidate list: {candidates}\n\nOutput:\nRecommend Products: "
)


def prompt(request: RerankInput, order: Sequence[int], category: str, max_history: int, use_sentiment: bool) -> str:
    """Figure 3 filled in. order: the pool in the order in which the prompt lists it.

    A review without a label is written as "Neutral".
    """
    history, feelings = request.newest(max_history)
    fields = {"category": category, "history": ",".join(map(str, history)), "candidates": ",".join(map(str, order))}
    if not use_sentiment:
        return TEMPLATE_WITHOUT_SENTIMENT.format(**fields)
    classes = np.nan_to_num(feelings[:, 0]).astype(int)
    return TEMPLATE.format(sentiments=",".join(CLASS_NAMES[c] for c in classes), **fields)


class ListTokens(Protocol):
    """How a list is tokenized: each item's tokens, then a separator that no item contains; ``end`` comes last."""

    separator: int
    end: int

    def of(self, item: int) -> list[int]:
        """Tokens of one item, without the separator."""
        ...


def answer_tokens(tokens: ListTokens, answer: Sequence[int]) -> list[int]:
    """Tokens of a training answer: items, separators between them, end of sequence."""
    written: list[int] = []
    for item in answer:
        written += [*tokens.of(item), tokens.separator]
    return [*written[:-1], tokens.end]


class IdTokens:
    """Tokens of encoded item ids under one tokenizer.

    Raises ValueError when the tokenizer does not split numbers into digits (GPT-2's does not, LLaMA's does).
    """

    def __init__(self, tokenizer: Any):
        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        lead = encode(",")  # SentencePiece puts a space marker before the first character of a text
        self.digits = [encode("," + digit)[len(lead) :] for digit in "0123456789"]
        between = encode("1,2")
        self.separator = between[-2] if len(between) > 2 else -1
        self.end = tokenizer.eos_token_id
        probe = encode(",90,1234567805")[len(lead) :]
        if any(len(d) != 1 for d in self.digits) or probe != [*self.of(90), self.separator, *self.of(1234567805)]:
            name = getattr(tokenizer, "name_or_path", "this model")
            raise ValueError(
                f"the tokenizer of {name} does not split numbers digit by digit, which encoded item ids need: "
                "use a LLaMA-family model as rerank.base"
            )

    def of(self, item: int) -> list[int]:
        """Tokens of one encoded id, without the separator."""
        return [self.digits[int(digit)][0] for digit in str(item)]
