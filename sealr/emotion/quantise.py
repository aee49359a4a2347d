"""An encoder of the BERT family in 8 bits, for CPUs where that is faster than single precision.

All scales are fixed when the encoder is loaded: those of the weights by output, those of the activations from a few
texts that go through the network in single precision. What would be a pass over memory at run time is folded into
weights, biases and layer norms, so that between two matrix products hardly anything is left to do:

* An activation is kept in units of its 8-bit levels, one unit for each channel, chosen between the sizes of the
  activation and of the weights it meets (SmoothQuant, Xiao et al. 2023, alpha = .5): outliers of one channel do not
  cost the others their precision, and a text's labels do not depend on the other texts of its batch.
* A layer norm's weight and bias are divided by the unit, so it writes units; the residual takes the unit back.
* Attention mixes values with weights that add up to 1, so values in units give a mixture in units.
* GELU is computed inside the product before it, which writes levels; the product after it reads them as they are.

Softmax, layer norms and the residual stream stay in single precision. docs/labelling.md has the measurements.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

METHOD = "static 1"  # part of a labeller's identity: change it when what this module computes changes
ZERO = 128  # the level of an activation of 0, except after GELU
HALF = ZERO + 0.5  # is added to an activation in units, so that dropping its fraction rounds it
ROOM = 1.1  # an activation may be this many times the largest one of calibration before it is cut off,
GELU_ROOM = 0.6  # and one after GELU this share: it has one unit for all channels, and few neurons are that large
GELU_LOW = -0.17  # GELU's least value is -0.16997
CALIBRATION = (
    "I love this so much, it is the best one I have ever had!",
    "Thank you!! You made my day :)",
    "Worst purchase ever. It broke after two days and nobody answers my mails, I am so ANGRY.",
    "Works as described.",
    "I'm not sure what it is for... does anyone know? Is it 9V or 12V, 50 Hz?",
    "lol that was hilarious 😂😂",
    "Sorry for your loss, that must have been terrible; I was afraid of something like that.",
    "Ugh, gross. It smells of plastic, and the colour is disgusting",
    "Oh wow, I did not expect that! Can't wait to try it tonight, so excited.",
    "Well made and easy to tune. The low E string buzzes a little, but for $19.99 (with shipping) I can live with that. "
    "I have been playing for 20 years and own four of these: two at home, one in the studio and one in the car. If you "
    "need something for the road, buy it. If you want the sound of the expensive ones, save your money and wait, as the "
    "pickups are weak and the finish scratches at once. My son was disappointed, my wife laughed, and I will keep it.",
    "No. Just no. I regret it and I feel embarrassed that I recommended it to a friend [NAME].",
    "Finally, what a relief! I hope it lasts. I'm proud of you, congrats on the new job, you deserve it",
)  # the largest activations of 128-token windows and of short texts; any other plain English would do


class QuantiseError(ValueError):
    """The encoder is not of the BERT family, or this CPU has no 8-bit kernels."""


def supported() -> bool:
    """Whether this machine has the 8-bit kernels that were measured: oneDNN on x86."""
    return platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()


def weight_levels() -> int:
    """Levels of a weight on each side of 0: all 8 bits where the CPU adds products up in 32 bits (VNNI).

    Elsewhere two neighbouring products must fit 16 bits: 255 * 64 * 2 < 2^15.
    """
    return 127 if torch.cpu._is_vnni_supported() else 64


def quantised(encoder: nn.Module, tokenizer: Any) -> Int8Encoder:
    """The same encoder in 8 bits; merge adapters before. Raises QuantiseError."""
    if not supported():
        raise QuantiseError("label.precision: int8 needs an x86 CPU and a PyTorch with oneDNN; use float32")
    kind = (encoder.config.model_type, getattr(encoder.config, "hidden_act", ""))
    if kind not in (("bert", "gelu"), ("roberta", "gelu")):
        raise QuantiseError(f"label.precision: int8 is for BERT and RoBERTa with GELU, not for {kind[0]}; use float32")
    return Int8Encoder(encoder, _largest(encoder, tokenizer))


@torch.inference_mode()
def _largest(encoder: nn.Module, tokenizer: Any) -> dict[nn.Module, Tensor]:
    """Largest absolute value of each channel of what every linear layer reads, over the calibration texts."""
    seen: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest = inputs[0].flatten(0, -2).abs().amax(0)
        seen[layer] = torch.maximum(seen[layer], largest) if layer in seen else largest

    hooks = [m.register_forward_pre_hook(note) for m in encoder.encoder.modules() if isinstance(m, nn.Linear)]
    limit = min(128, encoder.config.max_position_embeddings - 2)
    try:
        for text in CALIBRATION:
            encoder(**tokenizer(text, truncation=True, max_length=limit, return_tensors="pt"))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _unit(largest: Tensor, weight: Tensor) -> Tensor:
    """(in,) size of a level in every channel, for inputs up to ROOM * largest that meet ``weight`` (out, in)."""
    largest, width = largest.clamp(min=1e-5), weight.abs().amax(0).clamp(min=1e-5)
    unit = (largest / width).sqrt()
    return unit * (ROOM * largest / unit).amax() / (ZERO - 1)


def _levels(x: Tensor) -> Tensor:
    """Values in units, HALF included -> uint8, cut off at both ends."""
    return x.clamp(0, 255).to(torch.uint8)


class Int8Linear(nn.Module):
    """(N, in) uint8 levels -> (N, out) float32, or the levels of its GELU where ``gelu`` gives their size."""

    def __init__(self, weight: Tensor, bias: Tensor, zero: int = ZERO, gelu: float | None = None) -> None:
        super().__init__()
        weight, self.bias = weight.detach(), bias.detach()
        self.width, self.zero = weight.shape[1], zero
        self.scale = weight.abs().amax(1).clamp(min=1e-12) / weight_levels()
        self.weight_zero = torch.zeros(len(weight), dtype=torch.int64)
        self.packed = torch.ops.onednn.qlinear_prepack((weight / self.scale[:, None]).round().to(torch.int8), None)
        plain = (1.0, 0, torch.float32, "none", [], "")
        self.result = plain if gelu is None else (gelu, round(-GELU_LOW / gelu), torch.uint8, "gelu", [], "none")

    def forward(self, levels: Tensor) -> Tensor:
        return torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, self.zero, self.packed, self.scale, self.weight_zero, self.bias, *self.result
        )


class Int8Block(nn.Module):
    """One transformer block. Its input and, if ``after`` is given, its output are in units."""

    def __init__(self, block: nn.Module, heads: int, largest: dict[nn.Module, Tensor], unit: Tensor, after: Tensor | None) -> None:
        super().__init__()
        read, out, up, down = block.attention.self, block.attention.output.dense, block.intermediate.dense, block.output.dense
        self.heads, self.unit = heads, unit
        mixed = _unit(largest[out], out.weight)
        self.middle = _unit(largest[up], up.weight)
        gelu = float(GELU_ROOM * largest[down].amax() - GELU_LOW) / 255
        value = read.value.weight / mixed[:, None]
        self.qkv = Int8Linear(
            torch.cat([read.query.weight, read.key.weight, value]) * unit,
            torch.cat([read.query.bias, read.key.bias, read.value.bias / mixed + HALF]),
        )
        self.out = Int8Linear(out.weight * mixed, out.bias - HALF * unit)  # the residual brings HALF * unit back
        self.up = Int8Linear(up.weight * self.middle, up.bias, gelu=gelu)
        self.down = Int8Linear(down.weight * gelu, down.bias - HALF * self.middle, zero=round(-GELU_LOW / gelu))
        self.norm, self.last_norm = _norm(block.attention.output.LayerNorm, self.middle), block.output.LayerNorm
        if after is not None:
            self.last_norm = _norm(self.last_norm, after)

    def forward(self, x: Tensor, batch: int, mask: Tensor | None) -> Tensor:
        """x: (B * L, H); mask: (B, 1, 1, L) bool, None where nothing is padded. Returns (B * L, H)."""
        width = x.shape[1]
        parts = (
            self.qkv(_levels(x)).view(batch, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )  # (3, B, heads, L, H/heads)
        mixed = functional.scaled_dot_product_attention(*parts, attn_mask=mask).transpose(1, 2).reshape(-1, width)
        x = self.norm(self.out(_levels(mixed)).addcmul_(x, self.unit))
        return self.last_norm(self.down(self.up(_levels(x))).addcmul_(x, self.middle))


def _norm(norm: nn.LayerNorm, unit: Tensor) -> nn.LayerNorm:
    """The same layer norm with its result in units."""
    result = nn.LayerNorm(norm.normalized_shape, norm.eps)
    result.weight.data, result.bias.data = norm.weight.detach() / unit, norm.bias.detach() / unit + HALF
    return result


class Int8Encoder(nn.Module):
    """Takes the place of a BertModel or RobertaModel; for inference only."""

    @torch.no_grad()
    def __init__(self, encoder: nn.Module, largest: dict[nn.Module, Tensor]) -> None:
        super().__init__()
        self.config = encoder.config
        self.embeddings = encoder.embeddings
        self.pooler = getattr(encoder, "pooler", None)
        units: list[Tensor | None] = []  # of each block's input; the last block's output is as it was
        for block in encoder.encoder.layer:
            read = block.attention.self
            meets = torch.cat([read.query.weight, read.key.weight, read.value.weight])
            units.append(_unit(largest[read.query], meets))
        units.append(None)
        self.unit = units[0]
        self.blocks = nn.ModuleList(
            Int8Block(block, encoder.config.num_attention_heads, largest, unit, after)
            for block, unit, after in zip(encoder.encoder.layer, units, units[1:], strict=False)
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **ignored: object) -> transformers.modeling_outputs.BaseModelOutputWithPooling:
        """(B, L) ids and mask -> last_hidden_state (B, L, H), and the pooled state where the model has a pooler."""
        batch, length = input_ids.shape
        mask = None if bool(attention_mask.all()) else attention_mask[:, None, None, :].bool()
        x = self.embeddings(input_ids=input_ids).flatten(0, 1) / self.unit + HALF  # (B * L, H)
        for block in self.blocks:
            x = block(x, batch, mask)
        hidden = x.view(batch, length, -1)
        pooled = self.pooler(hidden) if self.pooler else None
        return transformers.modeling_outputs.BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)
