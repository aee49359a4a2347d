"""What fine-tuning will take, computed from the architecture's shapes before anything is downloaded.

Parameters and bytes are counted, not measured: a LLaMA layer's frozen weights, LoRA's weights with their gradients and two
moments, and what autograd keeps of a step (`kept_bytes`, one term an operation). Time is arithmetic over the rates of this
machine (`machine_rates`, about two seconds): multiplications at the rate of a matrix product of the same width, and everything
else at the rate of memory. What the estimate gave beside real training is in benchmarks/README.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sealr.config import ConfigError
from sealr.data.tables import read_json
from sealr.rerank.llm import device
from sealr.rerank.workload import Workload, local_folder
from sealr.settings import RerankConfig

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
ADAPTER_BYTES = 4  # peft keeps adapters, and what enters them, in float32
NF4_BYTES = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # a 4-bit weight, its share of a block's 8-bit scale, and of the scale's scale
# Over what a step keeps. Five can be counted (written and read in the forward pass, read again, gradient written and read); what
# is not kept, and dropout's random numbers, take as long again. Fitted to a step of SmolLM2 on a CPU: benchmarks/README.md
PASSES = 12
ATTENTION_BACKWARD = (
    2.5  # multiplications of attention's backward pass, by those of the forward: weights are computed again
)
PROCESS_BYTES = 0.9e9  # Python with torch, transformers, peft, MLflow and Prefect


@dataclass(frozen=True)
class Shape:
    """A LLaMA architecture: widths, depth and vocabulary."""

    vocabulary: int
    hidden: int
    inner: int  # width of the feed-forward part
    layers: int
    heads: int
    kv_heads: int
    tied: bool  # the output layer is the embedding

    @property
    def kv(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one decoder layer."""
        h, i, kv = self.hidden, self.inner, self.kv
        attention = {"q_proj": (h, h), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (h, h)}
        return attention | {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}


SHAPES = {  # of models that may not be here; others are read from their config.json
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(49152, 576, 1536, 30, 9, 3, True),
    "meta-llama/Llama-2-7b-hf": Shape(32000, 4096, 11008, 32, 32, 32, False),
}


@dataclass(frozen=True)
class Rates:
    """Of this machine."""

    flops: float  # float multiplications and additions a second, in a matrix product
    bytes: float  # bytes a second that one pass over memory moves
    where: str


@dataclass(frozen=True)
class Plan:
    parameters: int  # with the adapter
    trainable: int  # adapter and soft tokens
    weight_bytes: float
    adapter_bytes: float  # weights, gradients, two moments
    kept_bytes: float  # of one training step, for the backward pass
    tokens_an_epoch: float
    step_seconds: float
    hours: float  # of all epochs, with validation

    @property
    def peak_bytes(self) -> float:
        return PROCESS_BYTES + self.weight_bytes + self.adapter_bytes + self.kept_bytes


def shape_of(base: str) -> Shape:
    """Architecture of a base model: its config.json where it is on this machine, else SHAPES. Asks no hub.

    Raises ConfigError for a model that is neither here nor known.
    """
    folder = local_folder(base)
    if folder is not None:
        c = read_json(folder / "config.json")
        heads = c["num_attention_heads"]
        sizes = (c["vocab_size"], c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], heads)
        return Shape(*sizes, c.get("num_key_value_heads") or heads, bool(c.get("tie_word_embeddings", False)))
    if base in SHAPES:
        return SHAPES[base]
    known = ", ".join(SHAPES)
    raise ConfigError(
        f"rerank.base: the shape of {base} is not known; give a folder with config.json, or one of: {known}"
    )


def plan(config: RerankConfig, shape: Shape, work: Workload, rates: Rates) -> Plan:
    """Everything of `Plan` by arithmetic. Prompts of a step count as equally long."""
    layers = min(config.layers, shape.layers) if config.layers else shape.layers
    linear = layers * sum(a * b for a, b in shape.linears().values())
    embedding = shape.vocabulary * shape.hidden
    norms = (2 * layers + 1) * shape.hidden
    other = embedding * (1 if shape.tied else 2) + norms
    adapted = [shape.linears()[name] for name in config.lora.targets if name in shape.linears()]
    lora = layers * sum((a + b) * config.lora.r for a, b in adapted)
    e = DTYPE_BYTES[config.dtype]
    weight_bytes = other * e + linear * (NF4_BYTES if config.quantization == "nf4" else e)
    if config.quantization == "nf4":
        weight_bytes += max(a * b for a, b in shape.linears().values()) * e  # the layer at work, unpacked

    batch = min(config.batch_size, work.prompts)
    kept = kept_bytes(config, shape, layers, batch, work)
    attention = 4 * layers * shape.hidden * work.tokens**2
    head = 2 * work.answer * work.choices * work.width
    forward = batch * (2 * (linear + lora) * work.tokens + attention + head)
    backward = batch * (2 * (linear + 2 * lora) * work.tokens + ATTENTION_BACKWARD * attention + 2 * head)
    unpacking = (
        2 * linear * (NF4_BYTES + e) / rates.bytes if config.quantization == "nf4" else 0.0
    )  # in each of two passes
    step = (forward + backward) / rates.flops + PASSES * kept / rates.bytes + unpacking
    checking = forward / rates.flops + 2 * kept / rates.bytes + unpacking / 2
    steps = math.ceil(work.prompts / batch)
    epoch = steps * step + math.ceil(work.valid_prompts / batch) * checking
    once = (work.prompts + work.valid_prompts) * work.read_once * 2 * linear / rates.flops
    return Plan(
        parameters=linear + other + lora + work.soft,
        trainable=lora + work.soft,
        weight_bytes=weight_bytes,
        adapter_bytes=4 * (lora + work.soft) * ADAPTER_BYTES,
        kept_bytes=kept,
        tokens_an_epoch=work.prompts * work.tokens,
        step_seconds=step,
        hours=(config.epochs * epoch + once) / 3600,
    )


