import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sealr.data.tables import write_json
from sealr.rerank.generative.decoding import generate_lists
from sealr.rerank.generative.finetune import finetune
from sealr.rerank.generative.palr import NameEncoder, NameTokens, Preferences, item_names
from sealr.rerank.generative.prompts import answer_tokens
from sealr.rerank.rankers import load_encoder, load_ranker
from sealr.rerank.requests import RerankInput
from sealr.settings import LoraSettings, RerankConfig
from tests.rerank.test_decoding import naive_list


def table(rows):
    """Items table of (item, title, brand, categories)."""
    return pd.DataFrame(rows, columns=["item", "title", "brand", "categories"])


ITEMS = table([(f"i{n:02}", ("red soap", "blue soap", "soap")[n % 3] + f" no {n // 3}", None, None) for n in range(30)])


@pytest.fixture
def config(toy_llama):
    return RerankConfig(
        base=str(toy_llama), ranker="palr", lora=LoraSettings(r=8), lr=1e-2, epochs=2, top_k=4, decode_batch=3
    )


def requests(n):
    return [
        RerankInput([3, 4, 10 + i % 5], np.zeros((3, 2)), [7, 11, 12, 13, 20 + i % 9], answer=[7, 11]) for i in range(n)
    ]


def test_a_name_is_the_title_else_brand_and_categories_else_the_id():
    rows = [
        ("b", "Red\n soap", "X", "Y"),
        ("a", None, "Acme", "Soaps"),
        ("c", None, None, "Soaps"),
        ("d", None, None, None),
    ]
    items = table(rows)
    assert item_names(items) == ["", "Acme, Soaps", "Red soap", "Soaps", "d"]


def test_equal_names_are_told_apart_in_the_order_of_ids():
    titles = {"c": "soap", "a": "soap", "b": "soap (2)", "d": "so\u200bap"}
    items = table([(item, title, None, None) for item, title in titles.items()])
    assert item_names(items) == ["", "soap", "soap (2)", "soap (3)", "so ap"]
    long = item_names(table([("a", "word " * 40 + "one", None, None), ("b", "word " * 40 + "two", None, None)]))
    assert len(long[1]) <= 60 and long[1].endswith("word") and long[2] == long[1] + " (2)"


def test_name_tokens_are_those_of_the_written_list(toy_llama):
    tokenizer = AutoTokenizer.from_pretrained(toy_llama)
    names = ["", "Acme, soap", "été 12", "x"]
    tokens = NameTokens(tokenizer, names)
    written = tokenizer.encode("\nAcme, soap\nété 12", add_special_tokens=False)
    assert answer_tokens(tokens, [1, 2]) == [*written[1:], tokenizer.eos_token_id] and tokens.separator == written[0]


def test_lists_of_names_equal_naive_decoding_and_hold_only_candidates(toy_llama):
    """Among the candidates one name is the beginning of another."""
    tokenizer = AutoTokenizer.from_pretrained(toy_llama)
    model = AutoModelForCausalLM.from_pretrained(toy_llama).eval()
    tokens = NameTokens(tokenizer, ["", "soap", "soap (2)", "soap bar", "cream", "s"])
    prompts = [tokenizer.encode(t) for t in ("short\n", "a much longer prompt than the first\n")]
    pools = [[1, 2, 3, 4, 5], [2, 1, 5]]
    lists = generate_lists(model, tokens, prompts, pools, top_k=4, pad=tokenizer.pad_token_id)
    with torch.inference_mode():
        assert lists == [naive_list(model, tokens, p, pool, 4) for p, pool in zip(prompts, pools, strict=True)]
    assert all(
        len(set(items)) == len(items) and set(items) <= set(pool) for items, pool in zip(lists, pools, strict=True)
    )


def test_the_prompt_has_preference_history_and_every_candidate(config):
    tokenizer = AutoTokenizer.from_pretrained(config.base)
    names = item_names(ITEMS)
    encoder = NameEncoder(tokenizer, replace(config, max_history=2), "soaps", ITEMS)
    request = requests(1)[0]
    with pytest.raises(KeyError):
        encoder.prompt(request)  # no preference was written
    encoder.preferences.texts[next(iter(_keys(encoder.preferences, request)))] = "They like soap."
    text = tokenizer.decode(encoder.prompt(request), skip_special_tokens=True)
    assert "User preference: They like soap.\n" in text and text.endswith("Recommend Products:\n")
    assert f"Interaction history:\n{names[4]}\n{names[10]}\nCandidate list:\n" in text and names[3] not in text
    assert all(f"\n{names[i]}\n" in text for i in request.pool)


