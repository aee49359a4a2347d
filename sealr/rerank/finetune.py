"""Instruction fine-tuning with LoRA (Section 2.3).

The answer of a training prompt is the user's last and second-to-last item, in that order, as in the paper; the history
ends before both. Only answer tokens carry loss. Every step seeds itself from (seed, step) and a checkpoint holds
adapter, optimiser and progress, so a run that was killed continues to exactly the same adapter. Several processes
(`sealr.rerank.launch`) share every batch: the same steps but for rounding and other dropout masks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from sealr.config import RerankConfig
from sealr.data.manifest import CHECKPOINT, Output
from sealr.data.tables import atomic_path, read_json, write_json
from sealr.rerank import parallel
from sealr.rerank.llm import add_lora, check_adapter, load_tokenizer, pad_left
from sealr.rerank.prompts import IdTokens, Request, prompt

log = logging.getLogger(__name__)
ADAPTER = "adapter"  # subfolder of the stage that holds the best adapter
WARMUP = 0.1  # share of all steps with a rising learning rate
CLIP = 1.0  # gradient norm
RANK_SEED = 7_368_787  # between the dropout seeds of two processes; more than there are steps


def finetune(
    train: Sequence[Request],
    valid: Sequence[Request],
    config: RerankConfig,
    category: str,
    folder: Path,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Output:
    """Trains an adapter and writes the one with the lowest validation loss to ``folder/adapter``.

    Raises ValueError when there is nothing to train or to validate on.
    """
    if not train or not valid:
        raise ValueError(
            f"fine-tuning needs users for training and for validation, got {len(train)} and {len(valid)}; raise rerank.ratio"
        )
    torch.manual_seed(config.seed)  # the same adapter in every process
    tokenizer = load_tokenizer(config.base)
    encoder = Encoder(tokenizer, config, category)
    model = add_lora(config)
    trainable = [p for p in model.parameters() if p.requires_grad]
    total = sum(p.numel() for p in model.parameters())
    rows = {
        "train_prompts": len(train),
        "valid_prompts": len(valid),
        "trainable_parameters": sum(p.numel() for p in trainable),
        "parameters": total,
    }
    log.info(
        "fine-tuning %s of %s parameters on %d prompts, seed %d",
        f"{rows['trainable_parameters']:,}",
        f"{total:,}",
        len(train),
        config.seed,
    )
    optimizer = torch.optim.AdamW(trainable, lr=config.lr, weight_decay=0.0)
    steps_an_epoch = -(-len(train) // config.batch_size)
    total_steps = steps_an_epoch * config.epochs
    progress = Progress()
    checkpoint = folder / CHECKPOINT / "finetune.pt"
    if checkpoint.exists():
        progress = _restore(checkpoint, model, optimizer)
        log.info("resuming fine-tuning at step %d of %d", progress.step, total_steps)
    first_process = parallel.rank() == 0
    bar = tqdm(total=total_steps, initial=progress.step, desc="fine-tune", unit="step", disable=None if first_process else True)
    while progress.step < total_steps and progress.stale < config.patience:
        epoch, first = divmod(progress.step, steps_an_epoch)
        order = np.random.default_rng((config.seed, epoch)).permutation(len(train))
        for i in range(first, steps_an_epoch):
            batch = [train[j] for j in order[i * config.batch_size : (i + 1) * config.batch_size]]
            torch.manual_seed(config.seed * 1_000_003 + progress.step + RANK_SEED * parallel.rank())  # LoRA dropout
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule(progress.step, total_steps)
            model.train()
            loss = torch.zeros((), device=trainable[0].device)
            if mine := parallel.share(batch):
                loss = answer_loss(model, *encoder.batch(mine, epoch)).sum() / encoder.answer_tokens(batch)
                loss.backward()
            loss = parallel.add_up_gradients(trainable, loss)  # the mean over the whole batch's tokens, and its gradient
            if not torch.isfinite(loss):  # before it gets into a checkpoint
                raise ValueError(f"the fine-tuning loss is not finite at step {progress.step}: lower rerank.lr (now {config.lr})")
            torch.nn.utils.clip_grad_norm_(trainable, CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.step += 1
            progress.loss_sum += loss.item()
            bar.update(1)
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            if first_process and progress.step % config.checkpoint_steps == 0 and progress.step % steps_an_epoch:
                _save(checkpoint, model, optimizer, progress)
        valid_loss = evaluate_loss(model, encoder, valid, config.batch_size)
        scores = {"train_loss": progress.loss_sum / steps_an_epoch, "valid_loss": valid_loss}
        progress.end_epoch(scores, _adapter_state(model))
        if first_process:
            _save(checkpoint, model, optimizer, progress)
        log.info("epoch %d: train loss %.4f, validation loss %.4f", epoch + 1, scores["train_loss"], valid_loss)
        if on_epoch:
            on_epoch(epoch + 1, scores)
    bar.close()
    set_peft_model_state_dict(model, progress.best)
    model.eval()
    check_adapter(model, "memory")
    if first_process:
        _write(model, folder / ADAPTER)
        write_json(progress.history, folder / "history.json")
    return Output(rows, {"valid_loss": min(h["valid_loss"] for h in progress.history), "epochs": len(progress.history)})


@dataclass
class Progress:
    """Where training stands; all of it goes into a checkpoint."""

    step: int = 0
    stale: int = 0  # validations since the best one
    loss_sum: float = 0.0  # of the epoch's steps so far
    history: list[dict[str, float]] | None = None
    best: dict[str, Tensor] | None = None  # adapter weights

    def end_epoch(self, scores: dict[str, float], adapter: dict[str, Tensor]) -> None:
        before = min((h["valid_loss"] for h in self.history or []), default=float("inf"))
        self.history = [*(self.history or []), scores]
        self.loss_sum = 0.0
        if scores["valid_loss"] < before:
            self.best, self.stale = adapter, 0
        else:
            self.stale += 1


class Encoder:
    """Turns requests into token batches under one tokenizer and configuration."""

    def __init__(self, tokenizer: Any, config: RerankConfig, category: str):
        self.tokenizer, self.config, self.category = tokenizer, config, category
        self.ids = IdTokens(tokenizer)
        self.pad = tokenizer.pad_token_id

    def prompt(self, request: Request, epoch: int = 0) -> list[int]:
        """Prompt tokens. A shuffled candidate order is a function of seed, epoch and the request alone."""
        pool = np.asarray(request.pool)
        if self.config.candidate_order == "shuffled":
            pool = np.random.default_rng((self.config.seed, epoch, *request.history[-3:], *pool.tolist())).permutation(pool)
        text = prompt(request, pool.tolist(), self.category, self.config.max_history, self.config.sentiment != "none")
        return self.tokenizer.encode(text)

    def batch(self, requests: Sequence[Request], epoch: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """ids (B, T), attention mask (B, T), and labels (B, A): the answers, right-aligned, -100 before them."""
        answers = [self.ids.answer(r.answer) for r in requests]
        ids, mask = pad_left([self.prompt(r, epoch) + a for r, a in zip(requests, answers, strict=True)], self.pad)
        width = max(map(len, answers))
        labels = torch.tensor([[-100] * (width - len(a)) + a for a in answers])
        return ids, mask, labels

    def answer_tokens(self, requests: Sequence[Request]) -> int:
        """How many tokens of a batch carry loss."""
        return sum(len(self.ids.answer(r.answer)) for r in requests)


def answer_loss(model: PeftModel, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every answer token, (number of answer tokens,). Logits are computed at answer positions only."""
    device = next(model.parameters()).device
    ids, mask, labels = ids.to(device), mask.to(device), labels.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    keep = labels.shape[1] + 1
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep, use_cache=False
    ).logits  # (B, A+1, V)
    real = labels != -100
    return F.cross_entropy(logits[:, :-1][real].float(), labels[real], reduction="none")


