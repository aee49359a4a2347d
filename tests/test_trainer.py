"""The trainer: it keeps the best epoch, stops early, averages weights, and an interruption changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from sealr.trainer import EMA, CheckpointError, SingleProcess, Trainer, TrainerOptions

INPUTS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS.sum(1, keepdim=True)
OPTIONS = TrainerOptions(lr=0.03, epochs=6, patience=9)


class Regression:
    """Learns the sum of five numbers, with dropout. interrupt: the call of ``loss`` that a Ctrl-C interrupts."""

    def __init__(self, interrupt: int = 0) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 1))
        self.interrupt, self.steps, self.epochs = interrupt, 0, []

    def batches(self, epoch):
        return np.array_split(np.random.default_rng(epoch).permutation(40), 5)

    def loss(self, shard, batch, epoch):
        self.steps += 1
        if self.steps == self.interrupt:
            raise KeyboardInterrupt
        assert self.model.training
        self.epochs.append(epoch)
        return ((self.model(INPUTS[shard]) - TARGETS[shard]) ** 2).sum() / len(batch), len(batch)

    @torch.no_grad()
    def validate(self):
        assert not self.model.training
        return {"error": ((self.model(INPUTS) - TARGETS) ** 2).mean().item()}

    def judge(self, scores):
        return scores["error"]


def changed(**changes):
    return TrainerOptions(**{**vars(OPTIONS), **changes})


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_best_epoch_is_kept(tmp_path):
    task, seen = Regression(), []
    progress = Trainer(task, OPTIONS, tmp_path / "x.pt").fit(lambda epoch, entry: seen.append((epoch, entry)))
    errors = [entry["error"] for entry in progress.history]
    assert len(errors) == 6 and errors[-1] < 0.5 * errors[0]
    assert progress.best_epoch == 1 + int(np.argmin(errors)) and progress.best_score == min(errors)
    assert task.validate()["error"] == min(errors)
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5, 6] and seen[0][1]["seconds"] > 0
    found = progress.metrics("error")
    assert found["error"] == min(errors) and found["epochs"] == 6 and found["train_seconds"] > 0
    assert task.epochs == [epoch for epoch in range(6) for _ in range(5)]


def test_patience_counts_validations(tmp_path):
    class Worse(Regression):
        def judge(self, scores):
            return self.steps  # lower is better: the first validation is the best one

    progress = Trainer(Worse(), changed(epochs=20, patience=2, eval_every=3), tmp_path / "x.pt").fit()
    assert progress.best_epoch == 3 and len(progress.history) == 9
    assert [entry["epoch"] for entry in progress.history if "error" in entry] == [3, 6, 9]


def test_the_last_epoch_is_validated(tmp_path):
    progress = Trainer(Regression(), changed(epochs=2, eval_every=3), tmp_path / "x.pt").fit()
    assert "error" not in progress.history[0] and "error" in progress.history[1] and progress.best_epoch == 2


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}, {"checkpoint_steps": 3, "ema_decay": 0.9}])
def test_without_validation_it_ends_where_validation_would_have_stopped(changes, tmp_path):
    class Third(Regression):
        def judge(self, scores):
            return abs(self.epochs[-1] - 2)  # epochs count from 0

    def falling(step, total):
        return 1 - step / total

    options, validated = changed(schedule=falling, **changes), Third()
    assert Trainer(validated, options, tmp_path / "validated.pt").fit().best_epoch == 3
    stopped = changed(schedule=falling, stop=3, patience=1, **changes)
    with pytest.raises(KeyboardInterrupt):
        Trainer(Regression(interrupt=9), stopped, tmp_path / "stopped.pt").fit()
    resumed = Regression()
    progress = Trainer(resumed, stopped, tmp_path / "stopped.pt").fit()
    assert progress.best_epoch == len(progress.history) == 3 and resumed.steps < 15
    assert same(resumed.model, validated.model) and not any("error" in entry for entry in progress.history)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.9, "ema_warmup": True, "ema_compare": True, "fused": True},
        {"checkpoint_steps": 3, "clip": 1.0, "weight_decay": 0.1, "ema_decay": 0.9},
    ],
)
def test_an_interrupted_run_ends_with_the_same_weights(changes, tmp_path):
    options, whole = changed(**changes), Regression()
    expected = Trainer(whole, options, tmp_path / "whole.pt").fit()
    with pytest.raises(KeyboardInterrupt):
        Trainer(Regression(interrupt=19), options, tmp_path / "resumed.pt").fit()
    resumed = Regression()
    torch.rand(7)  # the state of the global generator does not matter
    trainer = Trainer(resumed, options, tmp_path / "resumed.pt")
    assert trainer.progress.step == (18 if "checkpoint_steps" in changes else 15)
    assert trainer.fit().history == expected.history
    assert resumed.steps < 19 and same(resumed.model, whole.model)


def test_a_finished_run_is_not_repeated(tmp_path):
    first, again = Regression(), Regression()
    expected = Trainer(first, OPTIONS, tmp_path / "x.pt").fit()
    assert Trainer(again, OPTIONS, tmp_path / "x.pt").fit().history == expected.history
    assert again.steps == 0 and same(first.model, again.model)


def test_a_checkpoint_of_something_else(tmp_path, caplog):
    Trainer(Regression(), OPTIONS, tmp_path / "x.pt", {"data": "one"}).fit()
    with pytest.raises(CheckpointError, match=r"x\.pt belongs to another configuration"):
        Trainer(Regression(), changed(strict=True), tmp_path / "x.pt", {"data": "other"})
    task = Regression()
    Trainer(task, OPTIONS, tmp_path / "x.pt", {"data": "other"}).fit()
    assert task.steps == 30 and "starting anew" in caplog.text


@pytest.mark.parametrize("warmup", [False, True])
def test_moving_average_by_hand(warmup):
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    ema, expected = EMA([weight], 0.8, warmup), weight.detach().clone()
    for step in range(1, 4):
        with torch.no_grad():
            weight.add_(1)
        ema.update(step)
        decay = min(0.8, (1 + step) / (10 + step)) if warmup else 0.8
        expected = decay * expected + (1 - decay) * weight.detach()
    with ema.apply():
        torch.testing.assert_close(weight.detach(), expected)
    assert weight.tolist() == [4, 5]


def test_the_better_of_average_and_weights_is_kept(tmp_path):
    task = Regression()
    progress = Trainer(task, changed(ema_decay=0.5, ema_compare=True), tmp_path / "x.pt").fit()
    scores = [score for entry in progress.history for score in (entry["error"], entry["error_averaged"])]
    assert progress.best_score == min(scores) == task.validate()["error"]


def test_learning_rates_follow_the_schedule(tmp_path):
    trainer, rates = (
        Trainer(Regression(), changed(schedule=lambda step, total: 1 - step / total), tmp_path / "x.pt"),
        [],
    )
    trainer.fit(lambda epoch, entry: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([0.03 * (1 - step / 30) for step in (4, 9, 14, 19, 24, 29)])


def test_clipping_bounds_the_gradient_norm(tmp_path, monkeypatch):
    norms = []
    trainer = Trainer(Regression(), changed(epochs=1, clip=0.1), tmp_path / "x.pt")
    step = trainer.optimizer.step

    def watched():
        norms.append(torch.stack([p.grad.norm() for p in trainer.parameters]).norm().item())
        step()

    monkeypatch.setattr(trainer.optimizer, "step", watched)
    trainer.fit()
    assert norms == pytest.approx([0.1] * 5, rel=1e-4)


@pytest.mark.parametrize("infinite", ["loss", "gradient"])
def test_a_value_that_is_not_finite_ends_training_before_a_checkpoint(infinite, tmp_path):
    class Diverging(Regression):
        def loss(self, shard, batch, epoch):
            weight = self.model[0].weight
            value = weight.sum() * torch.inf if infinite == "loss" else (0 * weight).sqrt().sum()  # 0 with slope NaN
            return value, 1.0

    with pytest.raises(FloatingPointError, match=r"not finite at step 0: lower retrieve\.lr \(now 0\.03\)"):
        Trainer(Diverging(), changed(clip=1.0, lr_setting="retrieve.lr"), tmp_path / "x.pt").fit()
    assert not (tmp_path / "x.pt").exists()


def test_processes_share_batches_and_only_the_first_writes(tmp_path):
    """Two shards of every batch, computed one after the other, give the gradient of the batch."""

    class Undropped(Regression):
        def __init__(self):
            super().__init__()
            self.model[1] = nn.Identity()

    class Second(SingleProcess):
        """Rank 1 of 2; the sum of the gradients adds those of rank 0."""

        rank = 1

        def __init__(self, task):
            self.task = task

        def shard(self, batch):
            self.rest = batch[0::2]
            return batch[1::2]

        def sum_gradients(self, parameters, loss):
            other = ((self.task.model(INPUTS[self.rest]) - TARGETS[self.rest]) ** 2).sum() / 8
            other.backward()
            return loss.detach() + other.detach()

    alone, shared = Undropped(), Undropped()
    expected = Trainer(alone, OPTIONS, tmp_path / "alone.pt").fit()
    found = Trainer(shared, OPTIONS, tmp_path / "shared.pt", processes=Second(shared)).fit()
    assert not (tmp_path / "shared.pt").exists()
    for one, other in zip(expected.history, found.history, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)


def test_a_process_without_rows_takes_the_step_of_the_others(tmp_path):
    class Idle(SingleProcess):
        def shard(self, batch):
            return []

        def sum_gradients(self, parameters, loss):
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            return loss + 2

    task, fresh = Regression(), Regression()
    progress = Trainer(task, changed(epochs=1), tmp_path / "x.pt", processes=Idle()).fit()
    assert progress.history[0]["train_loss"] == 2 and task.steps == 0 and not same(task.model, fresh.model)
