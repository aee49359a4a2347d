"""What all fine-tuning tasks share: batches, learning rate, checkpoints. The loop itself is `sealr.trainer`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from sealr.data.manifest import CHECKPOINT, StageResult
from sealr.data.tables import write_json
from sealr.rerank.llm import ADAPTER, count_parameters
from sealr.settings import RerankConfig
from sealr.trainer import OnEpoch, SingleProcess, Task, Trainer, TrainerOptions

log = logging.getLogger(__name__)
CHECKPOINT_STEPS = 100  # optimizer steps between checkpoints within an epoch
CLIP = 1.0  # maximum gradient norm
WARMUP = 0.1  # share of all steps with a rising learning rate
BUCKET = 32  # batches among which rows are sorted by length


class FinetuningTask(Task, Protocol):
    def save(self, folder: Path) -> None:
        """Writes what the ranker reads."""
        ...


def train(
    task: FinetuningTask,
    config: RerankConfig,
    folder: Path,
    rows: dict[str, int],
    scores: Sequence[str],
    on_epoch: OnEpoch | None = None,
    processes: SingleProcess | None = None,
    weight_decay: float = 0.0,
    stop: int | None = None,
) -> StageResult:
    """Trains a task, and writes ``history.json`` and the weights of the best epoch to ``folder/adapter``.

    A folder with a checkpoint continues from it. rows: what the task trains on, for log and result. scores: names of
    validation scores for the result. stop: train for so many epochs, without validation.
    """
    rows = rows | count_parameters(task.model)
    counts = ", ".join(f"{name} {count:,}" for name, count in rows.items())
    log.info("fine-tuning with seed %d: %s", config.seed, counts)
    options = TrainerOptions(
        lr=config.lr,
        epochs=config.epochs,
        patience=config.patience,
        stop=stop or 0,
        schedule=schedule,
        weight_decay=weight_decay,
        clip=CLIP,
        checkpoint_steps=CHECKPOINT_STEPS,
        seed=config.seed,
        name="fine-tune",
        lr_setting="rerank.lr",
    )
    trainer = Trainer(task, options, folder / CHECKPOINT / "finetune.pt", processes=processes)
    progress = trainer.fit(on_epoch)
    if trainer.processes.rank == 0:
        write_json(progress.history, folder / "history.json")
        task.save(folder / ADAPTER)
    return StageResult(rows, progress.metrics(*(scores if stop is None else ("train_loss",))))


def shuffled(
    count: int, size: int, seed: int, epoch: int, lengths: Sequence[int] | np.ndarray | None = None
) -> list[np.ndarray]:
    """Random batches of rows 0..count-1. With ``lengths``, a batch has rows of similar length, which saves padding."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(count)
    if lengths is not None:
        bucket = np.arange(count) // (size * BUCKET)
        order = order[np.lexsort((np.asarray(lengths)[order], bucket))]
    batches = [order[start : start + size] for start in range(0, count, size)]
    return batches if lengths is None else [batches[i] for i in rng.permutation(len(batches))]


def schedule(step: int, total: int) -> float:
    """Factor of the learning rate at a step from 0: linear warm-up, then linear decay to a tenth."""
    warm = max(1, round(WARMUP * total))
    return (step + 1) / warm if step < warm else 1.0 - 0.9 * (step - warm) / max(1, total - warm)
