"""Fusion: weights found on validation, parts that do not help left out, and the sum a retriever like any other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_sequences import make_sequences

from sealr.config import ConfigError
from sealr.evaluate.crossfit import best, held_out_gain
from sealr.evaluate.metrics import ndcg
from sealr.retrieve import candidates as blocks
from sealr.retrieve import fusion as module
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.fusion import WEIGHTS, choose_weights, fuse, shortlist, tune_weights
from sealr.retrieve.models import build
from sealr.retrieve.models.fusion import newest, part_configs, standardise, standardise_items
from sealr.retrieve.retriever import Retriever, popularity
from sealr.retrieve.train import load, train
from sealr.settings import RetrieveConfig


@pytest.fixture
def sequences():
    """300 users in ten groups; each takes the items of its group in random order."""
    rng = np.random.default_rng(0)
    return make_sequences([(user % 10 * 6 + 1 + rng.permutation(6)).tolist() for user in range(300)], 60)


class Fixed(torch.nn.Module):
    """A part that gives each row the scores of its first item; noise where it is not known better."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def score(self, rows, feelings=None):
        scores = self.table[rows[:, 0]].clone()
        scores[:, 0] = -torch.inf
        return scores


def fixed(sequences, table, model="ease"):
    return Retriever(RetrieveConfig(model=model), sequences.items, Fixed(table), popularity(sequences))


def noise(seed):
    return torch.randn(61, 61, generator=torch.Generator().manual_seed(seed))


def helpful(sequences):
    """1 where an item is of the group of the row's first item."""
    group = (torch.arange(61) - 1) // 6
    return (group[:, None] == group).float()


def test_a_part_that_helps_gets_weight_and_noise_gets_next_to_none(sequences):
    parts = [fixed(sequences, noise(0)), fixed(sequences, noise(1)), fixed(sequences, helpful(sequences))]
    weights = tune_weights(parts, sequences, True)
    assert weights[0] == 1.0 and weights[2] == max(WEIGHTS) and weights[1] <= weights[2] / 4
    assert tune_weights([parts[2], parts[0]], sequences, True)[1] <= 0.3


def test_neural_parts_begin_alike_and_closed_forms_at_nothing(sequences, monkeypatch):
    """Where all weights are equally good the lowest is taken, so without a pass the beginning is seen."""
    monkeypatch.setattr(module, "PASSES", 0)
    parts = [fixed(sequences, noise(seed), model) for seed, model in enumerate(("ease", "sasrec", "ease", "gru4rec"))]
    assert tune_weights(parts, sequences, True) == [1.0, 1.0, 0.0, 1.0]


def test_a_pass_takes_the_best_weight_if_its_gain_is_clear_on_others(sequences):
    parts = [fixed(sequences, helpful(sequences) + noise(seed), "sasrec") for seed in range(3)]
    near = shortlist(parts, sequences, True)
    tried = near.try_weights([1.0, 1.0, 1.0], 2).T
    wanted = WEIGHTS[best(tried)]
    assert wanted != 1.0 and held_out_gain(tried, WEIGHTS.index(1.0))[1] <= 0  # better by luck
    assert choose_weights(near, ["sasrec"] * 3) == [1.0, 1.0, 1.0]
    assert near.try_weights([1.0, 1.0, 0.0], 2).T[0].mean() < tried[WEIGHTS.index(1.0)].mean()
    closed = choose_weights(near, ["sasrec", "ease", "ease"])  # from 0 each gain is clear
    tried = near.try_weights([1.0, 0.0, 0.0], 1).T
    assert closed[1] > 0 and held_out_gain(tried, 0)[1] > 0


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_weights_are_tried_as_over_the_whole_catalogue(sequences, exclude_seen, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 61 * 70)  # several blocks, the last one short
    monkeypatch.setattr(module, "DEPTH", 40)
    parts = [
        fixed(sequences, noise(0)),
        fixed(sequences, helpful(sequences) + 0.5 * noise(3)),
        fixed(sequences, noise(2)),
    ]
    values = shortlist(parts, sequences, exclude_seen).try_weights([1.0, 0.7, 0.0], 2)
    valid = sequences.split("valid")
    for column, weight in enumerate(WEIGHTS):
        for user in (0, 1, 77, 299):
            history = valid.history(user)
            each = [part.score([history])[0, 1:].astype(np.float64) for part in parts]
            total = sum(w * (s - s.mean()) / s.std() for w, s in zip((1.0, 0.7, weight), each, strict=True))
            if exclude_seen:
                total[history - 1] = -np.inf
            rank = 1 + (total > total[valid.targets[user] - 1]).sum()
            assert values[user, column] == pytest.approx(ndcg(np.array([rank]), 10)[0])


def test_many_users_are_sampled(sequences, monkeypatch):
    parts = [fixed(sequences, noise(0)), fixed(sequences, helpful(sequences))]
    everybody = shortlist(parts, sequences, True).try_weights([1.0, 1.0], 1)
    monkeypatch.setattr(module, "USERS", 50)
    some = shortlist(parts, sequences, True).try_weights([1.0, 1.0], 1)
    assert len(everybody) == 300 and len(some) == 50
    drawn = np.sort(np.random.default_rng(0).permutation(300)[:50])
    np.testing.assert_array_equal(some, everybody[drawn])


@pytest.fixture
def config(quick):
    parts = (
        {"model": "ease", "ease": {"l2": 20}, "max_len": 4},
        {"model": "sasrec", "content": "reviews"},
        {"model": "popularity"},
    )
    return replace(quick, model="fusion", parts=parts, epochs=2, exclude_seen=True)


