"""The small variant of training: the encoder stays as it is and only the linear head is fitted, in minutes.

Every text goes through the encoder once; the head is then fitted on the pooled vectors until dev gets no better.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sealr.emotion import network as net
from sealr.emotion.train import EmotionDataError, Epoch, TrainArguments, collate, read_split

log = logging.getLogger(__name__)
EPOCHS, PATIENCE = 60, 3  # at most, and without a lower dev loss
LR, BATCH = 3e-3, 256


def fit_head(
    data: Path, out: Path, arguments: TrainArguments, on_epoch: Callable[[Epoch], None] | None = None
) -> dict[str, Any]:
    """Leaves the head in ``out``. Returns the history and the training seconds."""
    if (out / net.ADAPTER).exists():
        raise EmotionDataError(f"{out} holds an adapter: give --out another folder for a head alone")
    started = time.monotonic()
    torch.manual_seed(arguments.seed)
    encoder, tokenizer = net.load_base(arguments.base)
    network = net.EmotionNetwork(encoder).eval()
    vectors, labels = {}, {}
    for split in ("train", "dev"):
        texts, gold = read_split(data / f"{split}.tsv.gz")
        limit = arguments.limit or len(texts) if split == "train" else len(texts)
        vectors[split] = pooled(network, tokenizer, texts[:limit], arguments.max_length)
        labels[split] = torch.from_numpy(gold[:limit])
    centre, spread = vectors["train"].mean(0), vectors["train"].std(0).clamp(min=1e-6)
    x = {split: (v - centre) / spread for split, v in vectors.items()}
    head = nn.Linear(x["train"].shape[1], labels["train"].shape[1])
    share = labels["train"].mean(0).clamp(1e-4, 1 - 1e-4)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.log(share / (1 - share)))
    optimizer = torch.optim.AdamW(head.parameters(), lr=LR, weight_decay=arguments.weight_decay)
    loss_of = nn.functional.binary_cross_entropy_with_logits
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(arguments.seed)
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(x["train"]), generator=generator).split(BATCH):
            loss = loss_of(head(x["train"][rows]), labels["train"][rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        with torch.inference_mode():
            dev = loss_of(head(x["dev"]), labels["dev"]).item()
        history.append({"epoch": epoch + 1, "train_loss": total / len(x["train"]), "dev_loss": dev, "dev_loss_averaged": dev})
        if on_epoch:
            on_epoch(history[-1])
        losses = [h["dev_loss"] for h in history]
        best_epoch = losses.index(min(losses)) + 1
        if best_epoch == len(losses):
            best = {k: v.detach().clone() for k, v in head.state_dict().items()}
        elif len(losses) - best_epoch >= PATIENCE:
            break
    network.head.weight.data = best["weight"] / spread  # back to vectors as the encoder gives them
    network.head.bias.data = best["bias"] - network.head.weight.data @ centre
    net.save_head(network, out)
    log.info("head: %d epochs, dev loss %.4f", len(history), min(h["dev_loss"] for h in history))
    return {"history": history, "seconds": time.monotonic() - started}


@torch.inference_mode()
def pooled(network: net.EmotionNetwork, tokenizer: Any, texts: list[str], max_length: int) -> Tensor:
    """Texts -> (N, H) mean vectors."""
    tokens = tokenizer(texts, truncation=True, max_length=max_length).input_ids
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    result = torch.empty(len(tokens), network.encoder.config.hidden_size)
    for start in tqdm(range(0, len(order), 64), desc="encode", mininterval=10):
        rows = order[start : start + 64]
        result[rows] = network.pool(*collate([tokens[i] for i in rows], tokenizer.pad_token_id))
    return result.clone()
