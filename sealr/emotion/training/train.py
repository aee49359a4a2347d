"""Trains all-MiniLM-L6-v2 with LoRA on GoEmotions.

Binary cross-entropy over 28 emotions and batches of texts of similar length. After each epoch dev chooses between the
weights and their moving average; the best of all epochs is kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sealr.emotion import network as net
from sealr.emotion.training.goemotions import read_split
from sealr.trainer import Trainer, TrainerOptions

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"
EVALUATION_BATCH = 256
POOL_BATCHES = 50  # batches whose texts are sorted by length together
Epoch = dict[str, float]  # epoch, train_loss, dev_loss, dev_loss_averaged


@dataclass(frozen=True)
class TrainArguments:
    base: str = net.BASE
    epochs: int = 3
    rank: int = 16  # of the LoRA adapter; alpha is twice the rank
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.06  # share of all steps
    batch: int = 64  # texts per step
    max_length: int = 64  # tokens read of a training text; few texts of GoEmotions have more
    average: float = 0.998  # decay per step of the moving average of the weights
    limit: int = 0  # use only the first training texts, for a dry run; 0: all
    seed: int = 0


class LabellerTask:
    """A `sealr.trainer.Task`: adapter and head on a frozen encoder."""

    def __init__(self, data: Path, arguments: TrainArguments) -> None:
        self.arguments = arguments
        encoder, tokenizer = net.load_base(arguments.base)
        self.model = net.new_network(encoder, arguments.rank, 2 * arguments.rank, arguments.base)
        self.pad = tokenizer.pad_token_id
        (texts, labels), (dev_texts, dev_labels) = read_split(data, "train"), read_split(data, "dev")
        limit = arguments.limit or len(texts)
        options = {"truncation": True, "max_length": arguments.max_length}
        self.tokens = tokenizer(texts[:limit], **options).input_ids
        self.dev_tokens = tokenizer(dev_texts, **options).input_ids
        self.lengths = np.array([len(t) for t in self.tokens])
        self.labels, self.dev_labels = torch.from_numpy(labels[:limit]), torch.from_numpy(dev_labels)
        share = self.labels.mean(0).clamp(1e-4, 1 - 1e-4)
        with torch.no_grad():  # most emotions are rare: starting from their frequencies saves the steps to learn that
            self.model.head.bias.copy_(torch.log(share / (1 - share)))
            self.model.head.weight.mul_(0.1)

    def batches(self, epoch: int) -> list[np.ndarray]:
        torch.manual_seed(self.arguments.seed * 1000 + epoch)  # of dropout
        return bucketed(self.lengths, self.arguments.batch, np.random.default_rng([self.arguments.seed, epoch]))

    def loss(self, shard: np.ndarray, batch: np.ndarray, epoch: int) -> tuple[Tensor, float]:
        logits = self.model(*collate([self.tokens[i] for i in shard], self.pad))  # (B, 28)
        return nn.functional.binary_cross_entropy_with_logits(logits, self.labels[shard]), 1.0

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Mean binary cross-entropy per dev text and emotion."""
        order = sorted(range(len(self.dev_tokens)), key=lambda i: len(self.dev_tokens[i]))
        total = 0.0
        for start in range(0, len(order), EVALUATION_BATCH):
            rows = order[start : start + EVALUATION_BATCH]
            logits = self.model(*collate([self.dev_tokens[i] for i in rows], self.pad))  # (B, 28)
            target = self.dev_labels[rows]
            total += float(nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum"))
        return {"dev_loss": total / self.dev_labels.numel()}

    def judge(self, scores: dict[str, float]) -> float:
        return scores["dev_loss"]


def fit(
    data: Path, out: Path, arguments: TrainArguments, on_epoch: Callable[[Epoch], None] | None = None
) -> dict[str, Any]:
    """Trains, or continues, and leaves adapter and head in ``out``. Returns the history and the training seconds.

    on_epoch is called with every epoch, including those of an interrupted attempt. Raises EmotionDataError, and
    CheckpointError if ``out`` has a checkpoint of other arguments.
    """
    report = on_epoch or (lambda epoch: None)
    torch.manual_seed(arguments.seed)
    log.info("seed %d, %d threads, %s", arguments.seed, torch.get_num_threads(), asdict(arguments))
    task = LabellerTask(data, arguments)
    options = TrainerOptions(
        lr=arguments.lr,
        epochs=arguments.epochs,
        patience=arguments.epochs,
        schedule=lambda step, total: warmup_cosine(step, total, arguments.warmup),
        weight_decay=arguments.weight_decay,
        clip=1.0,
        ema_decay=arguments.average,
        ema_warmup=True,
        ema_compare=True,
        seed=arguments.seed,
        name="labeller",
        lr_setting="--lr",
        strict=True,
    )
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(task, options, out / CHECKPOINT, asdict(arguments))
    for past in trainer.progress.history:
        report(past)
    progress = trainer.fit(lambda epoch, entry: report(trainer.progress.history[-1]))
    net.save_network(task.model, out, arguments.base)
    return {"history": progress.history, "seconds": progress.seconds}


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then a half cosine to 0."""
    rise = max(1, int(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def bucketed(lengths: np.ndarray, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random batches of row numbers whose texts have similar lengths. Every row occurs once."""
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), batch * POOL_BATCHES):
        pool = order[start : start + batch * POOL_BATCHES]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch] for i in range(0, len(pool), batch)]
    return [batches[i] for i in rng.permutation(len(batches))]


def collate(tokens: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (B, L)."""
    width = max(len(t) for t in tokens)
    ids = torch.full((len(tokens), width), pad)
    mask = torch.zeros_like(ids)
    for row, t in enumerate(tokens):
        ids[row, : len(t)] = torch.tensor(t)
        mask[row, : len(t)] = 1
    return ids, mask
