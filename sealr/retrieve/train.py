"""Training a retriever: full softmax at every position, early stopping, and a resume that changes nothing.

All that is random in an epoch follows from (seed, epoch), and a checkpoint is written after each epoch. So a run that
was killed and started again ends with the same bits as one that was not, on the same machine.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sealr.config import RetrieveConfig, to_dict
from sealr.data.manifest import CHECKPOINT, Output
from sealr.data.sequences import Sequences
from sealr.data.tables import atomic_path, write_json
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.loss import softmax_loss
from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever, device, load, popularity, save

__all__ = ["Retriever", "load", "popularity", "train"]
log = logging.getLogger(__name__)
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


def train(config: RetrieveConfig, sequences: Sequences, folder: Path, on_epoch: OnEpoch | None = None) -> Output:
    """Trains on the train split, keeps the weights with the best validation NDCG@10 (all items ranked), writes them.

    folder: gets what ``load`` reads, and ``history.json``. A call on a folder with a checkpoint of the same
    configuration and sequences goes on from there. Raises ValueError when there is nothing to train or validate on.
    """
    if not len(sequences.split("valid")):
        raise ValueError("no user has three items: there is nothing to validate a retriever on")
    batches = Batches(sequences, config.max_len, config.batch_size)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build(config, sequences.n_items).to(device())
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
        path, identity = folder / CHECKPOINT / "retriever.pt", _identity(config, sequences)
        progress = _read_checkpoint(path, identity, model, optimizer) or Progress(0, [], 0, {})
        retriever = Retriever(config, sequences.items, model, popularity(sequences))

        bar = tqdm(total=config.epochs, initial=progress.epoch, desc=f"train {config.model}", unit="epoch", disable=None)
        while not progress.stop(config):
            started, epoch = time.monotonic(), progress.epoch + 1
            torch.manual_seed(config.seed * 1_000_003 + epoch)
            entry: dict[str, float] = {"epoch": epoch, "loss": _train_epoch(model, optimizer, batches)}
            if epoch % config.eval_every == 0 or epoch == config.epochs:
                model.eval()
                ranks = target_ranks(retriever, sequences, "valid", config.exclude_seen)
                entry |= {"ndcg@10": float(ndcg(ranks, 10).mean()), "hr@10": float(hit_rate(ranks, 10).mean())}
                if not progress.best_epoch or entry["ndcg@10"] > progress.history[progress.best_epoch - 1]["ndcg@10"]:
                    progress.best_epoch, progress.best = epoch, {k: v.detach().clone() for k, v in model.state_dict().items()}
            progress.epoch = epoch
            progress.history.append(entry)
            _write_checkpoint(path, identity, model, optimizer, progress)
            best = progress.history[progress.best_epoch - 1]["ndcg@10"] if progress.best_epoch else float("nan")
            bar.set_postfix(loss=f"{entry['loss']:.4f}", best_ndcg=f"{best:.4f}", refresh=False)
            bar.update()
            if on_epoch:
                on_epoch(epoch, {k: v for k, v in entry.items() if k != "epoch"} | {"seconds": time.monotonic() - started})
        bar.close()

    model.load_state_dict(progress.best)
    model.eval()
    best_entry = progress.history[progress.best_epoch - 1]
    log.info("best epoch %d of %d, validation NDCG@10 %.4f", progress.best_epoch, progress.epoch, best_entry["ndcg@10"])
    write_json(progress.history, folder / "history.json")
    save(retriever, folder, {"best": best_entry, "epochs": progress.epoch})
    metrics = {"valid_ndcg@10": best_entry["ndcg@10"], "valid_hr@10": best_entry["hr@10"], "loss": best_entry["loss"]}
    return Output(
        {"users": len(sequences), "items": sequences.n_items, "positions": batches.positions},
        metrics | {"best_epoch": float(progress.best_epoch), "epochs": float(progress.epoch)},
    )


def _train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches) -> float:
    """One pass over all users; mean loss per position. Raises FloatingPointError when it is not a number."""
    model.train()
    where = next(model.parameters()).device
    total = 0.0
    for inputs, targets in tqdm(batches, desc="epoch", unit="step", delay=5, leave=False, disable=None):
        inputs, targets = inputs.to(where), targets.to(where)
        real = targets > 0  # (B, L): padding never meets the item projection
        loss = softmax_loss(model(inputs)[real], model.items.weight[1:], targets[real] - 1)  # no logit for padding either
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * int(real.sum())
    if not np.isfinite(total):
        raise FloatingPointError("the training loss is not finite: lower retrieve.lr")
    return total / batches.positions


class Batches:
    """Random batches of training users; the order follows torch's global generator.

    An item is (inputs, targets), both (B, L) int64, oldest first and zeros to the right: the target at a position is
    the next item.
    """

    def __init__(self, sequences: Sequences, max_len: int, batch_size: int) -> None:
        split = sequences.split("train")
        starts = np.maximum(split.starts, split.ends - max_len - 1)
        long = split.ends - starts >= 2
        self.flat, self.starts, self.ends, self.batch_size = split.flat, starts[long], split.ends[long], batch_size
        self.positions = int((self.ends - self.starts - 1).sum())
        if not self.positions:
            raise ValueError("no user has two training items: there is nothing to train a retriever on")

    def __len__(self) -> int:
        return -(-len(self.starts) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for users in torch.randperm(len(self.starts)).split(self.batch_size):
            starts, ends = self.starts[users.numpy()], self.ends[users.numpy()]
            where = starts[:, None] + np.arange((ends - starts).max())  # (B, L + 1)
            items = np.where(where < ends[:, None], self.flat[np.minimum(where, len(self.flat) - 1)], 0)
            inputs, targets = items[:, :-1], items[:, 1:]
            yield torch.from_numpy(np.where(targets > 0, inputs, 0)), torch.from_numpy(targets)


def _identity(config: RetrieveConfig, sequences: Sequences) -> dict[str, Any]:
    """What a checkpoint must agree with to be continued."""
    digest = hashlib.sha256(sequences.flat.tobytes() + sequences.offsets.tobytes() + "\n".join(sequences.items).encode())
    return {"config": to_dict(config), "sequences": digest.hexdigest()}


def _write_checkpoint(
    path: Path, identity: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    values = {"identity": identity, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(progress)}
    with atomic_path(path) as temporary:
        torch.save(values, temporary)


def _read_checkpoint(path: Path, identity: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
    if not path.exists():
        return None
    values = torch.load(path, weights_only=True, map_location=device())
    if values["identity"] != identity:
        log.warning("%s belongs to another configuration or data set: starting anew", path)
        return None
    model.load_state_dict(values["model"])
    optimizer.load_state_dict(values["optimizer"])
    progress = Progress(**values["progress"])
    log.info("resuming after epoch %d", progress.epoch)
    return progress
