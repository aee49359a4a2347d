"""Readers turn texts into vectors: the mean hidden state of a frozen language model.

MiniLM was trained for this (Reimers & Gurevych, EMNLP 2019). Any base LLM can read, too; ``content.layers`` cuts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional as F

from sealr import weights
from sealr.settings import ContentConfig

BATCH_TOKENS = 4096  # padding included
MAX_CHARACTERS = 20  # of a token, on average; the rest of a longer text is cut before it is tokenised


class Reader:
    """Texts -> vectors of length 1. ``identity`` differs between readers whose vectors differ."""

    def __init__(self, config: ContentConfig) -> None:
        """Raises weights.WeightsError when the model is not available, ValueError when it has too few layers."""
        folder = weights.resolve(config.reader)
        with weights.quiet():
            settings = transformers.AutoConfig.from_pretrained(folder)
            decoder = not hasattr(settings, "type_vocab_size")  # an LLM, in place of an encoder such as BERT
            options: dict[str, Any] = {} if decoder else {"add_pooling_layer": False, "attn_implementation": "eager"}
            dtype = torch.bfloat16 if decoder else torch.float32
            model: Any = transformers.AutoModel.from_pretrained(folder, dtype=dtype, **options)
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        blocks = model.layers if decoder else model.encoder.layer
        if config.layers > len(blocks):
            raise ValueError(f"content.layers is {config.layers}, but {config.reader} has {len(blocks)} layers")
        if config.layers:
            del blocks[config.layers :]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.max_tokens = model.to(self.device).eval(), config.max_tokens
        self.width: int = settings.hidden_size
        self.identity = identity(config)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(N, width) float32; zeros for a text without tokens."""
        result = np.zeros((len(texts), self.width), np.float32)
        for rows, values in self.batches(texts):
            result[rows] = values
        return result

    @torch.inference_mode()
    def batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yields (rows of ``texts``, their vectors (B, width)), the longest texts first."""
        cut = [text[: self.max_tokens * MAX_CHARACTERS] for text in texts]
        tokens = self.tokenizer(cut, truncation=True, max_length=self.max_tokens).input_ids if cut else []
        by_length = [i for i in sorted(range(len(cut)), key=lambda i: len(tokens[i])) if cut[i].strip() and tokens[i]]
        while by_length:
            width = len(tokens[by_length[-1]])
            batch = by_length[-max(1, BATCH_TOKENS // width) :]
            del by_length[-len(batch) :]
            lengths = np.array([len(tokens[i]) for i in batch])
            mask = torch.from_numpy(np.arange(width) < lengths[:, None]).to(self.device)  # (B, width)
            ids = torch.zeros(len(batch), width, dtype=torch.int64, device=self.device)
            ids[mask] = torch.tensor([t for i in batch for t in tokens[i]], device=self.device)
            states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()  # (B, width, C)
            sums = (states * mask[..., None]).sum(1)  # scaled to length 1 below, so no division is needed
            yield batch, F.normalize(sums, dim=1).cpu().numpy()


def identity(config: ContentConfig) -> str:
    """A short name of what the vectors depend on: the model's files, its layers and the tokens that it reads."""
    return f"{weights.digest(config.reader)[:16]}-{config.layers}-{config.max_tokens}"
