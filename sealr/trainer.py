"""One training loop for retrievers, the LLM and the emotion labeller.

A task supplies the model, its batches, the loss and the validation. The trainer supplies the optimizer, the moving
average of the weights, early stopping and checkpoints.

Random numbers depend only on (seed, epoch), or on (seed, step) when checkpoints are written within epochs. An
interrupted run that is started again ends with the weights of an uninterrupted one: bit for bit on the same CPU, while
a GPU may add numbers in another order.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sealr.data.tables import atomic_path
from sealr.progress import progress_bar

log = logging.getLogger(__name__)
SEED_STRIDE = 1_000_003  # between the random streams of two seeds
RANK_STRIDE = 7_368_787  # between the random streams of two processes; more than there are steps
OnEpoch = Callable[[int, dict[str, float]], None]  # epoch from 1; its history entry and the seconds it took


class CheckpointError(ValueError):
    """A checkpoint belongs to another configuration or to other data."""


class Task(Protocol):
    """What is trained."""

    @property
    def model(self) -> nn.Module:
        """Its parameters that require a gradient are trained, and nothing else changes."""
        ...

    def batches(self, epoch: int) -> Any:
        """An iterable of an epoch's batches, with a length. Epochs count from 0 and have the same number of batches."""
        ...

    def loss(self, shard: Any, batch: Any, epoch: int) -> tuple[Tensor, float]:
        """Loss of this process's shard of a batch, and the batch's weight in the mean loss of the epoch.

        The losses of all shards add up to the loss of the batch. With one process the shard is the batch.
        """
        ...

    def validate(self) -> dict[str, float]:
        """Scores of the current weights. The model is in evaluation mode."""
        ...

    def judge(self, scores: dict[str, float]) -> float:
        """The number that selects the best epoch and stops training: lower is better."""
        ...


