"""Text towers of the study benchmarks/studies/llm-reader.md, on a tiny random LLM."""

import pandas as pd
import pytest
import torch
import transformers

from benchmarks import text_towers as towers

TEXTS = ["good strings", "a fine cable for my amplifier, it works", "broken", "strings again", "cable", "a stand"]


@pytest.fixture
def shape(toy_llama):
    return towers.Shape(str(toy_llama), 2, ("q_proj", "v_proj", "down_proj"))


@pytest.fixture
def data():
    """Twelve users who take a, b and then c (or d), so that the last training item follows from the one before."""
    rows = []
    for user in range(12):
        for position, item in enumerate("abcxy" if user % 2 else "efgxy"):
            text = f"{item} is {TEXTS[position]}"
            rows.append({"user": f"u{user:02}", "item": item, "position": position, "text": text})
    return towers.Data(pd.DataFrame(rows))


def test_pairs_are_sliding_windows_over_the_training_items(data):
    a, b, c = (data.sequences.item_ids()[item] for item in "abc")
    of_user_1 = [(h.tolist(), int(t)) for h, t in zip(data.history[2:4], data.target[2:4], strict=True)]
    assert of_user_1 == [([a, 0, 0, 0, 0], b), ([b, a, 0, 0, 0], c)]
    assert len(data.texts) == 36 and data.texts[data.own[2]] == "b is a fine cable for my amplifier, it works"


def test_a_text_has_the_states_of_the_whole_model_whatever_its_batch(shape):
    states, mask = towers.lower_states(shape, TEXTS)
    reader = towers.Reader(shape, upper=True)
    together = towers.pooled(reader, states, mask)
    alone = torch.cat([towers.pooled(reader, states[i : i + 1], mask[i : i + 1]) for i in range(len(TEXTS))])
    torch.testing.assert_close(together, alone, rtol=0, atol=0.05)  # bfloat16
    model = transformers.AutoModel.from_pretrained(shape.base, dtype=torch.bfloat16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(shape.base)
    with torch.no_grad():
        whole = model(tokenizer(TEXTS[1], return_tensors="pt").input_ids).last_hidden_state.float().mean(1)[0]
    torch.testing.assert_close(together[1], whole, rtol=0, atol=0.05)


def test_the_targets_vector_leaves_out_the_users_own_review(data):
    torch.manual_seed(0)
    bank, row = torch.randn(len(data.item), 300), torch.tensor([3])
    model = towers.Towers(data.means(bank)[data.count > 0]).eval()

    def loss_with(own):
        changed = bank.clone()
        changed[data.own[row]] = own
        users = model.users(model.catalogue(data, bank), data.history[row])
        others = data.item.eq(data.target[row]).nonzero()[:, 0]
        others = others[others != data.own[row]]
        expected = users @ model.items(changed[others].mean(0, keepdim=True)).T
        logits = users @ model.catalogue(data, changed).T
        logits[0, data.target[row]] = expected[0]
        return towers.cross_entropy(logits, data.history[row], data.target[row]), changed

    for own in (bank[data.own[row]], torch.randn(300)):
        expected, changed = loss_with(own)
        torch.testing.assert_close(towers.catalogue_loss(data, model, changed, row), expected)


def test_training_lowers_the_loss_and_finds_the_next_item(data, monkeypatch):
    monkeypatch.setattr(towers, "HEAD_STEPS", 40)
    torch.manual_seed(0)
    bank, everything = torch.randn(9, 300)[data.item], torch.arange(len(data.target))
    fresh = towers.Towers(data.means(bank)[data.count > 0]).eval()
    trained = towers.train_towers(data, bank, seed=0)
    before, after = (float(towers.catalogue_loss(data, model, bank, everything)) for model in (fresh, trained))
    assert after < before - 0.5
    scores = towers.answers(data, trained, bank)["valid"]
    assert scores.shape == (12, data.sequences.n_items + 1) and (scores[:, 0] == 0).all()


@pytest.mark.slow
def test_tuning_changes_the_states_and_nothing_else_does(data, shape, monkeypatch):
    monkeypatch.setattr(towers, "WARM", 2)
    monkeypatch.setattr(towers, "ITEMS", 4)
    states, mask = towers.lower_states(shape, data.texts)
    frozen = towers.pooled(towers.Reader(shape, upper=True), states, mask)
    untouched, tuned = (towers.tuned_states(data, shape, states, mask, steps, seed=0) for steps in (0, 6))
    torch.testing.assert_close(untouched, frozen)
    assert not torch.allclose(tuned, frozen) and torch.isfinite(tuned).all()
    torch.testing.assert_close(tuned, towers.tuned_states(data, shape, states, mask, 6, seed=0))
