import numpy as np
import pytest
from transformers import AutoTokenizer

from sealr.rerank.generative.prompts import IdTokens, answer_tokens, prompt
from sealr.rerank.requests import RerankInput


def test_prompt_is_figure_3():
    request = RerankInput(history=[4, 17, 9], feelings=[[2, 1.7], [0, 0.1], [-1, -0.9]], pool=[3, 5, 11])
    text = prompt(request, [5, 11, 3], "beauty products", max_history=2, use_sentiment=True)
    assert text == (
        "Instruction: Recommend ten beauty products from the candidate list based on user's interaction history and "
        "sentiment label from the reviews.\n\nInput:\nInteraction history: 17,9\nSentiment label: Neutral,Negative\n"
        "Candidate list: 5,11,3\n\nOutput:\nRecommend Products: "
    )


def test_a_review_without_a_label_is_neutral():
    request = RerankInput([4, 17], np.array([[np.nan, np.nan], [-2, -1.8]]), [3])
    assert "Sentiment label: Neutral,Strong Negative\n" in prompt(request, [3], "toys", 10, use_sentiment=True)


def test_prompt_without_sentiment_has_none():
    text = prompt(RerankInput([4], [[2, 1.9]], [3]), [3], "toys", 10, use_sentiment=False)
    assert "entiment" not in text and "Positive" not in text


def test_id_tokens_are_those_of_the_written_text(toy_llama):
    tokenizer = AutoTokenizer.from_pretrained(toy_llama)
    ids = IdTokens(tokenizer)
    written = tokenizer.encode("120,7,45", add_special_tokens=False)
    assert answer_tokens(ids, [120, 7, 45]) == written + [tokenizer.eos_token_id]


def test_tokenizer_that_merges_digits_is_refused():
    class Merging:
        name_or_path = "merging"
        eos_token_id = 0

        def encode(self, text, add_special_tokens=False):
            import re

            return [hash(piece) for piece in re.findall(r"\d{1,3}|\D", text)]

    with pytest.raises(ValueError, match="merging.*digit by digit"):
        IdTokens(Merging())
