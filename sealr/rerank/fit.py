"""One training loop for what is fine-tuned on top of the LLM: warm-up, clipping, early stopping, a resume that changes nothing.

A task brings model, batches, loss and validation. Every step seeds itself from (seed, step), and a checkpoint holds weights,
optimiser and progress, so a run that was killed continues to exactly the same weights. Several processes (`sealr.rerank.launch`)
share every batch: the same steps but for rounding and other dropout masks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sealr.data.manifest import CHECKPOINT
from sealr.data.tables import atomic_path
from sealr.rerank import parallel
from sealr.settings import RerankConfig

log = logging.getLogger(__name__)
WARMUP = 0.1  # share of all steps with a rising learning rate
CLIP = 1.0  # gradient norm
RANK_SEED = 7_368_787  # between the dropout seeds of two processes; more than there are steps
BUCKET = 32  # batches among which rows are sorted by length
OnEpoch = Callable[[int, dict[str, float]], None]  # epoch from 1; train_loss, valid_loss and what else the task measures


class Task(Protocol):
    """What is trained."""

    model: nn.Module
    weight_decay: float

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Rows of each step of an epoch, the same for the same epoch; as many in every epoch."""
        ...

    def loss(self, rows: Sequence[int], batch: np.ndarray, epoch: int) -> Tensor:
        """Sum of the losses of some rows of a step's batch, divided by the number of losses of the whole batch."""
        ...

    def validate(self) -> dict[str, float]:
        """``valid_loss`` and other figures."""
        ...

    def judge(self, scores: dict[str, float]) -> float:
        """Of what ``validate`` said, what decides on the best epoch and on stopping: lower is better."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Copies of the trained weights, on the CPU."""
        ...

    def load(self, state: dict[str, Tensor]) -> None: ...


@dataclass
class Progress:
    """Where training stands; all of it goes into a checkpoint."""

    step: int = 0
    stale: int = 0  # validations since the best one
    loss_sum: float = 0.0  # of the epoch's steps so far
    history: list[dict[str, float]] | None = None
    best: dict[str, Tensor] | None = None  # weights
    best_epoch: int = 0  # from 1
    lowest: float = float("inf")  # what the task judged that epoch to be
    seconds: float = 0.0  # of the training steps, validation not counted, over all attempts

    def end_epoch(self, scores: dict[str, float], judged: float, weights: dict[str, Tensor]) -> None:
        self.history = [*(self.history or []), scores]
        self.loss_sum = 0.0
        if judged < self.lowest:
            self.best, self.best_epoch, self.lowest, self.stale = weights, len(self.history), judged, 0
        else:
            self.stale += 1

    def metrics(self, *names: str) -> dict[str, float]:
        """Those figures of the best epoch, and what it took to find it."""
        best = {name: self.history[self.best_epoch - 1][name] for name in names}
        return best | {"epochs": len(self.history), "best_epoch": self.best_epoch, "train_seconds": round(self.seconds, 3)}


def fit(task: Task, config: RerankConfig, folder: Path, on_epoch: OnEpoch | None = None) -> Progress:
    """Trains, loads the weights of the best epoch into the task's model, and returns how it went.

    Where several processes call this, number 0 alone writes.

    folder: gets the checkpoints; a call on one that has a checkpoint goes on from there. Raises
    FloatingPointError on a loss or a gradient that is not finite.
    """
    trainable = [p for p in task.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.lr, weight_decay=task.weight_decay)
    steps_an_epoch = len(task.batches(0))
    total_steps = steps_an_epoch * config.epochs
    progress = Progress()
    checkpoint = folder / CHECKPOINT / "finetune.pt"
    if checkpoint.exists():
        progress = _restore(checkpoint, task, optimizer)
        log.info("resuming fine-tuning at step %d of %d", progress.step, total_steps)
    first_process = parallel.rank() == 0
    bar = tqdm(total=total_steps, initial=progress.step, desc="fine-tune", unit="step", disable=None if first_process else True)
    while progress.step < total_steps and progress.stale < config.patience:
        epoch, first = divmod(progress.step, steps_an_epoch)
        started = time.monotonic()
        for rows in task.batches(epoch)[first:]:
            torch.manual_seed(config.seed * 1_000_003 + progress.step + RANK_SEED * parallel.rank())  # dropout
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule(progress.step, total_steps)
            task.model.train()
            loss = torch.zeros((), device=trainable[0].device)
            if len(mine := parallel.share(rows)):
                loss = task.loss(mine, rows, epoch)
                loss.backward()
            loss = parallel.add_up_gradients(trainable, loss)  # the mean over the whole batch, and its gradient
            norm = torch.nn.utils.clip_grad_norm_(trainable, CLIP)
            if not torch.isfinite(loss + norm):  # before it gets into a checkpoint
                text = f"the fine-tuning loss is not finite at step {progress.step}: lower rerank.lr (now {config.lr})"
                raise FloatingPointError(text)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.step += 1
            progress.loss_sum += loss.item()
            bar.update(1)
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            if first_process and progress.step % config.checkpoint_steps == 0 and progress.step % steps_an_epoch:
                progress.seconds, started = progress.seconds + time.monotonic() - started, time.monotonic()
                _save(checkpoint, task, optimizer, progress)
        progress.seconds += time.monotonic() - started
        task.model.eval()
        scores = {"train_loss": progress.loss_sum / steps_an_epoch} | task.validate()
        progress.end_epoch(scores, task.judge(scores), task.state())
        if first_process:
            _save(checkpoint, task, optimizer, progress)
        log.info("epoch %d: %s", epoch + 1, ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        if on_epoch:
            on_epoch(epoch + 1, scores)
    bar.close()
    task.load(progress.best)
    task.model.eval()
    return progress


def shuffled(count: int, size: int, seed: int, epoch: int, lengths: Sequence[int] | None = None) -> list[np.ndarray]:
    """Random batches of rows 0..count-1. With lengths, rows of about the same length come together, which saves padding."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(count)
    if lengths is not None:
        places = np.arange(count) // (size * BUCKET)
        order = order[np.lexsort((np.asarray(lengths)[order], places))]
    batches = [order[i : i + size] for i in range(0, count, size)]
    return batches if lengths is None else [batches[i] for i in rng.permutation(len(batches))]


def schedule(step: int, total: int) -> float:
    """Linear warm-up, then linear decay to a tenth; the factor of the learning rate at a step from 0."""
    warm = max(1, round(WARMUP * total))
    return (step + 1) / warm if step < warm else 1.0 - 0.9 * (step - warm) / max(1, total - warm)


def _save(path: Path, task: Task, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    state = {"weights": task.state(), "optimizer": optimizer.state_dict(), "progress": vars(progress)}
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _restore(path: Path, task: Task, optimizer: torch.optim.Optimizer) -> Progress:
    state = torch.load(path, weights_only=True, map_location="cpu")
    task.load(state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])
