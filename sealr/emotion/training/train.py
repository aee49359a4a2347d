"""Trains the embedded labeller: all-MiniLM-L6-v2 with LoRA on GoEmotions.

``python -m sealr.emotion.training.train --data <folder with train, dev, test .tsv.gz> --out <folder>``, or with MLflow
``mlflow run . -e train-labeller``.

Multi-label cross-entropy on the 28 emotions, batches of similar length, and an exponential average of the trained
weights, which the dev set accepts or not. Thresholds and temperature come from dev too; test is read once, for the
report. A checkpoint after every epoch: the same command continues a killed run. ``training.log`` in the folder tells
when what happened, over all attempts of one training.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sealr.data.tables import EMOTIONS, atomic_path
from sealr.emotion import network as net

log = logging.getLogger(__name__)
LOG, CHECKPOINT = "training.log", "checkpoint.pt"
Epoch = dict[str, float]  # epoch, train_loss, dev_loss, dev_loss_averaged


class EmotionDataError(ValueError):
    """A GoEmotions file is missing or not in its format; the message names file and line."""


@dataclass(frozen=True)
class TrainArguments:
    base: str = net.BASE
    epochs: int = 3
    rank: int = 16  # LoRA rank; alpha is twice that; 0: the encoder is frozen and only the head is fitted (head.py)
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.06  # share of all steps
    batch: int = 64  # texts per step
    max_length: int = 64  # tokens read of a training text; the longest ones of GoEmotions are about that long
    average: float = 0.998  # decay per step of the averaged weights
    limit: int = 0  # only the first n training texts, for a dry run; 0: all
    seed: int = 0


def read_split(path: Path) -> tuple[list[str], np.ndarray]:
    """Texts and (N, 28) float32 0/1 labels of a GoEmotions file (text, tab, comma-separated ids, tab, comment id)."""
    if not path.is_file():
        raise EmotionDataError(f"{path} does not exist: --data must be a folder with train.tsv.gz, dev.tsv.gz and test.tsv.gz")
    texts: list[str] = []
    rows: list[list[int]] = []
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            parts = line.rstrip("\r\n").split("\t")  # no csv reader: quotation marks are text here
            try:
                ids = [int(i) for i in parts[1].split(",")]
                if len(parts) != 3 or min(ids) < 0 or max(ids) >= len(EMOTIONS):
                    raise ValueError
            except (IndexError, ValueError):
                raise EmotionDataError(f"{path}, line {number}: expected text, tab, label ids 0 to 27, tab, comment id") from None
            texts.append(parts[0])
            rows.append(ids)
    labels = np.zeros((len(texts), len(EMOTIONS)), np.float32)
    for row, ids in enumerate(rows):
        labels[row, ids] = 1
    return texts, labels


def bucketed(lengths: np.ndarray, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random batches of row numbers whose texts have similar lengths: every row once."""
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), batch * 50):
        pool = order[start : start + batch * 50]
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


@torch.inference_mode()
def dev_loss(network: net.EmotionNetwork, tokens: list[list[int]], labels: Tensor, pad: int) -> float:
    """Mean binary cross-entropy per text and emotion."""
    network.eval()
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    total = 0.0
    for start in range(0, len(order), 256):
        rows = order[start : start + 256]
        logits = network(*collate([tokens[i] for i in rows], pad))  # (B, 28)
        total += float(nn.functional.binary_cross_entropy_with_logits(logits, labels[rows], reduction="sum"))
    return total / labels.numel()


