"""The embedded labeller's network: MiniLM with a LoRA adapter, mean pooling and a 28-way head, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sealr.data.tables import EMOTIONS, atomic_path, read_json
from sealr.weights import quiet, resolve

BASE = "sentence-transformers/all-MiniLM-L6-v2"
TARGETS = ("query", "key", "value", "dense")
ADAPTER, HEAD, CARD = "adapter_model.safetensors", "head.safetensors", "labeller.json"
ADAPTER_CONFIG = "adapter_config.json"
FILES = (ADAPTER, HEAD, ADAPTER_CONFIG)  # of weights, in a labeller folder
PROBE = "Thank you so much, I am really happy with it!"  # a working adapter changes the outputs for it


class AdapterError(ValueError):
    """The adapter's files do not fit the base model, or the adapter has no effect."""


class EmotionNetwork(nn.Module):
    """Encoder, mean over tokens, linear head: a logit per emotion, in the order of EMOTIONS."""

    def __init__(self, encoder: Any, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder: Any = encoder  # a transformers model, with or without an adapter
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, len(EMOTIONS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) ids and mask -> (B, 28) logits."""
        return self.head(self.dropout(self.pool(input_ids, attention_mask)))

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) ids and mask -> (B, H), the mean over the tokens of each text."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (B, L, H)
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (B, L, 1)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def load_base(name: str = BASE) -> tuple[nn.Module, Any]:
    """Encoder (without its pooler) and tokenizer of the base model. Raises WeightsError."""
    folder = resolve(name)
    with quiet():
        # for short texts on a CPU, plain attention is faster than the fused kernel
        encoder = transformers.AutoModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation="eager", dtype=torch.float32
        )
        return encoder, transformers.AutoTokenizer.from_pretrained(folder)


def new_network(encoder: nn.Module, rank: int, alpha: int, base: str = BASE) -> EmotionNetwork:
    """A network with a new adapter on every linear layer; only adapter and head have gradients."""
    import peft  # here, because importing it takes seconds and most commands label nothing

    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=list(TARGETS), base_model_name_or_path=base
    )
    with quiet():
        return EmotionNetwork(peft.get_peft_model(encoder, config))


def trainable(network: EmotionNetwork) -> dict[str, Tensor]:
    """Parameters of adapter and head by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def save_network(network: EmotionNetwork, folder: Path, base: str = BASE) -> None:
    """Writes adapter (peft format, half precision) and head (single precision), each atomically."""
    import peft

    folder.mkdir(parents=True, exist_ok=True)
    config = network.encoder.peft_config["default"]
    config.base_model_name_or_path = base  # the name, not the folder it was resolved to
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # peft keeps a set: files would differ between runs
    config.save_pretrained(str(folder))
    state = peft.get_peft_model_state_dict(network.encoder, save_embedding_layers=False)
    with atomic_path(folder / ADAPTER) as temporary:
        save_file({k: v.detach().half().contiguous() for k, v in state.items()}, temporary, metadata={"format": "pt"})
    with atomic_path(folder / HEAD) as temporary:
        save_file({k: v.detach().float().contiguous() for k, v in network.head.state_dict().items()}, temporary)


def read_card(folder: Path) -> dict[str, Any]:
    """labeller.json of a folder that has all its files. Raises AdapterError."""
    if absent := [name for name in (CARD, *FILES) if not (folder / name).is_file()]:
        raise AdapterError(
            f"{folder} is not a labeller, it has no {', '.join(absent)}: make one with sealr train-labeller"
        )
    return read_json(folder / CARD)


def load_network(folder: Path) -> tuple[EmotionNetwork, Any, dict[str, Any]]:
    """The network of a labeller folder with its adapter merged, the tokenizer and the values of labeller.json.

    Raises AdapterError if a tensor is missing or left over or the adapter has no effect; WeightsError without base
    model.
    """
    card = read_card(folder)
    if tuple(card["labels"]) != EMOTIONS:
        raise AdapterError(
            f"{folder / CARD}: the labels are not the 28 emotions in our order; train the labeller again"
        )
    encoder, tokenizer = load_base(card["base"])
    state = load_file(folder / ADAPTER)
    with quiet():  # peft only warns about mistakes; they are checked below
        import peft

        network = EmotionNetwork(peft.get_peft_model(encoder, peft.PeftConfig.from_pretrained(str(folder))))
        result: Any = peft.set_peft_model_state_dict(network.encoder, state)
    expected = peft.get_peft_model_state_dict(network.encoder, save_embedding_layers=False)
    wrong = sorted(set(expected) ^ set(state)) or [
        *(k for k in result.missing_keys if "lora_" in k),
        *result.unexpected_keys,
    ]
    if wrong:
        raise AdapterError(
            f"{folder / ADAPTER} does not fit {card['base']}: {len(wrong)} tensors missing or left over, "
            f"such as {wrong[0]}"
        )
    network.head.load_state_dict(load_file(folder / HEAD))
    network.eval()
    _check_effect(network, tokenizer, folder)
    network.encoder = network.encoder.merge_and_unload()
    return network.eval(), tokenizer, card


@torch.inference_mode()
def _check_effect(network: EmotionNetwork, tokenizer: Any, folder: Path) -> None:
    batch = tokenizer([PROBE], return_tensors="pt")
    on = network(batch.input_ids, batch.attention_mask)
    with network.encoder.disable_adapter():
        off = network(batch.input_ids, batch.attention_mask)
    if not torch.isfinite(on).all() or torch.allclose(on, off, atol=1e-4):
        raise AdapterError(f"the adapter in {folder} does not change the base model's outputs: it is empty")
