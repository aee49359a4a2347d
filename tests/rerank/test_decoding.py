import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sealr.rerank.generative.decoding import generate_lists
from sealr.rerank.generative.prompts import IdTokens
from sealr.rerank.llm import add_lora
from sealr.rerank.scoring.model import build
from sealr.settings import LoraSettings, RerankConfig


@pytest.fixture(scope="module")
def llm(toy_llama):
    return AutoModelForCausalLM.from_pretrained(toy_llama).eval(), AutoTokenizer.from_pretrained(toy_llama)


def naive_list(model, ids, prompt, pool, top_k):
    """The same greedy decoding without batch, padding or cache."""
    tokens, written, unused = list(prompt), [], {i: ids.of(i) for i in pool}
    while len(written) < min(top_k, len(pool)):
        prefix = []
        while True:
            n = len(prefix)
            allowed = {t[n] for t in unused.values() if len(t) > n and t[:n] == prefix}
            done = [i for i, t in unused.items() if t == prefix]
            options = sorted(allowed | ({ids.separator} if done else set()))
            logits = model(torch.tensor([tokens])).logits[0, -1]
            logits[ids.separator] = torch.logaddexp(logits[ids.separator], logits[ids.end])  # over is over
            token = max(options, key=lambda t: logits[t].item())
            tokens.append(token)
            if token == ids.separator:
                written.append(done[0])
                del unused[done[0]]
                break
            prefix.append(token)
    return written


def test_batched_cached_lists_equal_naive_decoding(llm):
    model, tokenizer = llm
    ids = IdTokens(tokenizer)
    prompts = [
        tokenizer.encode(t)
        for t in ("Candidates: 1,12,123,2 ", "a much longer prompt than the first one: 7,77,8 ", "x ")
    ]
    pools = [[1, 12, 123, 2, 21, 3], [7, 77, 8, 78, 787], [5]]  # ids that are prefixes of each other, and a pool of one
    lists = generate_lists(model, ids, prompts, pools, top_k=4, pad=tokenizer.pad_token_id)
    with torch.inference_mode():
        assert lists == [naive_list(model, ids, p, pool, 4) for p, pool in zip(prompts, pools, strict=False)]


@pytest.mark.parametrize("answers", ["lists", "scores"])
def test_the_cache_is_given_without_a_warning(llm, toy_llama, answers):
    """transformers 5.24 renamed the argument, and warns those who use the old name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        if answers == "lists":
            generate_lists(llm[0], IdTokens(llm[1]), [[5, 6]], [[1, 2, 3]], 2, llm[1].pad_token_id)
        else:
            config = RerankConfig("scoring", base=str(toy_llama), lora=LoraSettings(r=4))
            model = build(config, add_lora(config), "things", torch.randn(4, 8), None).eval()
            model.last(torch.tensor([[1, 2]]))


def test_an_item_that_another_one_begins_with_ends_where_the_model_would_end_the_list(llm):
    """As after a training answer's last item: end of sequence .9, one more digit .05, the separator .001."""
    ids = IdTokens(llm[1])
    digit = ids.of(3)[0]

    class Sure(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, **rest):
            logits = torch.full((len(input_ids), 1, len(llm[1])), -30.0)
            for token, chance in (
                (ids.end, 0.9),
                (digit, 0.05),
                (ids.separator, 0.001),
                (ids.of(1)[0], 0.01),
                (ids.of(2)[0], 0.01),
            ):
                logits[..., token] = math.log(chance)
            return SimpleNamespace(logits=logits)

    assert generate_lists(Sure(), ids, [[1]], [[123, 12, 4]], 1, llm[1].pad_token_id) == [[12]]


def test_lists_hold_only_candidates_and_none_twice(llm):
    model, tokenizer = llm
    ids = IdTokens(tokenizer)
    pool = list(range(90, 130))
    (items,) = generate_lists(model, ids, [tokenizer.encode("anything")], [pool], top_k=10, pad=tokenizer.pad_token_id)
    assert len(items) == len(set(items)) == 10 and set(items) <= set(pool)


def test_pool_smaller_than_top_k_is_ranked_whole(llm):
    model, tokenizer = llm
    (items,) = generate_lists(
        model, IdTokens(tokenizer), [tokenizer.encode("x")], [[4, 8, 15]], top_k=10, pad=tokenizer.pad_token_id
    )
    assert sorted(items) == [4, 8, 15]
