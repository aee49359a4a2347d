"""Training a retriever: one loop for all models, early stopping, and a resume that changes nothing.

All that is random in an epoch follows from (seed, epoch), and a checkpoint is written after each epoch. So a run that
was killed and started again ends with the same bits as one that was not, on the same CPU; a GPU adds up in an order of its own.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sealr.config import to_dict
from sealr.data.manifest import CHECKPOINT, StageResult
from sealr.data.sequences import Sequences
from sealr.data.tables import atomic_path, write_json
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.retrieve.batches import Batches
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.loss import binary_loss, sampled_loss, softmax_loss
from sealr.retrieve.models import build
from sealr.retrieve.models.base import SequenceModel
from sealr.retrieve.retriever import Retriever, device, load, popularity, save
from sealr.retrieve.start import cooccurrence_embeddings
from sealr.settings import RetrieveConfig

__all__ = ["Retriever", "load", "popularity", "train"]
log = logging.getLogger(__name__)
SAMPLING_LOSSES = {"sampled": sampled_loss, "bce": binary_loss}
OnEpoch = Callable[[int, dict[str, float]], None]  # epoch from 1; loss, seconds, and on validations ndcg@10 and hr@10


@dataclass
class Progress:
    """What a checkpoint holds beside model and optimizer."""

    epoch: int  # epochs finished
    history: list[dict[str, float]]  # one entry an epoch
    best_epoch: int  # 0: not validated yet
    best: dict[str, Tensor]  # weights of the best epoch

    def stop(self, config: RetrieveConfig) -> bool:
        validated = [h["epoch"] for h in self.history if "ndcg@10" in h]
        return self.epoch >= config.epochs or sum(e > self.best_epoch for e in validated) >= config.patience


def train(
    config: RetrieveConfig,
    sequences: Sequences,
    folder: Path,
    on_epoch: OnEpoch | None = None,
    content: Tensor | None = None,
    feelings: np.ndarray | None = None,
) -> StageResult:
    """Trains on the train split, keeps the weights with the best validation NDCG@10 (all items ranked), writes them.

    folder: gets what ``load`` reads, and ``history.json``. A call on a folder with a checkpoint of the same configuration
    and data goes on from there. content: (n_items + 1, C) text embeddings. feelings: (interactions, 2) float32 sentiment
    class and expected sentiment, aligned with ``sequences.flat``. Raises ValueError when there is nothing to train or
    validate on.
    """
    if config.model == "fusion":
        raise ValueError("a fusion is not trained itself: train its parts and call sealr.retrieve.fusion.fuse")
    if not len(sequences.split("valid")):
        raise ValueError("no user has three items and is not learned from whole: there is nothing to validate a retriever on")
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build(config, sequences.n_items, content).to(device())
        retriever = Retriever(config, sequences.items, model, popularity(sequences))
        if hasattr(model, "fit"):  # closed form
            model.fit(sequences)
            model.eval()
            best = validate(retriever, sequences, feelings)
            save(retriever, folder, {"best": best})
            return StageResult(_rows(sequences), {f"valid_{name}": value for name, value in best.items()})
        progress, positions = _train(retriever, sequences, feelings, folder, on_epoch)

    model.load_state_dict(progress.best)
    model.eval()
    best = progress.history[progress.best_epoch - 1]
    log.info("best epoch %d of %d, validation NDCG@10 %.4f", progress.best_epoch, progress.epoch, best["ndcg@10"])
    write_json(progress.history, folder / "history.json")
    save(retriever, folder, {"best": best, "epochs": progress.epoch})
    metrics = {"valid_ndcg@10": best["ndcg@10"], "valid_hr@10": best["hr@10"], "loss": best["loss"]}
    metrics |= {"best_epoch": float(progress.best_epoch), "epochs": float(progress.epoch)}
    return StageResult(_rows(sequences) | {"positions": positions}, metrics)


def _train(
    retriever: Retriever, sequences: Sequences, feelings: np.ndarray | None, folder: Path, on_epoch: OnEpoch | None
) -> tuple[Progress, int]:
    """Epochs until ``Progress.stop``; and the number of positions learned from in one."""
    config, model = retriever.config, retriever.model
    if config.item_init == "cooccurrence":
        with torch.no_grad():
            model.items.weight.copy_(cooccurrence_embeddings(sequences, config.hidden))
    batches = Batches(sequences, config, feelings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    average = Average(model, config.ema_decay)
    path, identity = folder / CHECKPOINT / "retriever.pt", _identity(config, sequences, feelings)
    progress = _read_checkpoint(path, identity, model, optimizer, average) or Progress(0, [], 0, {})

    bar = tqdm(total=config.epochs, initial=progress.epoch, desc=f"train {config.model}", unit="epoch", disable=None)
    while not progress.stop(config):
        started, epoch = time.monotonic(), progress.epoch + 1
        torch.manual_seed(config.seed * 1_000_003 + epoch)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, progress.epoch)
        entry: dict[str, float] = {"epoch": epoch, "loss": _train_epoch(model, optimizer, batches, average)}
        if epoch % config.eval_every == 0 or epoch == config.epochs:
            model.eval()
            with average.used():
                entry |= validate(retriever, sequences, feelings)
                if not progress.best_epoch or entry["ndcg@10"] > progress.history[progress.best_epoch - 1]["ndcg@10"]:
                    progress.best_epoch, progress.best = epoch, {k: v.detach().clone() for k, v in model.state_dict().items()}
        progress.epoch = epoch
        progress.history.append(entry)
        _write_checkpoint(path, identity, model, optimizer, average, progress)
        best = progress.history[progress.best_epoch - 1]["ndcg@10"] if progress.best_epoch else float("nan")
        bar.set_postfix(loss=f"{entry['loss']:.4f}", best_ndcg=f"{best:.4f}", refresh=False)
        bar.update()
        if on_epoch:
            on_epoch(epoch, {k: v for k, v in entry.items() if k != "epoch"} | {"seconds": time.monotonic() - started})
    bar.close()
    return progress, batches.positions


def learning_rate(config: RetrieveConfig, epoch: int) -> float:
    """Of the epoch with this number from 0."""
    if config.schedule == "constant":
        return config.lr
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs)))


def validate(retriever: Retriever, sequences: Sequences, feelings: np.ndarray | None = None) -> dict[str, float]:
    """NDCG@10 and HR@10 of the validation items among all items."""
    ranks = target_ranks(retriever, sequences, "valid", retriever.config.exclude_seen, feelings)
    return {"ndcg@10": float(ndcg(ranks, 10).mean()), "hr@10": float(hit_rate(ranks, 10).mean())}


def _rows(sequences: Sequences) -> dict[str, int]:
    return {"users": len(sequences), "items": sequences.n_items}


def _train_epoch(model: SequenceModel, optimizer: torch.optim.Optimizer, batches: Batches, average: Average) -> float:
    """One pass over all rows; mean loss per position. Raises FloatingPointError when it is not a number."""
    model.train()
    config = model.config
    where = next(model.parameters()).device
    total, count = 0.0, 0
    for batch in tqdm(batches, desc="epoch", unit="step", delay=5, leave=False, disable=None):
        hidden, targets = model.pairs(*(None if b is None else b.to(where) for b in batch))  # (M, D), (M,)
        weight = model.item_weights()[1:]  # no logit for padding
        if config.loss == "softmax":
            loss = softmax_loss(hidden, weight, targets - 1)
        else:
            loss = SAMPLING_LOSSES[config.loss](hidden, weight, targets - 1, config.n_negatives)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update()
        total += loss.item() * len(targets)
        count += len(targets)
    if not np.isfinite(total):
        raise FloatingPointError("the training loss is not finite: lower retrieve.lr")
    return total / count


class Average:
    """Exponential moving average of a model's parameters; does nothing where decay is 0."""

    def __init__(self, model: SequenceModel, decay: float) -> None:
        self.decay, self.parameters = decay, list(model.parameters())
        self.values = [p.detach().clone() for p in self.parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        if self.decay:
            torch._foreach_lerp_(self.values, self.parameters, 1 - self.decay)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside, the model has the averaged parameters."""
        current = [p.detach().clone() for p in self.parameters] if self.decay else []
        self._put(self.values)
        yield
        self._put(current)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters if values else [], values, strict=True):
            parameter.copy_(value)


def _identity(config: RetrieveConfig, sequences: Sequences, feelings: np.ndarray | None) -> dict[str, Any]:
    """What a checkpoint must agree with to be continued."""
    digest = hashlib.sha256(sequences.flat.tobytes() + sequences.offsets.tobytes() + "\n".join(sequences.items).encode())
    digest.update(b"" if feelings is None else feelings.tobytes())
    digest.update(b"".join(user.to_bytes(8, "little") for user in sorted(sequences.whole)))
    return {"config": to_dict(config), "data": digest.hexdigest()}


def _write_checkpoint(
    path: Path,
    identity: dict[str, Any],
    model: SequenceModel,
    optimizer: torch.optim.Optimizer,
    average: Average,
    progress: Progress,
) -> None:
    values = {"identity": identity, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values}
    with atomic_path(path) as temporary:
        torch.save(values | {"progress": vars(progress)}, temporary)


def _read_checkpoint(
    path: Path, identity: dict[str, Any], model: SequenceModel, optimizer: torch.optim.Optimizer, average: Average
) -> Progress | None:
    if not path.exists():
        return None
    values = torch.load(path, weights_only=True, map_location=device())
    if values["identity"] != identity:
        log.warning("%s belongs to another configuration or data set: starting anew", path)
        return None
    model.load_state_dict(values["model"])
    optimizer.load_state_dict(values["optimizer"])
    average.values = values["average"]
    progress = Progress(**values["progress"])
    log.info("resuming after epoch %d", progress.epoch)
    return progress
