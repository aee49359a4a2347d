"""The LLM with its adapter merged, as a Hugging Face folder, and proof that it answers as the model does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from sealr.data.tables import write_json
from sealr.export import ask_llm
from sealr.export.retriever import ExportError, History
from sealr.rerank.llm import ADAPTER, attach, load_base, load_tokenizer
from sealr.rerank.rankers import GenerativeRanker, PalrRanker, ScoringRanker, load_ranker
from sealr.rerank.requests import RerankInput
from sealr.rerank.scoring.model import SOFT_TOKENS
from sealr.settings import Config, RerankConfig

PROBES = 8  # histories that both are asked about
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # of the standard deviation of a probe's scores


def write_llm(
    packed: Path, config: Config, items: pd.DataFrame, histories: Sequence[History], folder: Path
) -> dict[str, Any]:
    """Writes the merged LLM and its tokenizer and, for the scoring ranker, its soft tokens and ask.py.

    packed: the folder of the model. items: its table. Returns what the comparison found. Raises ExportError where the
    written LLM does not agree with the served one.
    """
    rerank, category = config.rerank, config.data.category
    probes = [h for h in histories if len(h.items)][:PROBES]
    ranker: Any = load_ranker(rerank, category, packed / ADAPTER, items)
    asked = [
        RerankInput(h.items.tolist(), h.feelings, list(range(1, min(len(items), rerank.n_reranked) + 1)))
        for h in probes
    ]
    if isinstance(ranker, ScoringRanker):
        wanted = torch.stack([_served_scores(ranker, request) for request in asked])
        _write_soft_tokens(ranker, folder)
    else:
        prompts = _prompts(ranker, asked)
        wanted = torch.stack([_logits(ranker.model, prompt) for prompt in prompts])
    del ranker  # the next lines load the weights again
    merged(rerank, packed / ADAPTER).save_pretrained(folder)
    load_tokenizer(rerank.base).save_pretrained(folder)
    if rerank.ranker == "scoring":
        shutil.copyfile(ask_llm.__file__, folder / "ask.py")
        written = ask_llm.LLM(folder)
        found = torch.stack([written.scores(list(r.history), np.asarray(r.feelings).tolist()) for r in asked])
    else:
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        found = torch.stack([_logits(plain, prompt) for prompt in prompts])
    spread = wanted.std(dim=1, correction=0).clamp(min=1e-6)
    worst, tolerance = float(((found - wanted).abs().amax(dim=1) / spread).max()), TOLERANCE[rerank.dtype]
    if not worst <= tolerance:
        raise ExportError(
            f"the merged LLM differs from the served one by {worst:.2g} standard deviations of its scores, more than "
            f"{tolerance:g}; nothing was written"
        )
    words = {"instruction_tokens": len(written.card["instruction_tokens"])} if rerank.ranker == "scoring" else {}
    return words | {"histories": len(asked), "largest_difference": worst, "tolerance": tolerance}


def merged(config: RerankConfig, adapter: Path) -> Any:
    """The base LLM with the adapter in its weights. 4-bit weights become the numbers that they stand for."""
    base: Any = load_base(config)
    if config.quantization == "nf4":
        base = base.dequantize()
    return attach(base, adapter, config.base).merge_and_unload()


@torch.inference_mode()
def _served_scores(ranker: ScoringRanker, request: RerankInput) -> Tensor:
    """(n_items + 1,) float32 scores of all items."""
    history, feelings = request.newest(ranker.config.max_history)
    device = ranker.table.device
    items, felt = torch.tensor([list(history)], device=device), torch.from_numpy(feelings)[None].to(device)
    return (ranker.table @ ranker.model.last(items, felt)[0]).float().cpu()


def _write_soft_tokens(ranker: ScoringRanker, folder: Path) -> None:
    """What `ask_llm` reads. The table holds the texts of items, where the model reads them."""
    tokens = ranker.model.tokens
    named = {
        "item_table": ranker.table,  # (n_items + 1, D)
        "in_weight": tokens.in_proj.weight,  # (H, D)
        "out_weight": tokens.out_proj.weight,  # (D, H)
        "out_bias": tokens.out_proj.bias,  # (D,)
    }
    if tokens.sentiment is not None:
        named["sentiment_tokens"] = tokens.sentiment.classes.weight  # (6, H)
        named["expected_token"] = tokens.sentiment.expected.weight[:, 0]  # (H,)
    folder.mkdir(parents=True)
    save_file({name: t.detach().float().cpu().clone().contiguous() for name, t in named.items()}, folder / SOFT_TOKENS)
    values = {"instruction_tokens": ranker.model.prefix[0].tolist(), "max_history": ranker.config.max_history}
    write_json(values, folder / "soft_tokens.json")


def _prompts(ranker: GenerativeRanker, asked: Sequence[RerankInput]) -> list[list[int]]:
    """Token ids of the prompts. PALR's base LLM first writes what it knows of each user, as when it is served."""
    if isinstance(ranker, PalrRanker):
        with ranker.model.disable_adapter():
            ranker.encoder.prepare(asked, lambda: ranker.model)
    return [ranker.encoder.prompt(request) for request in asked]


@torch.inference_mode()
def _logits(model: Any, prompt: Sequence[int]) -> Tensor:
    """(vocabulary,) float32 logits of the token after the prompt."""
    ids = torch.tensor([list(prompt)], device=next(model.parameters()).device)
    return model(ids).logits[0, -1].float().cpu()
