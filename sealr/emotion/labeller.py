"""Texts to 28 emotion probabilities (Section 2.1).

A long review is split into windows of equal length. Its probabilities are the mean over its windows, weighted by their
numbers of tokens. The rest of a text beyond the last window is ignored, so a pasted book costs as much as a long
review.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np

from sealr.data.manifest import text_digest
from sealr.data.tables import EMOTIONS
from sealr.emotion import backends
from sealr.emotion.cleaning import VERSION, clean, has_letters
from sealr.progress import QUICK, progress_bar
from sealr.settings import LabelConfig

log = logging.getLogger(__name__)
WINDOW_TOKENS = 128  # per window, special tokens included
MAX_WINDOWS = 4  # read per text: 504 tokens of content
BATCH_TOKENS = 1024  # padded tokens per forward pass; more than the CPU cache holds is slower
CHARACTERS_PER_TOKEN = 16  # read per token at most, before tokenising; English has 4 to 5
EMPTY, NO_WORDS = -1, -2  # in the place of an index: a text with nothing to read, or without a known word
PLAIN_WORD = re.compile(r"(?<!\S)[A-Za-z]{1,20}(?![^\s.,;:!?])")  # every tokenizer knows these, if only as letters


class Labeller:
    """Computes probabilities of texts.

    name: which weights and precision. identity: a hash of everything the probabilities depend on.
    """

    def __init__(
        self,
        backend: backends.Backend,
        config: LabelConfig,
        window_tokens: int = WINDOW_TOKENS,
        max_windows: int = MAX_WINDOWS,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self.backend, self.config, self.batch_tokens = backend, config, batch_tokens
        self.name = backend.spec.name
        marked, plain = backend.tokenizer("a").input_ids, backend.tokenizer("a", add_special_tokens=False).input_ids
        start = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
        self._before, self._after = marked[:start], marked[start + len(plain) :]  # such as [CLS] and [SEP]
        self.window_size = min(window_tokens, backend.max_tokens) - len(self._before) - len(self._after)
        self.max_tokens = self.window_size * max_windows  # read per text
        self.identity = identity(backend.spec, window_tokens, max_windows)

    @classmethod
    def from_config(cls, config: LabelConfig, precision: backends.Precision = "auto") -> Labeller:
        """The labeller a configuration names. precision: see `backends.resolve_labeller`.

        Raises weights.WeightsError, backends.LabellerError, network.AdapterError or engines.EngineError.
        """
        return cls(backends.load(backends.resolve_labeller(config.model, precision)), config)

    def clean(self, texts: Sequence[str | None]) -> tuple[np.ndarray, list[str]]:
        """(N,) index of each text in the distinct cleaned texts, or EMPTY or NO_WORDS; and those texts."""
        limit, few = self.max_tokens * CHARACTERS_PER_TOKEN, len(texts) < QUICK
        if not few:
            log.info("cleaning %s texts", f"{len(texts):,}")
        codes, places, unique = np.full(len(texts), EMPTY, np.int64), dict[str, int](), list[str]()
        with progress_bar(texts, label="clean", unit="texts", hidden=few) as bar:
            for row, given in enumerate(bar):
                if not (text := clean(given, limit)):
                    continue
                if (place := places.get(text)) is None:
                    place = places[text] = len(unique) if self._has_words(text) else NO_WORDS
                    if place != NO_WORDS:
                        unique.append(text)
                codes[row] = place
        return codes, unique

    def _has_words(self, text: str) -> bool:
        """Whether a cleaned text has letters in any token that the tokenizer knows."""
        if PLAIN_WORD.search(text):
            return True
        tokens = self.backend.tokenizer.convert_ids_to_tokens(self.tokenize([text])[0])
        return has_letters(text) and any(has_letters(t) for t in tokens if t != self.backend.tokenizer.unk_token)

    def probabilities(self, texts: Sequence[str | None]) -> np.ndarray:
        """(N, 28) float32 in the order of EMOTIONS; rows of NaN where a text has nothing to read."""
        codes, unique = self.clean(texts)
        return expand_to_rows(self.predict_texts(unique), codes)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids that are read of each text, without special tokens."""
        if not len(texts):
            return []
        ids = self.backend.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
        return [t[: self.max_tokens] for t in ids]

    def predict_texts(self, texts: Sequence[str], workers: int = 1) -> np.ndarray:
        """Cleaned texts -> (N, 28) float32. workers: concurrent batches, each on a core of its own."""
        return self.predict_tokens(self.tokenize(texts), workers)

    def predict_tokens(self, tokens: list[list[int]], workers: int = 1) -> np.ndarray:
        """Token ids per text -> (N, 28) float32."""
        windows = [(owner, w) for owner, ids in enumerate(tokens) for w in split_windows(ids, self.window_size)]
        order = sorted(range(len(windows)), key=lambda i: -len(windows[i][1]))  # stable: ties stay in text order
        batches: list[list[tuple[int, list[int]]]] = []
        while order:
            size = max(1, self.batch_tokens // self._width(windows[order[0]][1]))
            batches.append([windows[i] for i in order[:size]])
            del order[:size]
        total = np.zeros((len(tokens), len(EMOTIONS)))
        weight = np.zeros((len(tokens), 1))
        results = self.backend.engine.run([self._pad([w for _, w in batch]) for batch in batches], workers)
        for batch, probabilities in zip(batches, results, strict=True):
            for (owner, ids), p in zip(batch, probabilities.astype(np.float64), strict=True):
                count = max(1, len(ids))  # a text whose characters the tokenizer drops still has a window
                total[owner] += count * p
                weight[owner] += count
        return (total / weight).astype(np.float32)

    def _width(self, window: list[int]) -> int:
        return len(self._before) + len(window) + len(self._after)

    def _pad(self, windows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Windows, the longest first -> ids and mask, both (B, L) int64."""
        ids = np.full((len(windows), self._width(windows[0])), self.backend.tokenizer.pad_token_id or 0)
        mask = np.zeros_like(ids)
        for row, window in enumerate(windows):
            full = self._before + window + self._after
            ids[row, : len(full)] = full
            mask[row, : len(full)] = 1
        return ids, mask


def expand_to_rows(probabilities: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Rows of (U, 28) by index -> (N, 28); rows of NaN for EMPTY and NO_WORDS."""
    return np.concatenate([probabilities, np.full((1, len(EMOTIONS)), np.nan, np.float32)])[np.maximum(codes, -1)]


def identity(spec: backends.LabellerSpec, window_tokens: int = WINDOW_TOKENS, max_windows: int = MAX_WINDOWS) -> str:
    """A hash of everything the probabilities depend on: weights, cleaning and windows."""
    return text_digest([spec.digest, VERSION, window_tokens, max_windows])[:16]


def labeller_id(config: LabelConfig) -> str:
    """Name and identity of the labeller a configuration names on this machine, without loading its weights."""
    spec = backends.resolve_labeller(config.model, "auto")  # as `from_config`: the fallback is logged once
    return f"{spec.name} {identity(spec)}"


def split_windows(tokens: list[int], size: int) -> list[list[int]]:
    """Consecutive windows of at most ``size`` tokens whose lengths differ by at most one."""
    count = max(1, -(-len(tokens) // size))
    edges = [len(tokens) * i // count for i in range(count + 1)]
    return [tokens[a:b] for a, b in zip(edges, edges[1:], strict=False)]
