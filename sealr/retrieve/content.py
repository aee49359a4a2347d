"""Text embeddings of items: title, brand and categories, embedded by MiniLM, the base model of the labeller.

A sentence embedding is the mean of the token states, scaled to length 1, as all-MiniLM-L6-v2 was trained (Reimers &
Gurevych, EMNLP 2019). The setting ``retrieve.content`` uses them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from sealr.emotion import network

MAX_TOKENS = 64  # title, brand and categories of an item have about 25
BATCH_TOKENS = 4096  # padding included


def item_texts(items: pd.DataFrame, order: list[str]) -> list[str]:
    """One text per item of ``order``: "title, by brand. categories"; empty if the table has none of them."""
    table = items.drop_duplicates("item").set_index("item").reindex(order)
    columns = (table[name].astype(object).where(table[name].notna(), "") for name in ("title", "brand", "categories"))
    return [_sentence(*(str(value).strip() for value in row)) for row in zip(*columns, strict=True)]


def _sentence(title: str, brand: str, categories: str) -> str:
    name = ", ".join([part for part in (title, brand and f"by {brand}") if part])
    return ". ".join(part for part in (name, categories) if part)


@torch.inference_mode()
def embed_items(items: pd.DataFrame, order: list[str], base: str = network.BASE) -> Tensor:
    """(len(order) + 1, width) float32 embeddings of length 1; row i is item ``order[i - 1]``.

    Row 0 and items without text are zeros. items: columns item, title, brand, categories, null if unknown. Reads the
    first MAX_TOKENS tokens of a text. Raises weights.WeightsError when the base model is not available.
    """
    encoder: Any
    encoder, tokenizer = network.load_base(base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.to(device).eval()
    texts = item_texts(items, order)
    unique = sorted({text for text in texts if text})
    vectors = torch.zeros(len(unique) + 1, encoder.config.hidden_size)  # the last row is for items without text
    tokens = tokenizer(unique, truncation=True, max_length=MAX_TOKENS).input_ids if unique else []
    by_length = sorted(range(len(unique)), key=lambda i: len(tokens[i]))
    with tqdm(total=len(unique), desc="embed items", unit="item", delay=2, disable=None) as bar:
        while by_length:
            width = len(tokens[by_length[-1]])
            batch = by_length[-max(1, BATCH_TOKENS // width) :]
            del by_length[-len(batch) :]
            lengths = np.array([len(tokens[i]) for i in batch])
            mask = torch.from_numpy(np.arange(width) < lengths[:, None]).to(device)  # (B, width)
            ids = torch.zeros(len(batch), width, dtype=torch.int64, device=device)
            ids[mask] = torch.tensor([t for i in batch for t in tokens[i]], device=device)
            states = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # (B, width, D)
            sums = (states * mask[..., None]).sum(1)  # scaled to length 1 below, so no division is needed
            vectors[torch.tensor(batch)] = F.normalize(sums, dim=1).cpu()
            bar.update(len(batch))
    rows = {text: i for i, text in enumerate(unique)}
    return torch.cat([vectors[-1:], vectors[[rows.get(text, -1) for text in texts]]])
