"""The instruction template of the paper (Figure 3) and encoded item ids (Section 2.3).

An item's encoded id is its index in the catalogue, written in digits: ``"17"``. Lists are comma-separated. The code
below checks, for the tokenizer at hand, that digits and commas are tokens of their own, so that the tokens of an id
are the same wherever it stands; constrained decoding relies on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sealr.emotion.sentiment import CLASS_NAMES

TEMPLATE = (
    "Instruction: Recommend ten {category} from the candidate list based on user's interaction history and sentiment "
    "label from the reviews.\n\nInput:\nInteraction history: {history}\nSentiment label: {sentiments}\n"
    "Candidate list: {candidates}\n\nOutput:\nRecommend Products: "
)
TEMPLATE_WITHOUT_SENTIMENT = (
    "Instruction: Recommend ten {category} from the candidate list based on user's interaction history.\n\n"
    "Input:\nInteraction history: {history}\nCandidate list: {candidates}\n\nOutput:\nRecommend Products: "
)


@dataclass(frozen=True)
class RerankInput:
    """One list to re-rank. Items are catalogue indices from 1."""

    history: Sequence[int]  # oldest first
    sentiments: Sequence[int]  # -2..2, aligned with history; a review without a label counts as 0
    pool: Sequence[int]  # candidates in the retriever's order
    pool_scores: Sequence[float] = ()  # the retriever's scores, aligned with pool
    answer: Sequence[int] = ()  # training only: the items to recommend, best first
    expected: Sequence[float] = ()  # expected sentiments aligned with history, NaN without a label; empty: not known


def prompt(request: RerankInput, order: Sequence[int], category: str, max_history: int, use_sentiment: bool) -> str:
    """Figure 3 filled in. order: the pool in the order in which the prompt shows it."""
    history = request.history[-max_history:]
    fields = {"category": category, "history": ",".join(map(str, history)), "candidates": ",".join(map(str, order))}
    if not use_sentiment:
        return TEMPLATE_WITHOUT_SENTIMENT.format(**fields)
    names = ",".join(CLASS_NAMES[s] for s in request.sentiments[-max_history:])
    return TEMPLATE.format(sentiments=names, **fields)


class ListTokens(Protocol):
    """How a list of items is written in tokens: each item's own, then a separator that is in no item's; ``end`` after the last."""

    separator: int
    end: int

    def of(self, item: int) -> list[int]: ...

    def answer(self, items: Sequence[int]) -> list[int]: ...


def written(items: ListTokens, answer: Sequence[int], end: int) -> list[int]:
    """Tokens of a training answer: items, separators between them, end of sequence."""
    tokens: list[int] = []
    for item in answer:
        tokens += [*items.of(item), items.separator]
    return [*tokens[:-1], end]


class IdTokens:
    """Token sequences of encoded item ids under one tokenizer.

    Raises ValueError when the tokenizer does not split numbers into digits (GPT-2's does not, LLaMA's does).
    """

    def __init__(self, tokenizer: Any):
        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        lead = encode(",")  # SentencePiece puts a space marker before the first character of a text
        self.digits = [encode("," + digit)[len(lead) :] for digit in "0123456789"]
        between = encode("1,2")
        self.separator = between[-2] if len(between) > 2 else -1
        probe = encode(",90,1234567805")[len(lead) :]
        if any(len(d) != 1 for d in self.digits) or probe != self.of(90) + [self.separator] + self.of(1234567805):
            raise ValueError(
                f"the tokenizer of {getattr(tokenizer, 'name_or_path', 'this model')} does not write numbers digit by "
                "digit, which encoded item ids need; use a LLaMA-family base model"
            )
        self.end = tokenizer.eos_token_id

    def of(self, item: int) -> list[int]:
        """Tokens of one encoded id, without separator."""
        return [self.digits[int(c)][0] for c in str(item)]

    def answer(self, items: Sequence[int]) -> list[int]:
        """Tokens of a training answer."""
        return written(self, items, self.end)
