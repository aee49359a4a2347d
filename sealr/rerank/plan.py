"""Estimates parameters, memory, tokens and hours of fine-tuning before anything is downloaded.

Parameters and bytes are counted from the architecture: frozen weights, LoRA's weights with gradients and two moments,
and what autograd keeps of a step. Time follows from two measured rates of this machine: that of a matrix product for
multiplications, and that of memory for all else. benchmarks/README.md compares estimates with real training.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from transformers import LlamaConfig

from sealr import weights
from sealr.config import ConfigError
from sealr.data.sequences import Sequences, gate_draw
from sealr.evaluate.protocols import split_users
from sealr.rerank.generative.palr import PREFERENCE_TOKENS, item_names, name_prompt, question
from sealr.rerank.generative.prompts import prompt
from sealr.rerank.llm import device
from sealr.rerank.requests import RerankInput
from sealr.rerank.scoring.model import INSTRUCTION
from sealr.rerank.scoring.train import VALID_USERS
from sealr.settings import Config, RerankConfig

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
ADAPTER_BYTES = 4  # adapters and their inputs are float32
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # a 4-bit weight and its share of two levels of scales
PASSES = 12  # over kept bytes in a step; fitted to SmolLM2 on a CPU
ATTENTION_BACKWARD = 2.5  # multiplications relative to the forward pass: attention weights are computed again
PROCESS_BYTES = 0.9e9  # Python with all libraries
SAMPLE = 64  # prompts whose tokens are counted
CONTENT = 384  # width of text embeddings
PIECES = re.compile(r"\d|[^\W\d_]{1,6}|[^\w\s]|_|\n")  # roughly the tokens of a LLaMA tokenizer
SHAPES = {  # other models are read from their config.json
    "HuggingFaceTB/SmolLM2-135M-Instruct": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
    "meta-llama/Llama-2-7b-hf": LlamaConfig(),
}


@dataclass(frozen=True)
class Rates:
    flops: float  # multiplications and additions per second in a matrix product
    bytes: float  # bytes per second moved by one pass over memory
    machine: str


@dataclass(frozen=True)
class Workload:
    """What an epoch reads, as means over prompts."""

    prompts: int
    valid_prompts: int
    tokens: float  # with the answer; for the scoring ranker soft tokens and instruction
    answer: float  # positions with a loss
    choices: int  # logits of such a position
    width: int  # of the vectors that make a logit
    soft: int = 0  # trained parameters beside the adapter
    read_once: float = 0.0  # tokens read before training, for written preferences
    source: str = ""  # how tokens were counted


@dataclass(frozen=True)
class Plan:
    parameters: int  # with the adapter
    trainable: int
    weight_bytes: float
    adapter_bytes: float  # weights, gradients, two moments
    kept_bytes: float  # of one step for the backward pass
    peak_bytes: float
    step_seconds: float
    check_seconds: float  # of a batch without a backward pass
    hours: float  # of all epochs with validation


def shape_of(base: str) -> LlamaConfig:
    """From config.json if the model is on this machine, else from SHAPES. Raises ConfigError for unknown models."""
    if ((folder := weights.local(base) or Path(base).expanduser()) / "config.json").is_file():
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    if base not in SHAPES:
        known = ", ".join(SHAPES)
        raise ConfigError(f"rerank.base: the shape of {base} is not known: set a folder with config.json, or {known}")
    return SHAPES[base]


def token_counter(base: str) -> tuple[Callable[[str], int], str]:
    """Counts the tokens of a text, and says how."""
    if (folder := weights.local(base)) is None:
        return lambda text: len(PIECES.findall(text)), "estimated, the tokenizer is not here"
    with weights.quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return lambda text: len(tokenizer.encode(text)), "by the tokenizer"


def workload(
    config: Config, shape: LlamaConfig, sequences: Sequences, items: pd.DataFrame, refit: bool = False
) -> Workload:
    """Counts what the ranker reads. refit: when it is trained for serving, without validation."""
    rerank, rows, category, n = config.rerank, sequences.split("test").users, config.data.category, sequences.n_items
    transductive = rerank.user_split == "transductive"
    held_out = 3 if transductive and not refit else 1  # items of a user without a loss: the first, and those held out
    if transductive:
        train, valid = int((sequences.lengths > held_out).sum()), min(len(rows), VALID_USERS)
    else:
        users = [sequences.users[row] for row in rows]
        gate = {user for user in users if gate_draw(user) < config.evaluate.gate_share}
        split = split_users(users, rerank.finetune_share, rerank.valid_share, config.evaluate.seed, gate)
        tuned = [*split.train, *split.valid] if refit else split.train
        train, valid = len(tuned[: rerank.max_users or None]), len(split.valid)
    valid = 0 if refit else valid
    count, how = token_counter(rerank.base)
    if rerank.ranker == "scoring":
        lengths = sequences.lengths[rows] - held_out
        length = np.minimum(lengths[lengths > 0], rerank.max_history).mean()
        instruction = count(INSTRUCTION.format(category=category)) / rerank.batch_size  # read once per step
        inner, width = config.retrieve.hidden, shape.hidden_size
        soft = 2 * inner * width + inner + (n + 1) * inner
        soft += (7 * width if rerank.sentiment != "none" else 0) + (
            CONTENT * inner if rerank.scoring.content != "none" else 0
        )
        choices = n if rerank.scoring.negative_source == "full" else rerank.scoring.n_hard_negatives + 1
        return Workload(train, valid, length + instruction, length, choices, inner, soft)
    rng, palr = np.random.default_rng(0), rerank.ranker == "palr"
    names, counted = item_names(items) if palr else [], []  # tokens of prompt, answer and question
    for row in rng.choice(rows, min(SAMPLE, len(rows)), replace=False):
        *history, second, last = sequences.sequence(row).tolist()
        pool = (rng.choice(n, min(rerank.n_reranked, n), replace=False) + 1).tolist()
        request = RerankInput(history, np.full((len(history), 2), 2), pool)
        if palr:
            text = name_prompt(request, pool, category, "", names, rerank.max_history)
            texts = [text, f"{names[last]}\n{names[second]}", question(request, category, names, rerank.max_history)]
        else:
            text = prompt(request, pool, category, rerank.max_history, rerank.sentiment != "none")
            texts = [text, f"{last},{second}", ""]
        counted.append([count(text) for text in texts])
    tokens, answer, asked = np.mean(counted, axis=0).tolist()
    known = PREFERENCE_TOKENS if palr else 0
    counts = (tokens + known + answer, answer + 1, shape.vocab_size, shape.hidden_size)
    written = palr and not refit  # preferences are kept
    return Workload(train, valid, *counts, 0, asked + known if written else 0.0, f"; tokens {how}")


def plan(config: RerankConfig, shape: LlamaConfig, work: Workload, rates: Rates) -> Plan:
    """Arithmetic only. Treats the prompts of a step as equally long."""
    layers = min(config.layers or shape.num_hidden_layers, shape.num_hidden_layers)
    h, inner, e, nf4 = (
        shape.hidden_size,
        shape.intermediate_size,
        DTYPE_BYTES[config.dtype],
        config.quantization == "nf4",
    )
    kv = h // shape.num_attention_heads * (shape.num_key_value_heads or shape.num_attention_heads)
    sizes = {"q_proj": (h, h), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (h, h)}  # (inputs, outputs)
    sizes |= {"gate_proj": (h, inner), "up_proj": (h, inner), "down_proj": (inner, h)}
    adapted = [sizes[name] for name in config.lora.targets if name in sizes]
    linear = layers * sum(a * b for a, b in sizes.values())
    other = shape.vocab_size * h * (1 if shape.tie_word_embeddings else 2) + (2 * layers + 1) * h
    lora = layers * sum(map(sum, adapted)) * config.lora.r
    weight_bytes = other * e + linear * (NF4_BYTES if nf4 else e)
    weight_bytes += max(a * b for a, b in sizes.values()) * e if nf4 else 0  # the layer that is unpacked
    adapter_bytes = 4 * (lora + work.soft) * ADAPTER_BYTES

    # What autograd keeps of a step: adapters keep their inputs; frozen weights need none
    batch = min(config.batch_size, work.prompts)
    mask = 1 if device() != "cpu" else ADAPTER_BYTES  # of dropout; a byte if its kernel is fused
    adapters = sum(a for a, _ in adapted) * (ADAPTER_BYTES + (mask if config.lora.dropout else 0))
    adapters += len(adapted) * config.lora.r * ADAPTER_BYTES
    layer = adapters + 2 * h * 4 + 4 * h * e + 3 * inner * e  # norms, attention, feed-forward
    logits = 3 * work.answer * work.choices * 4  # logits, their logarithms, the gradient
    kept = batch * (layers * work.tokens * layer + logits)

    attention, head = 4 * layers * h * work.tokens**2, 2 * work.answer * work.choices * work.width
    forward = batch * (2 * (linear + lora) * work.tokens + attention + head)
    backward = batch * (2 * (linear + 2 * lora) * work.tokens + ATTENTION_BACKWARD * attention + 2 * head)
    unpacking = 2 * linear * (NF4_BYTES + e) / rates.bytes if nf4 else 0.0  # in each of two passes
    step = (forward + backward) / rates.flops + PASSES * kept / rates.bytes + unpacking
    checking = forward / rates.flops + 2 * kept / rates.bytes + unpacking / 2
    epoch = math.ceil(work.prompts / batch) * step + math.ceil(work.valid_prompts / batch) * checking
    once = (work.prompts + work.valid_prompts) * work.read_once * 2 * linear / rates.flops
    peak, hours = PROCESS_BYTES + weight_bytes + adapter_bytes + kept, (config.epochs * epoch + once) / 3600
    trained = lora + work.soft
    return Plan(linear + other + trained, trained, weight_bytes, adapter_bytes, kept, peak, step, checking, hours)


def machine_rates(config: RerankConfig, shape: LlamaConfig, tokens: int = 256, seconds: float = 1.0) -> Rates:
    """Measures a product (tokens, hidden) x (hidden, inner) and a copy in memory, ``seconds`` each."""
    options, inner = {"device": device(), "dtype": getattr(torch, config.dtype)}, min(shape.intermediate_size, 1536)
    a, b = torch.randn(tokens, shape.hidden_size, **options), torch.randn(shape.hidden_size, inner, **options)
    block = torch.zeros(2**24, device=device())  # 64 MiB: larger than any cache
    target = torch.empty_like(block)
    products, copies = _rate(lambda: a @ b, seconds), _rate(lambda: target.copy_(block), seconds)
    machine = f"CPU, {torch.get_num_threads()} threads" if device() == "cpu" else torch.cuda.get_device_name()
    return Rates(2 * tokens * shape.hidden_size * inner * products, 4 * block.numel() * copies, machine)


def busy_seconds() -> float:
    """CPU time per thread, which other programs do not change; with a GPU, wall-clock time."""
    if device() != "cpu":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def _rate(work: Callable[[], object], seconds: float) -> float:
    """Calls per second."""
    work()
    calls, started = 0, busy_seconds()
    while (passed := busy_seconds() - started) < seconds or not calls:
        work()
        calls += 1
    return calls / passed


def text(config: RerankConfig, made: Plan, work: Workload, rates: Rates, refit: Plan) -> str:
    """The plan for a terminal. refit: the plan for what is served."""
    depth, lora = f"first {config.layers} layers" if config.layers else "all layers", config.lora
    kind, share = "NF4" if config.quantization == "nf4" else config.dtype, made.trainable / made.parameters
    tokens = f"{work.prompts * work.tokens:,.0f} tokens"
    rows = {
        "ranker": f"{config.ranker}, base {config.base}, {depth}, LoRA r {lora.r} alpha {lora.alpha}",
        "parameters": f"{made.parameters:,}, {made.trainable:,} of them trained ({share:.2%})",
        "weights": f"{_bytes(made.weight_bytes)} ({kind})",
        "trained weights, gradients, optimizer": _bytes(made.adapter_bytes),
        "kept for the backward pass": f"{_bytes(made.kept_bytes)}, {config.batch_size} x {work.tokens:,.0f} tokens",
        "peak memory": f"about {_bytes(made.peak_bytes)}",
        "one epoch": f"{work.prompts:,} prompts, {tokens}{work.source}",
        "this machine": f"{rates.flops / 1e9:,.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s ({rates.machine})",
        "one step": f"about {made.step_seconds:.2f} s",
        f"fine-tuning, {config.epochs} epochs": f"at most about {made.hours:.2f} hours",
        "refit, if the LLM gets a weight": f"at most about {refit.hours:.2f} hours more, for what is served",
    }
    return "\n".join(f"{name:37}  {value}" for name, value in rows.items())


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
