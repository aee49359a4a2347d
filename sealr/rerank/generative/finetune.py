"""Instruction fine-tuning with LoRA (Section 2.3).

As in the paper, the answer to a training prompt is the user's last and second-to-last item, in that order. The history
ends before both. Only answer tokens have a loss:

    loss = -1 / (answer tokens of the batch) * sum of log p(token | prompt, earlier answer tokens)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sealr.data.manifest import StageResult
from sealr.rerank.generative.prompts import IdTokens, ListTokens, answer_tokens, prompt
from sealr.rerank.llm import add_lora, load_base, pad_left, save_adapter
from sealr.rerank.requests import RerankInput, check_users
from sealr.rerank.training import shuffled
from sealr.rerank.training import train as run_training
from sealr.settings import RerankConfig
from sealr.trainer import OnEpoch, SingleProcess

if TYPE_CHECKING:
    from peft import PeftModel


def finetune(
    train: Sequence[RerankInput],
    valid: Sequence[RerankInput],
    config: RerankConfig,
    encoder: Encoder,
    folder: Path,
    on_epoch: OnEpoch | None = None,
    processes: SingleProcess | None = None,
    stop: int | None = None,
) -> StageResult:
    """Trains an adapter and writes that of the epoch with the lowest validation loss to ``folder/adapter``.

    encoder: writes prompts and answers, with encoded ids (`Encoder`) or with names (``palr.NameEncoder``).
    stop: train for so many epochs, without validation. Raises ValueError when there is nothing to train or validate on.
    """
    check_users(len(train), len(valid), stop)
    encoder.prepare([*train, *valid], lambda: load_base(config).eval())
    torch.manual_seed(config.seed)
    task = Instructions(add_lora(config), encoder, train, valid)
    rows = {"train_users": len(train), "valid_users": len(valid)}
    return run_training(task, config, folder, rows, ["valid_loss"], on_epoch, processes, stop=stop)


@dataclass
class Instructions:
    """Task of `sealr.trainer`: prompts with answers."""

    model: PeftModel
    encoder: Encoder
    train: Sequence[RerankInput]
    valid: Sequence[RerankInput]

    def batches(self, epoch: int) -> list[np.ndarray]:
        config = self.encoder.config
        return shuffled(len(self.train), config.batch_size, config.seed, epoch)

    def loss(self, shard: np.ndarray, batch: np.ndarray, epoch: int) -> tuple[Tensor, float]:
        losses = answer_loss(self.model, *self.encoder.batch([self.train[i] for i in shard], epoch))
        return losses.sum() / self.encoder.count_answer_tokens([self.train[i] for i in batch]), 1.0

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """``valid_loss``: mean loss per answer token."""
        size = self.encoder.config.batch_size
        batches = [self.valid[start : start + size] for start in range(0, len(self.valid), size)]
        losses = [answer_loss(self.model, *self.encoder.batch(batch)).sum().double() for batch in batches]
        return {"valid_loss": torch.stack(losses).sum().item() / self.encoder.count_answer_tokens(self.valid)}

    def judge(self, scores: dict[str, float]) -> float:
        return scores["valid_loss"]

    def save(self, folder: Path) -> None:
        save_adapter(self.model, folder)


class Encoder:
    """Turns requests into token batches; items are encoded ids."""

    def __init__(self, tokenizer: Any, config: RerankConfig, category: str):
        self.tokenizer, self.config, self.category = tokenizer, config, category
        self.ids: ListTokens = IdTokens(tokenizer)
        self.pad = tokenizer.pad_token_id

    def prepare(self, requests: Sequence[RerankInput], load: Callable[[], nn.Module]) -> None:
        """Does what the prompts of these requests need the base LLM for. load: returns it; only called if needed."""

    def prompt(self, request: RerankInput, epoch: int = 0) -> list[int]:
        """Tokens of the prompt."""
        order = self.shuffled_pool(request, epoch)
        text = prompt(request, order, self.category, self.config.max_history, self.config.sentiment != "none")
        return self.tokenizer.encode(text)

    def shuffled_pool(self, request: RerankInput, epoch: int) -> list[int]:
        """The pool in the order of the prompt, which depends on seed, epoch and request only.

        Shuffling hides the retriever's order from the LLM.
        """
        rng = np.random.default_rng((self.config.seed, epoch, *request.history[-3:], *request.pool))
        return rng.permutation(request.pool).tolist()

    def batch(self, requests: Sequence[RerankInput], epoch: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """ids (B, T), attention mask (B, T), labels (B, A): the answers on the right, -100 before them."""
        answers = [answer_tokens(self.ids, r.answer) for r in requests]
        rows = [self.prompt(r, epoch) + answer for r, answer in zip(requests, answers, strict=True)]
        width = max(map(len, answers))
        labels = torch.tensor([[-100] * (width - len(answer)) + answer for answer in answers])
        return *pad_left(rows, self.pad), labels

    def count_answer_tokens(self, requests: Sequence[RerankInput]) -> int:
        return sum(len(answer_tokens(self.ids, r.answer)) for r in requests)


def answer_loss(model: PeftModel, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each answer token, (answer tokens,). Logits are only computed at answer positions."""
    device = next(model.parameters()).device
    ids, mask, labels = ids.to(device), mask.to(device), labels.to(device)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=labels.shape[1] + 1,
        use_cache=False,
    )
    real = labels != -100  # (B, A)
    return F.cross_entropy(out.logits[:, :-1][real].float(), labels[real], reduction="none")
