"""All models: one interface, padding costs and changes nothing, no look into the future, and what is written loads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_sequences import make_sequences

from sealr.config import from_dict
from sealr.retrieve.models import MODELS, bert4rec, build
from sealr.retrieve.models.base import Dropout, Packed
from sealr.retrieve.models.bert4rec import BERT4Rec, draw_masks
from sealr.retrieve.retriever import Retriever, popularity
from sealr.retrieve.train import SAMPLING_LOSSES, NextItem, load, train
from sealr.settings import RetrieveConfig

NEURAL = ["gru4rec", "caser", "sasrec", "bert4rec", "bsarec"]
CAUSAL = [name for name in NEURAL if name != "bert4rec"]
CLOSED = ["popularity", "cooccurrence", "ease", "transition"]
PARTS = ({"model": "sasrec", "max_len": 6}, {"model": "ease"}, {"model": "popularity"})
SEQUENCES = make_sequences(
    [np.random.default_rng(user).integers(1, 21, 3 + user % 6).tolist() for user in range(60)], 20
)


def configured(name: str, **changes: object) -> RetrieveConfig:
    return RetrieveConfig(model=name, parts=PARTS if name == "fusion" else (), hidden=16, heads=2, max_len=8, **changes)


def made(name: str, **changes: object) -> torch.nn.Module:
    """A model in eval mode with fresh, but larger weights, so that hidden states differ; closed forms are fitted."""
    torch.manual_seed(0)
    model = build(configured(name, **changes), 20)
    for module in model.modules():
        if hasattr(module, "fit"):
            module.fit(SEQUENCES)
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)
    if name == "fusion":
        model.weights.copy_(torch.tensor([1.0, 0.5, 0.25]))
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_shapes_and_padding_column(name):
    scores = made(name).score(torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]]))
    assert scores.shape == (2, 21) and scores.dtype == torch.float32
    assert (scores[:, 0] == -torch.inf).all() and torch.isfinite(scores[:, 1:]).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("padded", [[5, 6, 7, 0, 0, 0, 0], [0, 0, 0, 5, 6, 7], [0, 5, 0, 6, 7, 0]])
def test_padding_and_other_rows_do_not_change_scores(name, padded):
    model = made(name)
    among_others = model.score(
        torch.tensor([padded + [0] * (8 - len(padded)), [1, 2, 3, 4, 5, 6, 7, 8], [9, 0, 0, 0, 0, 0, 0, 0]])
    )
    torch.testing.assert_close(among_others[:1], model.score(torch.tensor([[5, 6, 7]])), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_rows_without_items(name):
    model = made(name)
    assert torch.isfinite(model.score(torch.zeros(2, 3, dtype=torch.int64))[:, 1:]).all()
    beside = model.score(torch.tensor([[0, 0, 0], [1, 2, 3]]))
    torch.testing.assert_close(beside[1:], model.score(torch.tensor([[1, 2, 3]])), rtol=1e-4, atol=1e-5)
    if name in NEURAL:
        assert (beside[0, 1:] == 0).all()


@pytest.mark.parametrize("name", [*NEURAL, "cooccurrence"])
def test_order_matters(name):
    scores = made(name).score(torch.tensor([[1, 2, 3], [2, 1, 3]]))
    assert not torch.allclose(scores[0], scores[1])


@pytest.mark.parametrize("name", NEURAL)
def test_padding_row_of_the_embedding_is_never_used(name):
    model = made(name)
    rows = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6]])
    before = model.score(rows)
    model.items.ids.weight.data[0] = torch.nan
    torch.testing.assert_close(model.score(rows)[:, 1:], before[:, 1:])


@pytest.mark.parametrize("name", CAUSAL)
def test_causal(name):
    model = made(name)
    one, other = model(Packed(torch.tensor([[1, 2, 3, 4]]))), model(Packed(torch.tensor([[1, 2, 3, 9]])))
    torch.testing.assert_close(one[:3], other[:3])
    assert not torch.allclose(one[3], other[3])


@pytest.mark.parametrize("name", CAUSAL)
def test_a_position_in_training_is_a_prefix_in_serving(name):
    """What is learned at a position is what is used when the row ends there; for BSARec in its first layer only."""
    model = made(name, layers=1)
    rows = torch.tensor([[5, 6, 7, 8, 9], [1, 2, 3, 0, 0]])
    hidden, targets = model.training_pairs(rows, torch.tensor([[6, 7, 8, 9, 10], [2, 3, 4, 0, 0]]))
    assert targets.tolist() == [2, 3, 4, 6, 7, 8, 9, 10]  # rows by length
    for row, items in ((0, [1]), (2, [1, 2, 3]), (3, [5]), (5, [5, 6, 7]), (7, [5, 6, 7, 8, 9])):
        torch.testing.assert_close(hidden[row], model.encode_last(torch.tensor([items]))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NEURAL)
def test_too_long_a_row(name):
    model = made(name)
    assert model.score(torch.arange(1, 9)[None]).shape == (1, 21)
    with pytest.raises(ValueError, match="9 items, the model reads 8"):
        model.score(torch.arange(1, 10)[None])


@pytest.mark.parametrize("name", NEURAL)
def test_gradients_reach_every_parameter(name):
    model = build(configured(name, content="reviews", sentiment="class"), 20, torch.randn(21, 6)).train()
    hidden, targets = model.training_pairs(
        torch.tensor([[5, 6, 7, 8], [1, 2, 3, 0]]), torch.tensor([[6, 7, 8, 9], [2, 3, 4, 0]])
    )
    (hidden * model.item_weights()[targets]).sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NEURAL)
def test_content_is_read_on_both_sides(name):
    content = torch.randn(21, 6, generator=torch.Generator().manual_seed(1))
    model = made_with_content(name, content)
    rows = torch.tensor([[1, 2, 3]])
    before = model.score(rows)[0, 1:]
    model.items.content[3] += 1  # an item of the row: all scores move
    moved = (model.score(rows)[0, 1:] - before).abs()
    assert (moved > 1e-6).all()
    model.items.content[3] -= 1
    model.items.content[9] += 1  # not of the row: its own score alone
    moved = (model.score(rows)[0, 1:] - before).abs() > 1e-4
    assert moved.nonzero().flatten().tolist() == [8]


def made_with_content(name, content):
    torch.manual_seed(0)
    model = build(configured(name, content="reviews"), 20, content.clone()).eval()
    torch.nn.init.normal_(model.items.project.weight)
    return model


def test_the_table_is_made_once_for_the_same_weights():
    """Every way to change a weight must be seen: a step, a copy into it, other content, another tensor."""
    model = made_with_content("sasrec", torch.randn(21, 6)).items

    def current():
        return (model.ids.weight + model.content @ model.project.weight.T).detach()

    with torch.inference_mode():
        assert model.table() is model.table()
    assert model.table().requires_grad and not torch.is_inference(model.table())

    def step():
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.1, fused=True)
        model.table().square().sum().backward()
        optimizer.step()
        model.eval()

    def copy():
        with torch.no_grad():
            model.project.weight.copy_(torch.randn(16, 6))

    changes = [
        step,
        copy,
        lambda: model.content[3:5].zero_(),
        lambda: model.load_state_dict({name: t + 1 for name, t in model.state_dict().items()}),
        lambda: setattr(model, "content", torch.randn(21, 6)),
        lambda: model.double().float(),
    ]
    for change in changes:
        change()
        with torch.inference_mode():
            torch.testing.assert_close(model.table(), current())


@pytest.mark.parametrize("content", ["none", "reviews"])
@pytest.mark.parametrize("loss", ["sampled", "bce"])
def test_sampling_losses_read_the_rows_of_the_table(content, loss):
    torch.manual_seed(0)
    config = configured("sasrec", content=content, loss=loss, n_negatives=50, dropout=0.0)
    model = build(config, 20, torch.randn(21, 6)).eval()
    task = NextItem(Retriever(config, SEQUENCES.items, model, popularity(SEQUENCES)), SEQUENCES, None)
    batch = next(iter(task.training))
    torch.manual_seed(1)
    value, weight = task.loss(batch, batch, 0)
    hidden, targets = model.training_pairs(*batch)
    torch.manual_seed(1)
    table = model.item_weights()[1:]
    expected = SAMPLING_LOSSES[loss](hidden, table.__getitem__, 20, targets - 1, 50)
    torch.testing.assert_close(value, expected)
    assert weight == len(targets)


def test_content_of_another_catalogue():
    for content in (None, torch.zeros(20, 6)):
        with pytest.raises(ValueError, match="21 rows"):
            build(configured("sasrec", content="reviews"), 20, content)


@pytest.mark.parametrize("name", NEURAL)
def test_feelings_of_past_items_count_where_configured(name):
    rows = torch.tensor([[1, 2, 3, 0]])
    good = torch.tensor([[[2, 1.5], [0, 0.1], [1, 0.7], [-2, -2]]])  # the last one is of padding
    bad, unknown = good.clone(), torch.full_like(good, torch.nan)
    bad[0, 1] = torch.tensor([-2, -1.8])
    deaf, model = made(name), made(name, sentiment="class")
    torch.testing.assert_close(deaf.score(rows, good), deaf.score(rows, bad))
    assert not torch.allclose(model.score(rows, good), model.score(rows, bad))
    torch.testing.assert_close(model.score(rows, unknown), model.score(rows))
    good[0, 3] = 0
    torch.testing.assert_close(
        model.score(rows, good)[:, 1:], model.score(rows[:, :3], good[:, :3])[:, 1:], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", MODELS)
def test_similarity(name):
    values = made(name).similarity(4, torch.tensor([4, 9, 11])).detach()
    assert values.shape == (3,) and torch.isfinite(values).all()
    if name != "popularity":
        assert values[0] == pytest.approx(1) and (values[1:] < 1).all()


@pytest.mark.parametrize("name", NEURAL)
def test_a_cycle_is_learned_and_the_model_loads(name, cycle, quick, tmp_path):
    losses = []
    config = replace(quick, model=name, epochs=40)
    if name == "bert4rec":  # the cloze task takes more steps, and more even ones
        config = replace(
            config, hidden=32, heads=2, dropout=0.0, lr=5e-3, batch_size=20, epochs=90, patience=90, schedule="cosine"
        )
    output = train(config, cycle, tmp_path, lambda epoch, metrics: losses.append(metrics["train_loss"]))
    assert losses[-1] < 0.6 * losses[0]
    assert output.metrics["valid_ndcg@10"] > 0.95
    retriever = load(tmp_path)
    assert type(retriever.model) is MODELS[name]
    scores = retriever.score([["item3", "item4", "item5"], ["item11", "item12"], [6, 7, 8]])
    assert scores.argmax(axis=1).tolist() == [6, 1, 9]
    np.testing.assert_array_equal(load(tmp_path).score([[6, 7, 8]]), retriever.score([[6, 7, 8]]))


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_form_is_trained_by_the_same_call(name, cycle, quick, tmp_path):
    output = train(replace(quick, model=name), cycle, tmp_path)
    retriever = load(tmp_path)
    mine = build(retriever.config, cycle.n_items)
    mine.fit(cycle)
    np.testing.assert_array_equal(retriever.score([[1, 2]]), mine.score(torch.tensor([[1, 2]])).numpy())
    assert 0 < output.metrics["valid_ndcg@10"] <= output.metrics["valid_hr@10"] <= 1
    assert not (tmp_path / "history.json").exists()


def test_registry():
    assert set(MODELS) == {*NEURAL, *CLOSED, "fusion"}
    assert all(from_dict(RetrieveConfig, {"model": name}).model == name for name in MODELS)
    with pytest.raises(ValueError, match="heads=3"):
        build(replace(configured("sasrec"), heads=3), 5)


# --- BERT4Rec's masks ---


def test_masks_at_least_one_a_row_and_the_share():
    packed = Packed(torch.ones(2000, 10, dtype=torch.int64))
    torch.manual_seed(0)
    masked = draw_masks(packed, 2000, 0.2, 0.0).view(2000, 10)
    assert masked.any(1).all()
    assert masked.float().mean() == pytest.approx(0.2 + 0.8**10 / 10, abs=0.01)  # one more where none was drawn
    alone = draw_masks(packed, 2000, 0.2, 1.0).view(2000, 10)
    assert alone[:, -1].all() and not alone[:, :-1].any()
    short = Packed(torch.tensor([[3, 0], [0, 4]]))  # of a row with one item, that one
    assert draw_masks(short, 2, 0.01, 0.0).tolist() == [True, True]


def test_masked_items_and_their_feelings_are_not_seen():
    model: BERT4Rec = made("bert4rec", sentiment="class")
    rows, masked = torch.tensor([[1, 2, 3, 4]]), torch.tensor([False, True, False, True])
    felt = torch.zeros(1, 4, 2)
    hidden = model.encode_masked(Packed(rows), masked, felt)
    assert hidden.shape == (2, 16)
    felt[0, 1] = felt[0, 3] = 2
    torch.testing.assert_close(model.encode_masked(Packed(torch.tensor([[1, 9, 3, 11]])), masked, felt), hidden)
    assert not torch.allclose(
        model.encode_masked(Packed(torch.tensor([[1, 2, 5, 4]])), masked, felt)[0], hidden[0]
    )  # the future
    assert not torch.allclose(hidden[0], hidden[1])


def test_cloze_pairs_are_of_the_full_row(monkeypatch):
    monkeypatch.setattr(bert4rec, "MASK_SHARE", 0.999)
    model = made("bert4rec")
    torch.manual_seed(4)
    targets = [
        model.training_pairs(torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]]), torch.tensor([[6, 7, 8, 9, 10, 11, 12, 13]]))[
            1
        ]
        for _ in range(9)
    ]
    assert max(targets, key=len).tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 13]  # max_len + 1 places
    assert min(targets, key=len).tolist() in ([13], [5, 6, 7, 8, 9, 10, 11, 12, 13])


def test_dropout_share_scale_and_eval():
    torch.manual_seed(0)
    dropout, x = Dropout(0.25), torch.ones(1000, 101)
    dropped = dropout(x)
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean() == pytest.approx(1, abs=0.01) and dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    torch.testing.assert_close(dropout.eval()(x), x)