def fit(data: Path, out: Path, arguments: TrainArguments, on_epoch: Callable[[Epoch], None] | None = None) -> dict[str, Any]:
    """Trains, or continues, and leaves adapter and head in ``out``. Returns the history and the training seconds.

    on_epoch is called with every epoch, those of an earlier attempt included.
    """
    on_epoch = on_epoch or (lambda epoch: None)
    torch.manual_seed(arguments.seed)
    log.info("seed %d, %d threads, %s", arguments.seed, torch.get_num_threads(), asdict(arguments))
    encoder, tokenizer = net.load_base(arguments.base)
    network = net.new_network(encoder, arguments.rank, 2 * arguments.rank, arguments.base)
    texts, labels = read_split(data / "train.tsv.gz")
    dev_texts, dev_labels = read_split(data / "dev.tsv.gz")
    if arguments.limit:
        texts, labels = texts[: arguments.limit], labels[: arguments.limit]
    tokens = tokenizer(texts, truncation=True, max_length=arguments.max_length).input_ids
    dev_tokens = tokenizer(dev_texts, truncation=True, max_length=arguments.max_length).input_ids
    lengths = np.array([len(t) for t in tokens])
    target, dev_target = torch.from_numpy(labels), torch.from_numpy(dev_labels)
    # start from the emotions' frequencies, so that no step is spent on learning that most are rare
    share = target.mean(0).clamp(1e-4, 1 - 1e-4)
    with torch.no_grad():
        network.head.bias.copy_(torch.log(share / (1 - share)))
        network.head.weight.mul_(0.1)
    weights = net.trainable(network)
    averaged = {name: p.detach().clone() for name, p in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=arguments.lr, weight_decay=arguments.weight_decay)
    steps = arguments.epochs * math.ceil(len(texts) / arguments.batch)
    state: dict[str, Any] = {"epoch": 0, "step": 0, "seconds": 0.0, "history": []}
    checkpoint = out / CHECKPOINT
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["arguments"] != asdict(arguments):
            raise EmotionDataError(
                f"{checkpoint} belongs to other arguments ({saved['arguments']}): give another --out or remove it"
            )
        _copy(saved["weights"], weights)
        averaged = saved["averaged"]
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
        log.info("continuing after epoch %d", state["epoch"])
        for past in state["history"]:
            on_epoch(past)
    for epoch in range(state["epoch"], arguments.epochs):
        started = time.monotonic()
        torch.manual_seed(arguments.seed * 1000 + epoch)  # dropout of an epoch does not depend on where the run began
        batches = bucketed(lengths, arguments.batch, np.random.default_rng([arguments.seed, epoch]))
        network.train()
        running = 0.0
        for rows in (bar := tqdm(batches, desc=f"epoch {epoch + 1}/{arguments.epochs}", mininterval=10)):
            for group in optimizer.param_groups:
                group["lr"] = arguments.lr * _schedule(state["step"], steps, arguments.warmup)
            logits = network(*collate([tokens[i] for i in rows], tokenizer.pad_token_id))  # (B, 28)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, target[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
            state["step"] += 1
            decay = min(arguments.average, (1 + state["step"]) / (10 + state["step"]))
            with torch.no_grad():
                for name, p in weights.items():
                    averaged[name].lerp_(p, 1 - decay)
            running = loss.item() if not running else 0.98 * running + 0.02 * loss.item()
            bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        plain = dev_loss(network, dev_tokens, dev_target, tokenizer.pad_token_id)
        kept = {name: p.detach().clone() for name, p in weights.items()}
        _copy(averaged, weights)
        mean = dev_loss(network, dev_tokens, dev_target, tokenizer.pad_token_id)
        _copy(kept, weights)
        state["epoch"] = epoch + 1
        state["seconds"] += time.monotonic() - started
        state["history"].append({"epoch": epoch + 1, "train_loss": running, "dev_loss": plain, "dev_loss_averaged": mean})
        log.info(
            "epoch %d: train loss %.4f, dev loss %.4f, of the averaged weights %.4f, %.0f s in all",
            epoch + 1, running, plain, mean, state["seconds"],
        )  # fmt: skip
        on_epoch(state["history"][-1])
        best = min(min(h["dev_loss"], h["dev_loss_averaged"]) for h in state["history"])
        if min(plain, mean) == best:  # what dev likes best so far is what gets shipped
            _copy(averaged if mean <= plain else kept, weights)
            net.save_network(network, out, arguments.base)
            _copy(kept, weights)
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(checkpoint) as temporary:
            torch.save(
                {
                    "arguments": asdict(arguments),
                    "weights": kept,
                    "averaged": averaged,
                    "optimizer": optimizer.state_dict(),
                    "state": state,
                },
                temporary,
            )
    return {"history": state["history"], "seconds": state["seconds"]}


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then a half cosine down to 0."""
    rise = max(1, int(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, p in target.items():
            p.copy_(source[name])


def build(
    data: Path, out: Path, arguments: TrainArguments, on_epoch: Callable[[Epoch], None] | None = None
) -> dict[str, Any]:
    """Trains and leaves a whole labeller folder: weights, labeller.json, MODEL_CARD.md, training.log.

    Returns the values of labeller.json. The same call continues a killed one; after a finished one it begins anew.
    """
    from sealr.emotion.training.card import finish
    from sealr.emotion.head import fit_head

    with _log_file(out):
        trained = (fit if arguments.rank else fit_head)(data, out, arguments, on_epoch)
        card = finish(data, out, asdict(arguments), trained)
        for name, digest in card["sha256"].items():
            log.info("%s: SHA-256 %s", name, digest)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return card


@contextmanager
def _log_file(out: Path) -> Iterator[None]:
    """Messages of sealr.emotion go to training.log too: appended to where a killed training goes on, else a new file."""
    out.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(out / LOG, "a" if (out / CHECKPOINT).exists() else "w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("sealr.emotion")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for every TrainArguments field."""
    for name, value in asdict(TrainArguments()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="default: %(default)s")
    parser.add_argument(
        "--head-only", dest="rank", action="store_const", const=0, help="short for --rank 0: minutes, not half an hour"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sealr.emotion.training.train", description="Trains the embedded labeller on GoEmotions."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv.gz, dev.tsv.gz, test.tsv.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder for adapter, head, labeller.json, MODEL_CARD.md")
    add_options(parser)
    values = vars(parser.parse_args(argv))
    data, out = values.pop("data"), values.pop("out")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(data, out, TrainArguments(**values))


if __name__ == "__main__":
    main()
