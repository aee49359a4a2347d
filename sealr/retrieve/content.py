"""Text embeddings of items: title, brand and categories through MiniLM, the base of the embedded labeller without its adapter.

A sentence embedding is the mean of the token states, scaled to length 1, as all-MiniLM-L6-v2 was trained (Reimers &
Gurevych, EMNLP 2019). Computed once for a catalogue: see ``content`` in the retriever's configuration.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from sealr.data.sequences import SequenceError
from sealr.emotion import network

MAX_TOKENS = 64  # an item's name, brand and categories take about 25
BATCH_TOKENS = 4096  # with padding


def read_items(path: Path) -> pd.DataFrame:
    """Items table (item, title, brand, categories) of a tab-separated file with a header; gzip by suffix.

    Columns item, brand and categories, and title or phrase, in any order; of categories "a|b" the parts become "a, b", and a
    brand "Unknown" is none. Goes with ``read_sequences``. Raises SequenceError naming file and line or column.
    """
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\r\n").split("\t") for line in file]
    header = [{"phrase": "title"}.get(name, name) for name in rows[0]] if rows else []
    for name in ("item", "title", "brand", "categories"):
        if name not in header:
            raise SequenceError(f"{path}: there is no column {name!r}; the columns are: {', '.join(header[:8])}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise SequenceError(f"{path} line {number}: {len(row)} columns, the header has {len(header)}")
    frame = pd.DataFrame(rows[1:], columns=header, dtype="str")[["item", "title", "brand", "categories"]]
    frame["brand"] = frame["brand"].where(frame["brand"] != "Unknown", "")
    frame["categories"] = frame["categories"].str.replace("|", ", ")
    return frame.where(frame != "", None)


def item_texts(items: pd.DataFrame, order: list[str]) -> list[str]:
    """One sentence an item of ``order``: "title, by brand. categories"; empty where the table says nothing of it."""
    table = items.drop_duplicates("item").set_index("item").reindex(order)
    columns = (table[name].astype(object).where(table[name].notna(), "") for name in ("title", "brand", "categories"))
    return [_sentence(*(str(value).strip() for value in row)) for row in zip(*columns, strict=True)]


def _sentence(title: str, brand: str, categories: str) -> str:
    name = ", ".join([part for part in (title, brand and f"by {brand}") if part])
    return ". ".join(part for part in (name, categories) if part)


@torch.inference_mode()
def embed_items(items: pd.DataFrame, order: list[str], base: str = network.BASE) -> Tensor:
    """(len(order) + 1, width) float32 of length 1; row i is item ``order[i - 1]``, row 0 and items without text are zeros.

    items: columns item, title, brand, categories, null where not known. Of a long text the first MAX_TOKENS are read; the
    same text is embedded once. Raises weights.WeightsError when the base model cannot be had.
    """
    encoder, tokenizer = network.load_base(base)
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.to(where).eval()
    texts = item_texts(items, order)
    unique = sorted({text for text in texts if text})
    vectors = torch.zeros(len(unique) + 1, encoder.config.hidden_size)  # the last row stands for no text
    tokens = tokenizer(unique, truncation=True, max_length=MAX_TOKENS).input_ids if unique else []
    by_length = sorted(range(len(unique)), key=lambda i: len(tokens[i]))
    with tqdm(total=len(unique), desc="embed items", unit="item", delay=2, disable=None) as bar:
        while by_length:
            width = len(tokens[by_length[-1]])
            batch = by_length[-max(1, BATCH_TOKENS // width) :]
            del by_length[-len(batch) :]
            lengths = np.array([len(tokens[i]) for i in batch])
            mask = torch.from_numpy(np.arange(width) < lengths[:, None]).to(where)  # (B, width)
            ids = torch.zeros(len(batch), width, dtype=torch.int64, device=where)
            ids[mask] = torch.tensor([t for i in batch for t in tokens[i]], device=where)
            states = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # (B, width, D)
            sums = (states * mask[..., None]).sum(1)  # of length 1 below, so there is no need to divide
            vectors[torch.tensor(batch)] = F.normalize(sums, dim=1).cpu()
            bar.update(len(batch))
    rows = {text: i for i, text in enumerate(unique)}
    return torch.cat([vectors[-1:], vectors[[rows.get(text, -1) for text in texts]]])
