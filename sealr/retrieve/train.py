"""Training a retriever: its task for the trainer, and the files of a trained one.

An interrupted training resumes and ends with the same weights, see ``sealr.trainer``.
"""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sealr.config import to_dict
from sealr.data.manifest import CHECKPOINT, StageResult
from sealr.data.sequences import Sequences
from sealr.data.tables import write_json
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.retrieve.batches import Batches
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.loss import binary_loss, sampled_loss, softmax_loss
from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever, device, load, popularity, save
from sealr.retrieve.start import cooccurrence_embeddings
from sealr.retrieve.taught import Teacher
from sealr.settings import RetrieveConfig
from sealr.trainer import OnEpoch, Trainer, TrainerOptions

__all__ = ["Retriever", "load", "popularity", "train"]
log = logging.getLogger(__name__)
SAMPLING_LOSSES = {"sampled": sampled_loss, "bce": binary_loss}


def train(
    config: RetrieveConfig,
    sequences: Sequences,
    folder: Path,
    on_epoch: OnEpoch | None = None,
    content: Tensor | None = None,
    feelings: np.ndarray | None = None,
    stop: int | None = None,
    teacher: Teacher | None = None,
) -> StageResult:
    """Trains on the train split, keeps the weights with the best validation NDCG@10 over all items, and writes them.

    folder: receives the files that ``load`` reads, and ``history.json``. A folder with a checkpoint of the same
    configuration and data resumes from it. content: (n_items + 1, C) as `Profiles.table` makes it. feelings:
    (interactions, 2) as ``sealr.emotion.feelings`` makes them. stop: train for so many epochs, without validation; a
    counted model ignores the number. None: validation chooses. teacher: of a configuration with one. Raises ValueError
    when there is nothing to train or validate on, or the teacher is missing.
    """
    if config.model == "fusion":
        raise ValueError("a fusion is not trained itself: train its parts, then call sealr.retrieve.fusion.fuse")
    if stop is None and not len(sequences.split("valid")):
        raise ValueError("no user has three items and held-out ones: there is nothing to validate a retriever on")
    rows = {"users": len(sequences), "items": sequences.n_items}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model: Any = build(config, sequences.n_items, content).to(device())
        retriever = Retriever(config, sequences.items, model, popularity(sequences))
        if hasattr(model, "fit"):  # closed form
            model.fit(sequences)
            model.eval()
            best = validate(retriever, sequences, feelings) if stop is None else {}
            save(retriever, folder, {"best": best})
            return StageResult(rows, {f"valid_{name}": value for name, value in best.items()})
        if bool(config.teacher) != bool(teacher):
            raise ValueError("a retriever is trained with the teacher of retrieve.teacher, and only with that")
        task = NextItem(retriever, sequences, feelings, teacher)
        identity = {"config": to_dict(config), "data": _digest(sequences, feelings)}
        identity |= {"teacher": teacher.digest()} if teacher else {}
        options = replace(trainer_options(config, len(task.training)), stop=stop or 0)
        progress = Trainer(task, options, folder / CHECKPOINT / "retriever.pt", identity).fit(on_epoch)

    best, epochs = progress.history[progress.best_epoch - 1], len(progress.history)
    write_json(progress.history, folder / "history.json")
    save(replace(retriever, epochs=(progress.best_epoch,)), folder, {"best": best})
    metrics = {"loss": best["train_loss"], "best_epoch": float(progress.best_epoch), "epochs": float(epochs)}
    if stop is None:
        log.info("best epoch %d of %d, validation NDCG@10 %.4f", progress.best_epoch, epochs, best["ndcg@10"])
        metrics |= {"valid_ndcg@10": best["ndcg@10"], "valid_hr@10": best["hr@10"]}
    return StageResult(rows | {"positions": task.training.positions}, metrics)


def validate(retriever: Retriever, sequences: Sequences, feelings: np.ndarray | None = None) -> dict[str, float]:
    """NDCG@10 and HR@10 of the validation items among all items."""
    ranks = target_ranks(retriever, sequences, "valid", retriever.config.exclude_seen, feelings)
    return {"ndcg@10": float(ndcg(ranks, 10).mean()), "hr@10": float(hit_rate(ranks, 10).mean())}


class NextItem:
    """The trainer's task: predict the next item at every position of a user's training items."""

    def __init__(
        self,
        retriever: Retriever,
        sequences: Sequences,
        feelings: np.ndarray | None,
        teacher: Teacher | None = None,
    ) -> None:
        self.retriever, self.model, self.config = retriever, retriever.model, retriever.config
        self.sequences, self.feelings, self.teacher = sequences, feelings, teacher
        self.training = Batches(sequences, self.config, feelings)
        if self.config.item_init == "cooccurrence":
            with torch.no_grad():
                self.model.items.ids.weight.copy_(cooccurrence_embeddings(sequences, self.config.hidden))

    def batches(self, epoch: int) -> Batches:
        return self.training

    def loss(self, shard: tuple[Any, ...], batch: Any, epoch: int) -> tuple[Tensor, float]:
        inputs: list[Any] = [None if t is None else t.to(self.retriever.device) for t in shard]
        hidden, targets = self.model.training_pairs(*inputs)  # (M, D), (M,)
        if self.config.loss == "softmax":
            value = softmax_loss(hidden, self.model.item_weights()[1:], targets - 1)  # none for padding
            lesson = self.teacher.lesson(self.model, *inputs[:2]) if self.teacher else 0.0
            return value + lesson, len(targets)
        sampling, n_items = SAMPLING_LOSSES[self.config.loss], len(self.retriever.items)
        value = sampling(hidden, self._rows, n_items, targets - 1, self.config.n_negatives)
        return value, len(targets)

    def _rows(self, items: Tensor) -> Tensor:
        return self.model.items.rows(items + 1)  # none for padding

    def validate(self) -> dict[str, float]:
        return validate(self.retriever, self.sequences, self.feelings)

    def judge(self, scores: dict[str, float]) -> float:
        return -scores["ndcg@10"]


def trainer_options(config: RetrieveConfig, steps_per_epoch: int) -> TrainerOptions:
    """The learning rate is constant within an epoch; cosine ends at a hundredth."""

    def schedule(step: int, total: int) -> float:
        if config.schedule == "constant":
            return 1.0
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step // steps_per_epoch) / config.epochs))

    return TrainerOptions(
        lr=config.lr,
        epochs=config.epochs,
        patience=config.patience,
        schedule=schedule,
        fused=True,
        ema_decay=config.ema_decay,
        eval_every=config.eval_every,
        seed=config.seed,
        name=f"train {config.model}",
        lr_setting="retrieve.lr",
        log_epochs=False,
    )


def _digest(sequences: Sequences, feelings: np.ndarray | None) -> str:
    """SHA-256 of the training data."""
    digest = hashlib.sha256(
        sequences.flat.tobytes() + sequences.offsets.tobytes() + "\n".join(sequences.items).encode()
    )
    digest.update(b"" if feelings is None else feelings.tobytes())
    if sequences.cuts is not None:
        digest.update(sequences.cuts.train.tobytes() + sequences.cuts.valid.tobytes())
    for group in (sequences.whole, sequences.gate):
        digest.update(b"".join(user.to_bytes(8, "little") for user in sorted(group)) + b"\n")
    return digest.hexdigest()
