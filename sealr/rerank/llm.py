"""Loading the base LLM and its LoRA adapter (Section 2.3; LoRA: Hu et al. 2021; NF4: Dettmers et al. 2023)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers  # by attribute: it loads what is named, when it is named
from torch import Tensor, nn

from sealr import weights
from sealr.settings import RerankConfig

if TYPE_CHECKING:  # peft and bitsandbytes are imported where they are used: that takes seconds, and most commands need neither
    from peft import PeftModel


class AdapterError(ValueError):
    """The adapter on disk is not the one at work in the model."""


def load_tokenizer(base: str) -> Any:
    """The base model's tokenizer, padding on the left so that prompts end at the same column."""
    folder = weights.resolve(base)
    with weights.quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # LLaMA has none; pads are masked, so any token will do
    return tokenizer


def load_base(config: RerankConfig) -> nn.Module:
    """The base causal LM, cut to ``config.layers`` decoder layers and quantised as configured, frozen."""
    from bitsandbytes.nn import Linear4bit

    options: dict[str, Any] = {"dtype": getattr(torch, config.dtype)}
    if config.quantization == "nf4":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, config.dtype),
        )
        options["device_map"] = {"": device()}
    folder = weights.resolve(config.base)
    with weights.quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    if config.layers:
        if config.layers > len(model.model.layers):
            raise ValueError(f"rerank.layers is {config.layers}, but {config.base} has {len(model.model.layers)} layers")
        model.model.layers = model.model.layers[: config.layers]
        model.config.num_hidden_layers = config.layers
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in model.modules():
        # On CPUs with bfloat16, bitsandbytes packs 4-bit weights anew at the first pass without gradients. Packed ones have no
        # backward pass, so that training after a validation would lose most of its gradients without a word
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model if config.quantization == "nf4" else model.to(device())


def add_lora(config: RerankConfig) -> PeftModel:
    """The base model with a fresh LoRA adapter (zero effect until trained)."""
    from peft import LoraConfig, get_peft_model

    lora = config.lora
    settings = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets), task_type="CAUSAL_LM"
    )
    return get_peft_model(load_base(config), settings)


def load_adapter(config: RerankConfig, folder: Path) -> PeftModel:
    """The base model with a trained adapter. Raises AdapterError when adapter weights are missing or have no effect.

    A peft adapter whose keys do not match is otherwise only a warning, and the model silently the base model.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        try:
            model = PeftModel.from_pretrained(load_base(config), str(folder))
        except Warning as warning:
            raise AdapterError(f"the adapter in {folder} does not fit {config.base}: {warning}") from None
    model.eval()
    check_adapter(model, str(folder))
    return model


@torch.inference_mode()
def check_adapter(model: PeftModel, where: str) -> None:
    """Raises AdapterError unless switching the adapter off changes the logits of a probe."""
    probe = torch.arange(1, 9, device=next(model.parameters()).device)[None]  # (1, 8)
    with_adapter = model(probe).logits
    with model.disable_adapter():
        without = model(probe).logits
    if torch.equal(with_adapter, without):
        raise AdapterError(f"the adapter in {where} changes nothing: it was not trained, or not loaded")


def pad_left(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token lists -> ids and attention mask, both (B, T) int64, padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def device() -> str:
    """The GPU of this process, else the CPU."""
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
