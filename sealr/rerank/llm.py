"""The base LLM and its LoRA adapter (Section 2.3; LoRA: Hu et al. 2021; NF4: Dettmers et al. 2023)."""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers  # its classes are loaded on first use
from torch import Tensor, nn

from sealr import weights
from sealr.data.tables import read_json, write_json
from sealr.retrieve.retriever import device
from sealr.settings import RerankConfig

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER = "adapter"  # subfolder of the stage that holds the best epoch's adapter
PEFT_WARNS = "`is_gradient_checkpointing` is deprecated"  # peft asks transformers by an old name; no user can help it
OLD_CACHE, NEW_CACHE = "past_key_values", "cache"  # the argument's name up to transformers 5.23, and since


class AdapterError(ValueError):
    """The adapter on disk has no effect in the model."""


@functools.cache
def cache_argument() -> str:
    """The name of the argument that takes the LLM's cache; the wrong one is refused, or warns in every call."""
    known = inspect.signature(transformers.LlamaModel.forward).parameters
    return NEW_CACHE if NEW_CACHE in known else OLD_CACHE


def load_tokenizer(base: str) -> Any:
    """The base model's tokenizer; it pads on the left so that all prompts end in the same column."""
    folder = weights.resolve(base)
    with weights.quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # LLaMA has none; padding is masked, so any token works
    return tokenizer


def load_base(config: RerankConfig) -> nn.Module:
    """The frozen base LLM, cut to ``config.layers`` decoder layers and quantized as configured, on `device`.

    With ``config.init`` random its weights are drawn from the seed, layer by layer as the model initialises them.

    Raises ValueError when the model has fewer layers.
    """
    # peft imports bitsandbytes, which warns on CPUs with bfloat16 about a kernel that has to be downloaded
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
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
        if config.init == "random":
            with torch.random.fork_rng():
                torch.manual_seed(config.seed)  # so that training and serving draw the same weights
                shape = transformers.AutoConfig.from_pretrained(folder)
                model: Any = transformers.AutoModelForCausalLM.from_config(shape, **options)
        else:
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    if config.layers:
        if config.layers > len(model.model.layers):
            depth = len(model.model.layers)
            raise ValueError(f"rerank.layers is {config.layers}, but {config.base} has {depth} layers")
        model.model.layers = model.model.layers[: config.layers]
        model.config.num_hidden_layers = config.layers
    model.requires_grad_(False)
    if config.quantization == "none":
        return model.to(device())
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        # On CPUs with bfloat16, bitsandbytes repacks 4-bit weights at the first pass without gradients. Repacked
        # weights have no backward pass: after a validation most gradients would silently be lost
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def add_lora(config: RerankConfig) -> PeftModel:
    """The base model with a fresh LoRA adapter, which has no effect until it is trained."""
    base, lora = load_base(config), config.lora
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=PEFT_WARNS)
        return get_peft_model(base, settings)


def load_adapter(config: RerankConfig, folder: Path) -> PeftModel:
    """The base model with a trained adapter, in eval mode. Raises AdapterError as `attach` does."""
    return attach(load_base(config), folder, config.base)


def attach(base: nn.Module, folder: Path, name: str) -> PeftModel:
    """A base model of that name with a trained adapter, in eval mode.

    Raises AdapterError when adapter weights are missing or have no effect. peft only warns about keys that do not
    match, and the model would be the bare base model.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=PEFT_WARNS)
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        try:
            model = PeftModel.from_pretrained(base, str(folder))
        except Warning as warning:
            raise AdapterError(f"the adapter in {folder} does not fit {name}: {warning}") from None
    model.eval()
    check_adapter(model, str(folder))
    return model


@torch.inference_mode()
def check_adapter(model: PeftModel, source: str) -> None:
    """Raises AdapterError, which names ``source``, unless disabling the adapter changes the logits of a probe."""
    probe = torch.arange(1, 9, device=next(model.parameters()).device)[None]  # (1, 8)
    adapted = model(probe).logits
    with model.disable_adapter():
        plain = model(probe).logits
    if torch.equal(adapted, plain):
        raise AdapterError(f"the adapter in {source} changes nothing: it was not trained or not loaded")


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes a trained adapter; equal adapters give equal bytes. Raises AdapterError when it has no effect."""
    check_adapter(model, "memory")
    model.save_pretrained(str(folder), save_embedding_layers=False)
    settings = folder / "adapter_config.json"  # peft writes sets, whose order differs between processes
    write_json({k: sorted(v) if isinstance(v, list) else v for k, v in read_json(settings).items()}, settings)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card


def count_parameters(model: nn.Module) -> dict[str, int]:
    """``trainable_parameters`` and ``parameters``."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trainable_parameters": trainable, "parameters": sum(p.numel() for p in model.parameters())}


def pad_left(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token lists -> ids and attention mask, both (B, T) int64, padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