def _keys(preferences, request):
    from sealr.data.manifest import text_digest

    return [text_digest(preferences._question(request))]


def test_preferences_are_written_once_and_kept_on_disk(config, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(config.base)
    loads = []

    def load():
        loads.append(1)
        return AutoModelForCausalLM.from_pretrained(config.base).eval()

    def preferences(**changes):
        return Preferences(tokenizer, replace(config, **changes), "soaps", item_names(ITEMS), tmp_path)

    first = preferences()
    first.write(requests(8), load)  # five different histories, in batches of three
    texts = [first.of(r) for r in requests(8)]
    assert len(loads) == 1 and len(list(tmp_path.glob("*/*.json"))) == 2 and len(first.texts) == 5
    again = preferences()
    again.write(requests(8), load)
    assert len(loads) == 1 and [again.of(r) for r in requests(8)] == texts
    assert all("\n" not in text for text in texts)
    preferences(layers=1).write(requests(1), load)  # another model
    assert len(loads) == 2


def test_a_killed_run_goes_on_after_the_last_batch_with_the_same_texts(config, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(config.base)
    model = AutoModelForCausalLM.from_pretrained(config.base).eval()
    histories = [RerankInput([i, i + 1], np.zeros((2, 2)), [7, 8]) for i in range(1, 8)]
    whole = Preferences(tokenizer, config, "soaps", item_names(ITEMS), tmp_path / "a")
    whole.write(histories, lambda: model)
    killed = Preferences(tokenizer, config, "soaps", item_names(ITEMS), tmp_path / "b")
    killed.write(histories[:3], lambda: model)  # one whole batch
    resumed = Preferences(tokenizer, config, "soaps", item_names(ITEMS), tmp_path / "b")
    resumed.write(histories, lambda: model)
    assert resumed.texts == whole.texts


def test_of_two_texts_for_one_user_the_first_one_written_counts(config, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(config.base)
    given = Preferences(tokenizer, config, "soaps", item_names(ITEMS), tmp_path)
    for name, text, seconds in (("b.json", "first", 1), ("a.json", "second", 2)):
        write_json({"a question": text}, given.folder / name)
        os.utime(given.folder / name, (seconds, seconds))
    assert Preferences(tokenizer, config, "soaps", item_names(ITEMS), tmp_path).texts == {"a question": "first"}


@pytest.mark.slow
def test_finetuning_on_names_learns_and_the_ranker_gives_valid_lists(config, tmp_path):
    losses = []
    longer = replace(config, epochs=4)

    def note(epoch, scores):
        losses.append(scores["valid_loss"])

    encoder = load_encoder(config, "soaps", ITEMS, tmp_path)
    output = finetune(requests(24), requests(6), longer, encoder, tmp_path, note)
    assert losses[-1] < losses[0] * 0.8 and output.rows["train_users"] == 24
    ranker = load_ranker(config, "soaps", tmp_path / "adapter", ITEMS, tmp_path)
    scored = ranker.score(requests(5))
    assert all(s.validity == 1 and sorted(s.values)[-4:] == [1, 2, 3, 4] for s in scored)
    assert sum(s.values[0] == 4 for s in scored) >= 4  # the item that always is the answer
    assert [s.values.tolist() for s in ranker.score(requests(5))] == [s.values.tolist() for s in scored]


@pytest.mark.parametrize("ranker", ["palr", "generative"])
def test_the_papers_evaluation_history_ends_before_the_second_to_last_item(ranker, config, tmp_path, monkeypatch):
    """Lists are those of a whole history that ends there; training prompts end there anyway."""
    config = replace(config, ranker=ranker)
    encoder = load_encoder(config, "soap", ITEMS)
    finetune(requests(4), requests(2), replace(config, epochs=1), encoder, tmp_path)
    paper = load_ranker(replace(config, eval_history="paper"), "soap", tmp_path / "adapter", ITEMS)
    whole = load_ranker(config, "soap", tmp_path / "adapter", ITEMS)
    seen = []
    monkeypatch.setattr(type(paper), "_lists", lambda self, given: seen.append([r.history for r in given]) or [])
    asked = requests(2)
    paper.score(asked)
    whole.score(asked)
    assert seen == [[[3, 4], [3, 4]], [[3, 4, 10], [3, 4, 11]]]
    assert np.asarray(asked[0].without_newest().feelings).shape == (2, 2)
    with pytest.raises(ValueError, match="set rerank.ranker=generative or palr"):
        RerankConfig(eval_history="paper")