@torch.inference_mode()
def evaluate_loss(model: PeftModel, encoder: Encoder, requests: Sequence[Request], batch_size: int) -> float:
    """Mean loss per answer token, over the shares of all processes."""
    model.eval()
    batches = [parallel.share(requests[i : i + batch_size]) for i in range(0, len(requests), batch_size)]
    losses = [answer_loss(model, *encoder.batch(batch)).sum().double() for batch in batches if batch]
    total = torch.stack(losses).sum() if losses else torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
    return parallel.add_up(total).item() / encoder.answer_tokens(requests)


def schedule(step: int, total: int) -> float:
    """Linear warm-up, then linear decay to a tenth; the factor of the learning rate at a step from 0."""
    warm = max(1, round(WARMUP * total))
    return (step + 1) / warm if step < warm else 1.0 - 0.9 * (step - warm) / max(1, total - warm)


def _adapter_state(model: PeftModel) -> dict[str, Tensor]:
    # Embeddings are not adapted; without saying so peft asks the hub whether the vocabulary was resized
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {k: v.detach().cpu().clone() for k, v in state.items()}


def _write(model: PeftModel, folder: Path) -> None:
    """The adapter in peft's layout, the same bytes for the same weights."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    settings = folder / "adapter_config.json"  # peft writes sets, whose order changes from process to process
    write_json({k: sorted(v) if isinstance(v, list) else v for k, v in read_json(settings).items()}, settings)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card


def _save(path: Path, model: PeftModel, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    state = {"adapter": _adapter_state(model), "optimizer": optimizer.state_dict(), "progress": vars(progress)}
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _restore(path: Path, model: PeftModel, optimizer: torch.optim.Optimizer) -> Progress:
    state = torch.load(path, weights_only=True, map_location="cpu")
    set_peft_model_state_dict(model, state["adapter"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])
