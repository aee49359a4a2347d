"""Readers turn texts into vectors: the mean hidden state of a frozen language model.

MiniLM was trained for this (Reimers & Gurevych, EMNLP 2019). On CPUs that can, an encoder runs in int8, like the
labeller. Any base LLM can read, too; ``content.layers`` cuts it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from sealr import weights
from sealr.emotion.engines import Engine, TorchEngine, int8_available, int8_engine, int8_fingerprint
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
            encoder = _is_encoder(settings)
            options: dict[str, Any] = {"add_pooling_layer": False, "attn_implementation": "eager"} if encoder else {}
            dtype = torch.float32 if encoder else torch.bfloat16
            model: Any = transformers.AutoModel.from_pretrained(folder, dtype=dtype, **options)
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        blocks = model.encoder.layer if encoder else model.layers
        if config.layers > len(blocks):
            raise ValueError(f"content.layers is {config.layers}, but {config.reader} has {len(blocks)} layers")
        if config.layers:
            del blocks[config.layers :]
        self.max_tokens, self.width = config.max_tokens, int(settings.hidden_size)
        self.identity = identity(config)
        network = MeanState(model)
        self.engine: Engine
        if encoder and int8_available():
            self.engine = int8_engine(network, self.tokenizer, f"reader-{self.identity}", config.max_tokens)
        else:
            self.engine = TorchEngine(network.to("cuda" if torch.cuda.is_available() else "cpu"))

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(N, width) float32; zeros for a text without tokens."""
        result = np.zeros((len(texts), self.width), np.float32)
        batches = list(self._batches(texts))
        found = self.engine.run([batch for _, batch in batches], torch.get_num_threads())
        for (rows, _), values in zip(batches, found, strict=True):
            result[rows] = values
        return result

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], tuple[np.ndarray, np.ndarray]]]:
        """Yields (rows of ``texts``, ids and mask (B, L)), the longest texts first."""
        cut = [text[: self.max_tokens * MAX_CHARACTERS] for text in texts]
        tokens = self.tokenizer(cut, truncation=True, max_length=self.max_tokens).input_ids if cut else []
        by_length = [i for i in sorted(range(len(cut)), key=lambda i: len(tokens[i])) if cut[i].strip() and tokens[i]]
        while by_length:
            width = len(tokens[by_length[-1]])
            rows = by_length[-max(1, BATCH_TOKENS // width) :]
            del by_length[-len(rows) :]
            mask = np.arange(width) < np.array([len(tokens[i]) for i in rows])[:, None]  # (B, width)
            ids = np.zeros(mask.shape, np.int64)
            ids[mask] = [token for i in rows for token in tokens[i]]
            yield rows, (ids, mask.astype(np.int64))


class MeanState(nn.Module):
    """The mean hidden state over the tokens of a text, scaled to length 1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) ids and mask -> (B, C) float32."""
        device = self.model.device
        states = self.model(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device))
        sums = (states.last_hidden_state.float() * attention_mask.to(device)[..., None]).sum(1)
        return F.normalize(sums, dim=1).cpu()  # no division by the number of tokens is needed


def identity(config: ContentConfig) -> str:
    """A short name of what the vectors depend on: the model's files, its layers, the tokens read, and the engine."""
    settings = _settings(config.reader)
    engine = int8_fingerprint() if _is_encoder(settings) and int8_available() else "torch"
    short = hashlib.sha256(engine.encode()).hexdigest()[:6]
    return f"{weights.digest(config.reader)[:16]}-{config.layers}-{config.max_tokens}-{short}"


@functools.cache
def _settings(reader: str) -> Any:
    """The configuration of a reader's model; a job asks for it ten times."""
    return transformers.AutoConfig.from_pretrained(weights.resolve(reader))


def _is_encoder(settings: Any) -> bool:
    """BERT and its kin, as opposed to an LLM."""
    return hasattr(settings, "type_vocab_size")
