"""Models without training: equal to their definitions, worked out by hand or naively."""

import tracemalloc

import numpy as np
import pytest
import torch
from toy_sequences import make_sequences

from sealr.retrieve.models import build, cooccurrence, neighbours
from sealr.retrieve.models.neighbours import training_matrix
from sealr.retrieve.models.transition import positions
from sealr.settings import CooccurrenceSettings, EASESettings, RetrieveConfig, TransitionSettings

DAMPING = cooccurrence.DAMPING


@pytest.fixture
def sequences():
    """Training histories 1 2 3, 1 2 1, 4 1 and 3: the last two items of long rows are for validation and test."""
    return make_sequences([[1, 2, 3, 4, 5], [1, 2, 1, 5, 5], [4, 1], [3, 5, 5]], 5)


def fitted(name, sequences, **settings):
    model = build(RetrieveConfig(model=name, **settings), sequences.n_items)
    model.fit(sequences)
    return model


def test_training_matrix(sequences):
    expected = [[0, 1, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0]]
    assert training_matrix(sequences).toarray().tolist() == expected


def test_popularity(sequences):
    model = fitted("popularity", sequences)
    assert model.score(torch.tensor([[1, 0], [2, 3]])).tolist() == [[-np.inf, 4, 2, 2, 1, 0]] * 2
    assert model.similarity(1, torch.tensor([1, 2])).tolist() == [0, 0]


def weight(pairs, first, second):
    return pairs / np.sqrt((first + DAMPING) * (second + DAMPING))


def test_cooccurrence_by_hand(sequences):
    model = fitted("cooccurrence", sequences, cooccurrence=CooccurrenceSettings(decay=0.5))
    # users with item 1: 3, item 2: 2, item 3: 2, item 4: 1; pairs 1-2: 2, 1-3: 1, 1-4: 1, 2-3: 1
    w12, w13, w14, w23 = weight(2, 3, 2), weight(1, 3, 2), weight(1, 3, 1), weight(1, 2, 2)
    scores = model.score(torch.tensor([[1, 0, 0], [3, 2, 0], [2, 0, 3], [1, 2, 1]]))
    expected = [
        [0, w12, w13, w14, 0],
        [w12 + w13 / 2, w23 / 2, w23, 0, 0],
        [w12 / 2 + w13, w23, w23 / 2, 0, 0],
        [w12 / 2, w12, w13 + w23 / 2, w14, 0],  # item 1 counts once, as the newest; item 2 has one item after it
    ]
    torch.testing.assert_close(scores[:, 1:], torch.tensor(expected, dtype=torch.float32))
    similar = model.similarity(1, torch.tensor([1, 2, 4, 5]))
    assert similar.tolist() == pytest.approx([1, w12, w14, 0])


def test_cooccurrence_keeps_the_heaviest(sequences, monkeypatch):
    monkeypatch.setattr(neighbours, "NEIGHBOURS", 2)
    model = fitted("cooccurrence", sequences)
    assert model.indices.tolist() == [[0, 0], [2, 4], [1, 3], [2, 1], [1, 0], [0, 0]]  # 2-3 is heavier than 3-1
    assert model.weights[5].tolist() == [0, 0]


@pytest.fixture
def many():
    rng = np.random.default_rng(0)
    return make_sequences([rng.integers(1, 31, size=rng.integers(3, 12)).tolist() for _ in range(80)], 30)


