"""Each try of `benchmarks/single_model.py` trains, is kept, and changes what it says it changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import single_model as module
from sealr.data.sequences import Sequences
from sealr.retrieve.taught import Teacher
from sealr.retrieve.train import train
from sealr.settings import RetrieveConfig


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 12, size=30)
    flat, offsets = rng.integers(1, 21, size=lengths.sum()), np.concatenate(([0], np.cumsum(lengths)))
    return Sequences([f"u{u}" for u in range(30)], [f"item{i}" for i in range(1, 21)], flat, offsets)


@pytest.fixture
def teacher(sequences, tmp_path):
    train(RetrieveConfig(model="transition"), sequences, tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.mark.parametrize("name", module.TRIES)
def test_a_try_gives_a_rank_for_each_user_and_is_not_trained_twice(name, sequences, tmp_path, teacher, monkeypatch):
    monkeypatch.setattr(module, "PLAIN", replace(module.PLAIN, hidden=8, epochs=2, eval_every=1, batch_size=8))
    monkeypatch.setitem(module.TRIES, name, ({**module.TRIES[name][0], "hidden": 8}, *module.TRIES[name][1:]))
    lessons, folder = [], tmp_path / "kept"
    folder.mkdir()
    lesson = Teacher.lesson
    monkeypatch.setattr(Teacher, "lesson", lambda self, *given: lessons.append(1) or lesson(self, *given))
    ranks, seconds = module.attempt(name, sequences, folder, 0, teacher)
    assert len(ranks) == len(sequences.split("valid"))
    assert (ranks >= 0).all() and (ranks <= 20).all() and seconds > 0
    assert [path.suffix for path in folder.iterdir()] == [".npz"] and bool(lessons) == name.endswith("taught")
    monkeypatch.setattr(module, "Trainer", None)
    assert module.attempt(name, sequences, folder, 0, teacher)[0].tolist() == ranks.tolist()


def test_rows_are_turned_round_without_their_padding():
    batch = torch.tensor([[1, 2, 3, 0], [5, 0, 0, 0]]), torch.tensor([[2, 3, 4, 0], [6, 0, 0, 0]]), None
    ((inputs, targets, _),) = module.Backwards([batch], 1.0)
    assert inputs.tolist() == [[4, 3, 2, 0], [6, 0, 0, 0]]
    assert targets.tolist() == [[3, 2, 1, 0], [5, 0, 0, 0]]
    ((inputs, targets, _),) = module.Backwards([batch], 0.0)
    assert torch.equal(inputs, batch[0]) and torch.equal(targets, batch[1])


def test_contrast_is_low_where_readings_agree_and_leaves_out_rows_with_the_same_target():
    one = torch.eye(2)
    agreed = module.contrast(one, one, torch.tensor([1, 2])).item()
    assert agreed == pytest.approx(np.log(1 + np.exp(-10)), rel=1e-3)  # logits 10 and 0
    assert module.contrast(one, one.flip(0), torch.tensor([1, 2])).item() == pytest.approx(10, abs=1e-3)
    assert module.contrast(one, one.flip(0), torch.tensor([1, 1])).item() == 0  # no negative is left


def test_another_user_of_the_same_target_is_drawn(sequences):
    retriever = module.Retriever(
        replace(module.PLAIN, hidden=8),
        sequences.items,
        module.SASRec(20, replace(module.PLAIN, hidden=8)),
        np.ones(21),
    )
    task = module.SameTarget(retriever, sequences, None)
    for item in range(1, 21):
        spans = task.spans[task.bounds[item] : task.bounds[item + 1]]
        assert (task.training.flat[spans[:, 1]] == item).all()
    assert len(task.spans) == task.training.positions


def test_windows_predict_each_training_item_but_the_first_once(sequences):
    config = replace(module.PLAIN, hidden=8, max_len=3)
    retriever = module.Retriever(config, sequences.items, module.SASRec(20, config), np.ones(21))
    training = module.Windows(retriever, sequences, None).training
    assert (training.ends - training.starts).max() == 4
    part = sequences.split("train")
    targets = sorted(i for s, e in zip(training.starts, training.ends, strict=True) for i in range(s + 1, e))
    assert targets == [i for s, e in zip(part.starts, part.ends, strict=True) for i in range(s + 1, e)]
    assert training.positions == len(targets)
