"""An encoder of the BERT family in 8 bits, for CPUs where that is faster than single precision.

Weights are quantised once with a scale for each output, activations at run time with a scale for each token. With a
scale for a whole tensor, as PyTorch's own dynamic quantisation has it, the labels of a text would depend on the other
texts of its batch, and macro-F1 falls by .02 on GoEmotions. Attention, GELU and layer norms stay in single precision.
docs/labelling.md has the measurements.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling

# Two neighbouring products must fit 16 bits, as AVX2 adds them up before it widens: (127 + 128) * 64 * 2 < 2^15
WEIGHT_LEVELS, LEVELS = 64, 127


class QuantiseError(ValueError):
    """The encoder is not of the BERT family, or this CPU has no 8-bit kernels."""


def supported() -> bool:
    """Whether this machine has the 8-bit kernels that were measured: oneDNN on x86."""
    return platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()


def quantised(encoder: nn.Module) -> Int8Encoder:
    """The same encoder in 8 bits; merge adapters before. Raises QuantiseError."""
    if not supported():
        raise QuantiseError("label.precision: int8 needs an x86 CPU and a PyTorch with oneDNN; use float32")
    kind = (encoder.config.model_type, getattr(encoder.config, "hidden_act", ""))
    if kind not in (("bert", "gelu"), ("roberta", "gelu")):
        raise QuantiseError(f"label.precision: int8 is for BERT and RoBERTa with GELU, not for {kind[0]}; use float32")
    return Int8Encoder(encoder)


class Int8Linear(nn.Module):
    """Several linear layers with the same input as one, in 8 bits."""

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        weight = torch.cat([layer.weight.detach() for layer in layers])  # (out, in)
        self.bias = torch.cat([layer.bias.detach() for layer in layers])
        self.scale = weight.abs().amax(1).clamp(min=1e-12) / WEIGHT_LEVELS
        self.zero = torch.zeros(len(weight), dtype=torch.int64)
        self.packed = torch.ops.onednn.qlinear_prepack((weight / self.scale[:, None]).round().to(torch.int8), None)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out) float32."""
        # amax and amin are vectorised, aminmax and abs are not
        scale = torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_()).clamp_(min=1e-12).div_(LEVELS)
        levels = (x * scale.reciprocal()).round_().to(torch.int8)
        y = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, 0, self.packed, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return torch.addcmul(self.bias, y, scale, out=y)


class Int8Block(nn.Module):
    """One transformer block."""

    def __init__(self, block: nn.Module, heads: int) -> None:
        super().__init__()
        attention = block.attention
        self.heads = heads
        self.qkv = Int8Linear(attention.self.query, attention.self.key, attention.self.value)
        self.out, self.norm = Int8Linear(attention.output.dense), attention.output.LayerNorm
        self.up, self.down = Int8Linear(block.intermediate.dense), Int8Linear(block.output.dense)
        self.last_norm = block.output.LayerNorm

    def forward(self, x: Tensor, batch: int, mask: Tensor | None) -> Tensor:
        """x: (B * L, H); mask: (B, 1, 1, L) bool, None where nothing is padded. Returns (B * L, H)."""
        width = x.shape[1]
        parts = (
            self.qkv(x).view(batch, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )  # (3, B, heads, L, H/heads)
        mixed = functional.scaled_dot_product_attention(*parts, attn_mask=mask).transpose(1, 2).reshape(-1, width)
        x = self.norm(self.out(mixed).add_(x))
        return self.last_norm(self.down(functional.gelu(self.up(x))).add_(x))


class Int8Encoder(nn.Module):
    """Takes the place of a BertModel or RobertaModel; for inference only."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.config = encoder.config
        self.embeddings = encoder.embeddings
        self.blocks = nn.ModuleList(Int8Block(b, encoder.config.num_attention_heads) for b in encoder.encoder.layer)
        self.pooler = getattr(encoder, "pooler", None)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **ignored: object) -> BaseModelOutputWithPooling:
        """(B, L) ids and mask -> last_hidden_state (B, L, H), and the pooled state where the model has a pooler."""
        batch, length = input_ids.shape
        mask = None if bool(attention_mask.all()) else attention_mask[:, None, None, :].bool()
        x = self.embeddings(input_ids=input_ids).flatten(0, 1)  # (B * L, H)
        for block in self.blocks:
            x = block(x, batch, mask)
        hidden = x.view(batch, length, -1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=self.pooler(hidden) if self.pooler else None)