def naive_ease(sequences, l2):
    x = training_matrix(sequences).toarray()[:, 1:].astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def test_ease_equals_the_closed_form(many, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 30 * 7)  # several blocks, the last one short
    model, weights = fitted("ease", many, ease=EASESettings(l2=20.0)), naive_ease(many, 20.0)
    scores = model.score(torch.tensor([[3, 9, 0, 4], [7, 7, 0, 0]]))
    np.testing.assert_allclose(scores[0, 1:], weights[[2, 8, 3]].sum(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scores[1, 1:], weights[6], rtol=1e-4, atol=1e-6)


def test_ease_keeps_the_largest_magnitudes(many, monkeypatch):
    monkeypatch.setattr(neighbours, "NEIGHBOURS", 5)
    model, weights = fitted("ease", many, ease=EASESettings(l2=20.0)), naive_ease(many, 20.0)
    assert model.indices.shape == model.weights.shape == (31, 5) and model.indices.dtype == torch.int32
    for item in range(1, 31):
        row = weights[item - 1]
        best = np.argsort(-np.abs(row))[:5]
        assert set(model.indices[item].tolist()) == set((best + 1).tolist())
        np.testing.assert_allclose(model.weights[item], row[model.indices[item] - 1], rtol=1e-3, atol=1e-6)
    assert (model.weights < 0).any()


@pytest.mark.parametrize("name", ["ease", "transition"])
def test_a_catalogue_that_does_not_fit_is_refused(name, many, monkeypatch):
    monkeypatch.setattr(neighbours, "MAX_ITEMS", 29)
    with pytest.raises(ValueError, match=f"{name} inverts .* 30 items are too many; use cooccurrence"):
        fitted(name, many)


def test_positions_by_hand():
    """Training histories 1 2 1 3 and 2 4: the newest occurrence of a repeated item counts."""
    sequences = make_sequences([[1, 2, 1, 3, 9, 9], [2, 4]], 9)
    before, after = positions(sequences, decay=0.5, max_len=2)
    assert before.toarray()[:, :4].tolist() == [[1, 0, 0, 0], [0.5, 1, 0, 0], [1, 0.5, 0, 0], [0, 1, 0, 0]]
    assert after.toarray().argmax(1).tolist() == [1, 0, 2, 3] and after.sum() == 4
    assert positions(sequences, decay=0.5, max_len=1)[0].toarray()[1, :2].tolist() == [0, 1]


def test_positions_count_what_scoring_counts():
    """In the history 2 1 1, one item that counts is newer than 2."""
    sequences = make_sequences([[2, 1, 1, 3, 9, 9]], 9)
    before = positions(sequences, decay=0.5, max_len=3)[0].toarray()
    assert before[:, :3].tolist() == [[0, 1, 0], [1, 0.5, 0], [1, 0.5, 0]]
    model = fitted("cooccurrence", sequences, cooccurrence=CooccurrenceSettings(decay=0.5))
    single = model.score(torch.tensor([[1], [2]]))
    both = model.score(torch.tensor([[2, 1, 1]]))[0, 1:]
    torch.testing.assert_close(both, before[-1, 0] * single[0, 1:] + before[-1, 1] * single[1, 1:])


def test_positions_of_users_without_training_items():
    """In a split by time, the second user comes after the moment up to which is learned."""
    sequences = make_sequences([list(range(1, 19)), [4, 5, 6], [7, 8, 9]], 18)
    timed = sequences.with_times(np.array([*range(18), 17, 18, 19, 15, 16, 17]))
    assert [len(history) for history in timed.split("train").histories()] == [17, 0, 2]
    before, after = positions(timed, decay=0.5, max_len=2)
    assert before.shape == after.shape == (17, 18)
    assert after.toarray().argmax(1).tolist() == [*range(1, 17), 7] and before.toarray()[-1].argmax() == 6


def test_positions_of_a_long_history_take_the_memory_of_the_window():
    sequences = make_sequences([np.random.default_rng(0).integers(1, 500, 3000).tolist()], 499)
    tracemalloc.start()
    positions(sequences, decay=0.5, max_len=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000  # all pairs of its items would take more than 100 MB


def test_transition_has_the_least_squared_error(many):
    settings = TransitionSettings(decay=0.6, l2=4.0)
    model = fitted("transition", many, transition=settings)
    before, after = (m.toarray().astype(np.float64) for m in positions(many, 0.6, 50))
    weights = np.linalg.solve(before.T @ before + 4 * np.eye(30), before.T @ after)
    scores = model.score(torch.tensor([[3, 9, 4], [7, 7, 0]]))
    np.testing.assert_allclose(scores[0, 1:], weights[3] + 0.6 * weights[8] + 0.36 * weights[2], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(scores[1, 1:], weights[6], rtol=1e-3, atol=1e-5)


def test_transition_learns_the_order():
    """Everybody takes 1 2 3: 2 follows 1, never the other way round."""
    settings = TransitionSettings(l2=1.0)
    model = fitted("transition", make_sequences([[1, 2, 3, 4, 4]] * 20, 4), transition=settings)
    one, two = model.score(torch.tensor([[1], [2]]))
    assert one[2] > 0.3 and abs(two[1]) < 1e-6 and two.argmax() == 3