def kept_bytes(config: RerankConfig, shape: Shape, layers: int, batch: int, work: Workload) -> float:
    """What autograd keeps of one step: a term an operation. Frozen weights need no inputs kept, adapters do."""
    e, h = DTYPE_BYTES[config.dtype], shape.hidden
    mask = 1 if device() == "cuda" else ADAPTER_BYTES  # dropout's mask: a byte where its kernel is fused
    inputs = [shape.linears()[name][0] for name in config.lora.targets if name in shape.linears()]
    dropped = (
        sum(inputs) * (ADAPTER_BYTES + (mask if config.lora.dropout else 0))
        + len(inputs) * config.lora.r * ADAPTER_BYTES
    )
    norms = 2 * h * 4  # the input of each norm, in float32
    attention = 4 * h * e  # queries, keys and values repeated to all heads, and the result
    gated = 3 * shape.inner * e  # gate, its activation, and the up projection
    logits = 3 * work.answer * work.choices * 4  # as computed, their logarithms, and the gradient
    return batch * (layers * work.tokens * (dropped + norms + attention + gated) + logits)


def machine_rates(config: RerankConfig, shape: Shape, tokens: int = 256, seconds: float = 1.0) -> Rates:
    """Measures a matrix product (tokens, hidden) x (hidden, inner) and a copy in memory, ``seconds`` each.

    On a CPU by the processor time of a thread, so that other work on the machine does not count: the estimate is for an idle one.
    """
    where, dtype = device(), getattr(torch, config.dtype)
    inner = min(shape.inner, 1536)  # of a wide layer a part: the rate is the same, the wait is not
    a = torch.randn(tokens, shape.hidden, device=where, dtype=dtype)
    b = torch.randn(shape.hidden, inner, device=where, dtype=dtype)
    product = _rate(lambda: a @ b, seconds)
    block = torch.zeros(2**24, device=where)  # 64 MiB: larger than any cache
    target = torch.empty_like(block)
    copies = _rate(lambda: target.copy_(block), seconds)
    name = torch.cuda.get_device_name() if where == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return Rates(2 * tokens * shape.hidden * inner * product, 4 * block.numel() * copies, name)


def busy_seconds() -> float:
    """A clock of work done: the processor's seconds by thread, which other work does not change; with a GPU the clock's."""
    if device() == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def _rate(work: Callable[[], object], seconds: float) -> float:
    """Calls a second."""
    work()
    calls, started = 0, busy_seconds()
    while (passed := busy_seconds() - started) < seconds or not calls:
        work()
        calls += 1
    return calls / passed


def text(config: RerankConfig, made: Plan, work: Workload, rates: Rates) -> str:
    """For the terminal."""
    kind = "NF4" if config.quantization == "nf4" else config.dtype
    depth = f"first {config.layers} layers" if config.layers else "all layers"
    rows = [
        ("ranker", f"{config.ranker}, base {config.base}, {depth}, LoRA r {config.lora.r} alpha {config.lora.alpha}"),
        (
            "parameters",
            f"{made.parameters:,}, {made.trainable:,} of them trained ({made.trainable / made.parameters:.2%})",
        ),
        ("weights", f"{_bytes(made.weight_bytes)} ({kind})"),
        ("what is trained, gradients, optimizer", _bytes(made.adapter_bytes)),
        (
            "kept for the backward pass",
            f"{_bytes(made.kept_bytes)} ({config.batch_size} prompts of {work.tokens:,.0f} tokens)",
        ),
        ("memory at its peak", f"about {_bytes(made.peak_bytes)}"),
        ("an epoch", f"{work.prompts:,} prompts, {made.tokens_an_epoch:,.0f} tokens; {work.source}"),
        ("this machine, when idle", f"{rates.flops / 1e9:,.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s ({rates.where})"),
        ("a step", f"about {made.step_seconds:.2f} s"),
        (f"fine-tuning, {config.epochs} epochs at most", f"about {made.hours:.2f} hours"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
