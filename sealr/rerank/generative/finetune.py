"""Instruction fine-tuning with LoRA (Section 2.3).

The answer of a training prompt is the user's last and second-to-last item, in that order, as in the paper; the history
ends before both. Only answer tokens carry loss.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sealr.data.manifest import StageResult
from sealr.data.tables import read_json, write_json
from sealr.rerank import parallel
from sealr.rerank.fit import OnEpoch, fit, shuffled
from sealr.rerank.llm import add_lora, check_adapter, pad_left
from sealr.rerank.generative.prompts import IdTokens, ListTokens, RerankInput, prompt
from sealr.settings import RerankConfig

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger(__name__)
ADAPTER = "adapter"  # subfolder of the stage that holds the best adapter


def finetune(
    train: Sequence[RerankInput],
    valid: Sequence[RerankInput],
    config: RerankConfig,
    encoder: Encoder,
    folder: Path,
    on_epoch: OnEpoch | None = None,
) -> StageResult:
    """Trains an adapter and writes the one with the lowest validation loss to ``folder/adapter``.

    encoder: how a request is written: with encoded ids (the class below), or with names (``palr.NameEncoder``).
    Raises ValueError when there is nothing to train or to validate on.
    """
    check_users(len(train), len(valid))
    torch.manual_seed(config.seed)
    task = Instructions(add_lora(config), encoder, train, valid)
    rows = {"train_users": len(train), "valid_users": len(valid)} | count_parameters(task.model)
    log.info("fine-tuning %s of %s parameters on %d prompts, seed %d", *sizes(rows), len(train), config.seed)
    done = fit(task, config, folder, on_epoch)
    if parallel.rank() == 0:
        save_adapter(task.model, folder / ADAPTER)
        write_json(done.history, folder / "history.json")
    return StageResult(rows, done.metrics("valid_loss"))


class Instructions:
    """The task of ``fit``: prompts with their answers."""

    weight_decay = 0.0

    def __init__(self, model: PeftModel, encoder: Encoder, train: Sequence[RerankInput], valid: Sequence[RerankInput]):
        self.model, self.encoder, self.train, self.valid = model, encoder, train, valid

    def batches(self, epoch: int) -> list[np.ndarray]:
        config = self.encoder.config
        return shuffled(len(self.train), config.batch_size, config.seed, epoch)

    def loss(self, rows: Sequence[int], batch: np.ndarray, epoch: int) -> Tensor:
        losses = answer_loss(self.model, *self.encoder.batch([self.train[i] for i in rows], epoch))
        return losses.sum() / self.encoder.answer_tokens([self.train[i] for i in batch])

    def validate(self) -> dict[str, float]:
        return {"valid_loss": evaluate_loss(self.model, self.encoder, self.valid, self.encoder.config.batch_size)}

    def judge(self, scores: dict[str, float]) -> float:
        return scores["valid_loss"]

    def state(self) -> dict[str, Tensor]:
        return adapter_state(self.model)

    def load(self, state: dict[str, Tensor]) -> None:
        set_adapter_state(self.model, state)


class Encoder:
    """Turns requests into token batches under one tokenizer and configuration: items are encoded ids."""

    ids: ListTokens

    def __init__(self, tokenizer: Any, config: RerankConfig, category: str):
        self.tokenizer, self.config, self.category = tokenizer, config, category
        self.ids = IdTokens(tokenizer)
        self.pad = tokenizer.pad_token_id

    def prompt(self, request: RerankInput, epoch: int = 0) -> list[int]:
        """Prompt tokens."""
        shown = self.shown(request, epoch)
        text = prompt(request, shown, self.category, self.config.max_history, self.config.sentiment != "none")
        return self.tokenizer.encode(text)

    def shown(self, request: RerankInput, epoch: int) -> list[int]:
        """The pool in the prompt's order. A shuffled order is a function of seed, epoch and the request alone."""
        pool = np.asarray(request.pool)
        if self.config.candidate_order == "shuffled":
            pool = np.random.default_rng((self.config.seed, epoch, *request.history[-3:], *pool.tolist())).permutation(pool)
        return pool.tolist()

    def batch(self, requests: Sequence[RerankInput], epoch: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """ids (B, T), attention mask (B, T), and labels (B, A): the answers, right-aligned, -100 before them."""
        answers = [self.ids.answer(r.answer) for r in requests]
        ids, mask = pad_left([self.prompt(r, epoch) + a for r, a in zip(requests, answers, strict=True)], self.pad)
        width = max(map(len, answers))
        labels = torch.tensor([[-100] * (width - len(a)) + a for a in answers])
        return ids, mask, labels

    def answer_tokens(self, requests: Sequence[RerankInput]) -> int:
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
def evaluate_loss(model: PeftModel, encoder: Encoder, requests: Sequence[RerankInput], batch_size: int) -> float:
    """Mean loss per answer token, over the shares of all processes."""
    model.eval()
    batches = [parallel.share(requests[i : i + batch_size]) for i in range(0, len(requests), batch_size)]
    losses = [answer_loss(model, *encoder.batch(batch)).sum().double() for batch in batches if len(batch)]
    total = torch.stack(losses).sum() if losses else torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
    return parallel.add_up(total).item() / encoder.answer_tokens(requests)


def check_users(train: int, valid: int) -> None:
    """Raises ValueError unless there is somebody to train and somebody to validate on."""
    if not train or not valid:
        raise ValueError(f"fine-tuning needs users for training and for validation, got {train} and {valid}; raise rerank.finetune_share")


def count_parameters(model: nn.Module) -> dict[str, int]:
    return {
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def sizes(rows: dict[str, int]) -> tuple[str, str]:
    """``count_parameters`` for a log line."""
    return f"{rows['trainable_parameters']:,}", f"{rows['parameters']:,}"


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """Copies of the adapter's weights."""
    from peft import get_peft_model_state_dict

    # Embeddings are not adapted; without saying so peft asks the hub whether the vocabulary was resized
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {k: v.detach().cpu().clone() for k, v in state.items()}


def set_adapter_state(model: PeftModel, state: dict[str, Tensor]) -> None:
    """Puts back what ``adapter_state`` gave."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, state)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes a trained adapter, the same bytes in every process. Raises AdapterError when it changes nothing."""
    check_adapter(model, "memory")
    model.save_pretrained(str(folder), save_embedding_layers=False)
    settings = folder / "adapter_config.json"  # peft writes sets, whose order changes from process to process
    write_json({k: sorted(v) if isinstance(v, list) else v for k, v in read_json(settings).items()}, settings)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