@pytest.fixture
def fused(config, sequences, tmp_path):
    content = torch.randn(61, 6)
    for number, part in enumerate(part_configs(config)):
        train(part, sequences, tmp_path / str(number), content=content)
    parts = [load(tmp_path / str(number)) for number in range(3)]
    return fuse(config, parts, sequences, tmp_path / "fused"), parts, tmp_path / "fused"


def test_the_sum_is_a_retriever(fused, sequences, config):
    output, parts, folder = fused
    retriever = load(folder)
    weights = retriever.model.weights.tolist()
    assert weights[0] == 1
    assert [output.metrics[f"weight_{n}_{p.config.model}"] for n, p in enumerate(parts)] == pytest.approx(weights)
    histories = [[1, 2, 3, 4, 5, 6], [9, 8], []]
    each = [part.score(histories[:2])[:, 1:] for part in parts]
    z = [(s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True) for s in each]
    retriever.model.weights.copy_(torch.tensor([1.0, 0.5, 0.25]))
    scores = retriever.score(histories)
    np.testing.assert_allclose(scores[:2, 1:], z[0] + 0.5 * z[1] + 0.25 * z[2], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(scores[2], popularity(sequences))
    assert (scores[:, 0] == -np.inf).all()
    np.testing.assert_array_equal(retriever.similarity(2, [2, 3, 9]), parts[0].similarity(2, [2, 3, 9]))


def test_its_validation_is_that_of_the_saved_model(fused, sequences):
    output, _, folder = fused
    found = ndcg(target_ranks(load(folder), sequences, "valid", True), 10).mean()
    assert output.metrics["valid_ndcg@10"] == pytest.approx(found)


def test_known_weights_are_taken_over_without_validation(fused, sequences, config, tmp_path):
    _, parts, folder = fused
    everything, chosen = sequences.with_whole(sequences.users), [1.0, 0.75, 0.1]
    output = fuse(config, parts, everything, tmp_path / "refit", weights=chosen)
    again = load(tmp_path / "refit")
    assert again.model.weights.tolist() == pytest.approx(chosen) and "valid_ndcg@10" not in output.metrics
    # ease and popularity are counted; sasrec keeps the best of two epochs, of which the last alone is validated
    assert again.epochs == load(folder).epochs == (0, 2, 0)


def test_parts_of_another_configuration_are_refused(fused, sequences, config, tmp_path):
    _, parts, _ = fused
    other = replace(config, lr=0.5)
    with pytest.raises(ValueError, match=r"part 0 \(ease\) was not trained"):
        fuse(other, parts, sequences, tmp_path / "x")


def test_part_configs():
    config = RetrieveConfig(
        model="fusion", hidden=32, parts=({"model": "sasrec", "dropout": 0.2}, {"model": "ease", "ease": {"l2": 300}})
    )
    sasrec, ease = part_configs(config)
    assert sasrec == RetrieveConfig(model="sasrec", hidden=32, dropout=0.2)
    assert ease.ease.l2 == 300 and ease.bsarec == config.bsarec and ease.parts == ()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), r"a fusion needs parts"),
        (
            ({"model": "sasrec", "droput": 0.1},),
            r"retrieve\.parts\[0\]: unknown setting retrieve\.droput; did you mean retrieve\.dropout\?",
        ),
        (
            ({"model": "ease"}, {"model": "ease", "ease": {"l3": 1}}),
            r"retrieve\.parts\[1\]: unknown setting retrieve\.ease\.l3",
        ),
        (
            ({"model": "ease", "ease": {"l2": -1}},),
            r"retrieve\.parts\[0\]: retrieve\.ease\.l2 must be more than 0, not -1",
        ),
        (({"model": "nn"},), r"retrieve\.parts\[0\]: retrieve\.model"),
        (({"dropout": 0.1},), r"needs a model other than fusion"),
        (({"model": "fusion"},), r"needs a model other than fusion"),
        (({"model": "sasrec", "max_len": 80},), r"max_len: 80 is more than retrieve.max_len, which is 50"),
        (
            ({"model": "sasrec", "sentiment": "class"}, {"model": "caser", "sentiment": "shuffled"}),
            r"must read the same",
        ),
        (({"model": "sasrec", "sentiment": "shuffled", "seed": 1},), r"must read the same"),
        (({"model": "sasrec", "tuning_users": "whole"}, {"model": "ease"}), r"learn from the same users"),
    ],
)
def test_mistakes_in_parts(parts, message):
    with pytest.raises(ConfigError, match=message):
        part_configs(RetrieveConfig(model="fusion", parts=parts))


def test_parts_may_read_feelings_or_not():
    parts = ({"model": "sasrec", "sentiment": "shuffled"}, {"model": "caser", "seed": 1})
    assert [part.sentiment for part in part_configs(RetrieveConfig(model="fusion", parts=parts))] == [
        "shuffled",
        "none",
    ]


def test_a_fusion_without_weights_is_its_first_part():
    config = RetrieveConfig(model="fusion", hidden=8, parts=({"model": "sasrec"}, {"model": "caser"}))
    model = build(config, 20).eval()
    rows = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(model.score(rows)[:, 1:], standardise(model.parts[0].score(rows)[:, 1:]))


def test_newest():
    rows = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [0, 7, 0, 8]])
    assert newest(rows, 2).tolist() == [[0, 0, 3, 4], [5, 6, 0, 0], [0, 7, 0, 8]]
    assert newest(rows, 1).tolist() == [[0, 0, 0, 4], [0, 6, 0, 0], [0, 0, 0, 8]]


def test_standardise_leaves_out_padding_and_equal_scores():
    z = standardise_items(torch.tensor([[-torch.inf, 1.0, 2.0, 3.0], [-torch.inf, 0.1, 0.1, 0.1]]))
    torch.testing.assert_close(z, torch.tensor([[0, -(1.5**0.5), 0, 1.5**0.5], [0, 0, 0, 0]]))
    assert standardise(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