class SingleProcess:
    """The default ``processes``; for data parallelism pass an object with the same members."""

    rank = 0  # of this process; rank 0 writes checkpoints

    def shard(self, batch: Any) -> Any:
        """This process's part of a batch. May be empty."""
        return batch

    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Replaces gradients by their sums over all processes and returns the sum of the losses."""
        return loss.detach()


@dataclass(frozen=True)
class TrainerOptions:
    lr: float
    epochs: int  # at most
    patience: int  # validations without improvement before training stops
    schedule: Callable[[int, int], float] = lambda step, total: 1.0  # (step from 0, total steps) -> factor of lr
    weight_decay: float = 0.0
    fused: bool = False  # fused AdamW: faster when all weights are trained
    clip: float | None = None  # largest gradient norm
    ema_decay: float = 0.0  # decay per step of the moving average that is validated and kept; 0: no average
    ema_warmup: bool = False  # smaller decay at the start: (1 + step) / (10 + step)
    ema_compare: bool = False  # validate average (scores end in _averaged) and current weights, keep the better
    eval_every: int = 1  # epochs between validations; the last epoch is always validated
    stop: int = 0  # train for so many of the epochs, without validation, and keep the last weights; 0: validate
    checkpoint_steps: int = 0  # steps between checkpoints; 0: only at the end of an epoch
    seed: int = 0
    name: str = "train"  # label of the progress bar
    lr_setting: str = "lr"  # the setting that an error about a diverging loss names
    log_epochs: bool = True
    strict: bool = False  # raise on a checkpoint with another identity instead of starting anew


@dataclass
class Progress:
    """State of a run apart from weights and optimizer; part of every checkpoint."""

    step: int = 0
    stale: int = 0  # validations since the best one
    loss_sum: float = 0.0  # weighted, over the steps of the current epoch
    weight_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)  # per epoch: epoch, train_loss, scores if validated
    best: list[Tensor] = field(default_factory=list)  # trained weights of the best epoch
    best_epoch: int = 0  # from 1; 0: not validated yet
    best_score: float = float("inf")
    seconds: float = 0.0  # of training steps over all attempts, without validation

    def metrics(self, *names: str) -> dict[str, float]:
        """These scores of the best epoch, and the cost of finding it."""
        best = {name: self.history[self.best_epoch - 1][name] for name in names}
        cost = {"epochs": len(self.history), "best_epoch": self.best_epoch}
        return best | cost | {"train_seconds": round(self.seconds, 3)}


class EMA:
    """Exponential moving average of parameters. With decay 0 it does nothing."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float, warmup: bool = False) -> None:
        self.parameters: list[Tensor] = list(parameters) if decay else []
        self.decay, self.warmup = decay, warmup
        self.values = copies(self.parameters)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Call after each optimizer step, counted from 1."""
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
            torch._foreach_lerp_(self.values, self.parameters, 1 - decay)

    @contextmanager
    def apply(self) -> Iterator[None]:
        """Within the context the model has the averaged weights."""
        current = copies(self.parameters)
        assign(self.parameters, self.values)
        try:
            yield
        finally:
            assign(self.parameters, current)


def copies(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]


@torch.no_grad()
def assign(parameters: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


class Trainer:
    """Trains a task and keeps the weights of its best epoch.

    identity: plain values (dict, list, str, numbers) that describe configuration and data. When the file
    ``checkpoint`` exists and has the same identity, training continues from it. Otherwise it starts anew, or raises
    CheckpointError when ``strict``.
    """

    def __init__(
        self,
        task: Task,
        options: TrainerOptions,
        checkpoint: Path,
        identity: dict[str, Any] | None = None,
        processes: SingleProcess | None = None,
    ) -> None:
        self.task, self.options, self.checkpoint, self.identity = task, options, checkpoint, identity
        self.processes = processes or SingleProcess()
        self.parameters = [p for p in task.model.parameters() if p.requires_grad]
        decay, fused = options.weight_decay, options.fused or None
        self.optimizer = torch.optim.AdamW(self.parameters, lr=options.lr, weight_decay=decay, fused=fused)
        self.ema = EMA(self.parameters, options.ema_decay, options.ema_warmup)
        self.steps_per_epoch = len(task.batches(0))
        self.total_steps = self.steps_per_epoch * options.epochs
        self.progress = self._restore()

    def fit(self, on_epoch: OnEpoch | None = None) -> Progress:
        """Trains to the last epoch or until patience ends, then loads the best weights into the model.

        Raises FloatingPointError when a loss or a gradient norm is not finite, before it reaches a checkpoint.
        """
        options, progress = self.options, self.progress
        steps, hidden = self.steps_per_epoch * (options.stop or options.epochs), self.processes.rank > 0
        with progress_bar(label=options.name, unit="steps", total=steps, done=progress.step, hidden=hidden) as bar:
            while progress.step < steps and progress.stale < options.patience:
                started, epoch = time.monotonic(), progress.step // self.steps_per_epoch + 1
                entry = {"epoch": epoch, "train_loss": self._train_epoch(bar)}
                if not options.stop and (epoch % options.eval_every == 0 or epoch == options.epochs):
                    entry |= self._validate(epoch)
                progress.history.append(entry)
                self._save()
                if options.log_epochs:
                    scores = [f"{name} {value:.4f}" for name, value in entry.items() if name != "epoch"]
                    log.info("epoch %d: %s", epoch, ", ".join(scores))
                if on_epoch:
                    on_epoch(epoch, entry | {"seconds": time.monotonic() - started})
        if options.stop:
            with self.ema.apply():
                progress.best, progress.best_epoch = copies(self.parameters), options.stop
        assign(self.parameters, progress.best)
        self.task.model.eval()
        return progress

    def _train_epoch(self, bar: Any) -> float:
        """Mean loss of the epoch, of which a resumed run computes the rest."""
        options, progress = self.options, self.progress
        epoch, first = divmod(progress.step, self.steps_per_epoch)
        self.task.model.train()
        if not options.checkpoint_steps:
            self._seed(epoch + 1)
        for batch in islice(self.task.batches(epoch), first, None):
            started = time.monotonic()
            loss, weight = self._train_step(batch, epoch)
            progress.seconds += time.monotonic() - started
            progress.step += 1
            progress.loss_sum += loss * weight
            progress.weight_sum += weight
            self.ema.update(progress.step)
            bar.set_postfix(epoch=epoch + 1, loss=f"{loss:.4f}", refresh=False)
            bar.update()
            due = options.checkpoint_steps and progress.step % options.checkpoint_steps == 0
            if due and progress.step % self.steps_per_epoch:  # the end of an epoch is saved with its scores
                self._save()
        mean = progress.loss_sum / progress.weight_sum
        progress.loss_sum = progress.weight_sum = 0.0
        return mean

    def _train_step(self, batch: Any, epoch: int) -> tuple[float, float]:
        """One optimizer step; returns the loss of the batch and its weight."""
        options, step = self.options, self.progress.step
        if options.checkpoint_steps:
            self._seed(step)
        for group in self.optimizer.param_groups:
            group["lr"] = options.lr * options.schedule(step, self.total_steps)
        loss, weight = self.parameters[0].new_zeros(()), 1.0
        if len(shard := self.processes.shard(batch)):
            loss, weight = self.task.loss(shard, batch, epoch)
            loss.backward()
        value = (loss := self.processes.sum_gradients(self.parameters, loss)).item()
        norm = float(nn.utils.clip_grad_norm_(self.parameters, options.clip)) if options.clip else 0.0
        if not math.isfinite(value + norm):
            text = f"the training loss is not finite at step {step}: lower {options.lr_setting} (now {options.lr})"
            raise FloatingPointError(text)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value, weight

    def _seed(self, number: int) -> None:
        torch.manual_seed(self.options.seed * SEED_STRIDE + number + RANK_STRIDE * self.processes.rank)

    def _validate(self, epoch: int) -> dict[str, float]:
        """Scores of an epoch. Keeps its weights when they are the best so far."""
        task, progress, entry = self.task, self.progress, dict[str, float]()
        views: dict[str, AbstractContextManager[None]] = {"": self.ema.apply()}
        if self.options.ema_compare:
            views = {"_averaged": self.ema.apply(), "": nullcontext()}
        task.model.eval()
        progress.stale += 1
        for suffix, weights in views.items():
            with weights:
                scores = task.validate()
                entry |= {name + suffix: value for name, value in scores.items()}
                if (judged := task.judge(scores)) < progress.best_score:
                    progress.best, progress.best_epoch, progress.best_score = copies(self.parameters), epoch, judged
                    progress.stale = 0
        return entry

    def _save(self) -> None:
        if self.processes.rank == 0:
            weights = {"weights": copies(self.parameters), "ema": self.ema.values}
            values = {"identity": self.identity, "optimizer": self.optimizer.state_dict()}
            values["progress"] = vars(self.progress)
            with atomic_path(self.checkpoint) as temporary:
                torch.save(weights | values, temporary)

    def _restore(self) -> Progress:
        if not self.checkpoint.exists():
            return Progress()
        saved = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        if "ema" not in saved or saved["identity"] != self.identity or not isinstance(saved["weights"], list):
            text = f"{self.checkpoint} belongs to another configuration or to other data"
            if self.options.strict:
                raise CheckpointError(f"{text}: choose another folder or remove the file")
            log.warning("%s: starting anew", text)
            return Progress()
        assign(self.parameters, saved["weights"])
        assign(self.ema.values, saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        progress = Progress(**saved["progress"])
        log.info("resuming after step %d of %d", progress.step, self.total_steps)
        return progress
