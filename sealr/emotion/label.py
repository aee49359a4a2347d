"""Emotion labels of reviews (Section 2.1): 28 probabilities a text, and the paper's sentiment class.

A long review is cut into windows of equal length; its probabilities are the mean over its windows, weighted by their
numbers of tokens. Of a text at most ``window_tokens * max_windows`` tokens are read (and, before tokenising, at most
CHARACTERS_PER_TOKEN characters for each of them), so a pasted book costs no more than a long review.
"""

from __future__ import annotations

import html
import logging
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from sealr.data.manifest import CHECKPOINT, StageResult, text_digest
from sealr.data.tables import EMOTIONS, write_table
from sealr.emotion import backends
from sealr.emotion.cache import LabelCache
from sealr.emotion.ray_engine import compute
from sealr.emotion.sentiment import CLASS_NAMES, sentiment_classes, to_sentiment
from sealr.settings import LabelConfig

log = logging.getLogger(__name__)
CHARACTERS_PER_TOKEN = 16  # English has 4 to 5
HOW = ("batch_tokens", "part_rows", "workers", "engine", "cache")  # settings that decide how, not what
EMPTY = "empty text"  # the reason of a null label
PROBABILITIES = [f"p_{e}" for e in EMOTIONS]


class Labeller:
    """Texts to probabilities. ``name`` says which weights those are from, ``identity`` is a hash of all they depend on."""

    def __init__(self, backend: backends.Backend, config: LabelConfig) -> None:
        self.backend, self.config = backend, config
        self.name = backend.source.name
        marked, plain = backend.tokenizer("a").input_ids, backend.tokenizer("a", add_special_tokens=False).input_ids
        start = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
        self._before, self._after = marked[:start], marked[start + len(plain) :]  # such as [CLS] and [SEP]
        self._content = min(config.window_tokens, backend.max_tokens) - len(self._before) - len(self._after)
        self._limit = self._content * config.max_windows  # tokens read of a text
        self.identity = text_digest([backend.source.digest, config.window_tokens, config.max_windows])[:16]

    @classmethod
    def from_config(cls, config: LabelConfig) -> Labeller:
        """Raises weights.WeightsError, backends.LabellerError or network.AdapterError."""
        return cls(backends.load(backends.resolve_labeller(config.model, config.precision)), config)

    def clean(self, texts: Sequence[str | None]) -> tuple[np.ndarray, list[str]]:
        """The different texts that have something to read, and for each text its number among them, -1 for none."""
        cleaned = pd.Series([clean(t, self._limit * CHARACTERS_PER_TOKEN) or None for t in texts], dtype=object)
        codes, unique = pd.factorize(cleaned)
        return codes, list(unique)

    def probabilities(self, texts: Sequence[str | None]) -> np.ndarray:
        """(N, 28) float32 in the order of EMOTIONS; NaN rows where a text has nothing to read."""
        codes, unique = self.clean(texts)
        return _spread(self.run(unique), codes)

    def run(self, texts: Sequence[str], workers: int = 1) -> np.ndarray:
        """Cleaned texts -> (N, 28) float32. workers: batches computed at a time, each on a core of its own."""
        if not len(texts):
            return np.empty((0, len(EMOTIONS)), np.float32)
        tokens = self.backend.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
        return self._run([t[: self._limit] for t in tokens], workers)

    def _run(self, tokens: list[list[int]], workers: int = 1) -> np.ndarray:
        """Token ids of texts -> (N, 28)."""
        windows = [(owner, w) for owner, ids in enumerate(tokens) for w in split_windows(ids, self._content)]
        order = sorted(range(len(windows)), key=lambda i: -len(windows[i][1]))  # stable: ties stay in text order
        batches: list[list[tuple[int, list[int]]]] = []
        while order:
            size = max(1, self.config.batch_tokens // self._width(windows[order[0]][1]))
            batches.append([windows[i] for i in order[:size]])
            del order[:size]
        total = np.zeros((len(tokens), len(EMOTIONS)))
        weight = np.zeros((len(tokens), 1))
        for batch, probabilities in zip(batches, self._parallel(batches, workers), strict=True):
            for (owner, ids), p in zip(batch, probabilities, strict=True):
                count = max(1, len(ids))  # a text of signs that the tokenizer drops still has its window
                total[owner] += count * p
                weight[owner] += count
        return (total / weight).astype(np.float32)

    def _width(self, window: list[int]) -> int:
        return len(self._before) + len(window) + len(self._after)

    def _parallel(self, batches: list[list[tuple[int, list[int]]]], workers: int) -> Iterator[np.ndarray]:
        """The batches' probabilities in order. Whole batches side by side keep two cores busier than halves of one."""
        work = [[w for _, w in batch] for batch in batches]
        if min(workers, len(work)) == 1:
            yield from map(self._forward, work)
            return
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(self._forward, work)
        finally:
            torch.set_num_threads(threads)  # for threads that others start later

    @torch.inference_mode()
    def _forward(self, windows: list[list[int]]) -> np.ndarray:
        """Windows, the longest first -> (B, 28) float64."""
        width = self._width(windows[0])
        ids = torch.full((len(windows), width), self.backend.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows):
            full = self._before + window + self._after
            ids[row, : len(full)] = torch.tensor(full)
            mask[row, : len(full)] = 1
        return torch.sigmoid(self.backend.logits(ids, mask)).double().numpy()


def _spread(probabilities: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Rows by number; rows of NaN for -1."""
    return np.concatenate([probabilities, np.full((1, len(EMOTIONS)), np.nan, np.float32)])[codes]


def labeller_id(config: LabelConfig) -> str:
    """Name and digest of the weights a configuration means here, without loading them."""
    source = backends.resolve_labeller(config.model, config.precision)
    return f"{source.name} {source.digest}"


def clean(text: str | None, limit: int) -> str:
    """The first ``limit`` readable characters: entities resolved, white space collapsed; empty if nothing is readable."""
    if not isinstance(text, str):
        return ""
    text = html.unescape(text.strip()[: 4 * limit])
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())[:limit]  # lone surrogates become "?"
    # separators and control, format or unassigned characters alone say nothing; letters, digits, signs and emoji do
    return text if any(unicodedata.category(c)[0] not in "ZC" for c in text) else ""


def split_windows(tokens: list[int], size: int) -> list[list[int]]:
    """Consecutive windows of at most ``size`` tokens whose lengths differ by at most one."""
    count = max(1, -(-len(tokens) // size))
    edges = [len(tokens) * i // count for i in range(count + 1)]
    return [tokens[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def assemble(probabilities: np.ndarray, classes: np.ndarray) -> pd.DataFrame:
    """(N, 28) probabilities -> the columns of the labels table that follow from them."""
    null = np.isnan(probabilities).any(axis=1)
    top = np.where(null[:, None], 0.0, probabilities).argmax(axis=1)
    sentiment, expected = to_sentiment(probabilities, classes)
    frame = pd.DataFrame({
        "emotion": pd.Series(np.array(EMOTIONS, object)[top]).mask(null, None),
        "score": probabilities[np.arange(len(top)), top],
        "sentiment": pd.Series(sentiment, dtype="Int8").mask(null),
        "expected": expected,
        "reason": pd.Series(np.where(null, EMPTY, None), dtype=object),
    })  # fmt: skip
    return pd.concat([frame, pd.DataFrame(probabilities, columns=PROBABILITIES)], axis=1)


def label(
    reviews: pd.DataFrame, config: LabelConfig, folder: Path, labeller: Labeller | None = None,
    progress: Callable[[int, int], None] | None = None, cache: Path | None = None,
) -> StageResult:  # fmt: skip
    """Labels every row of a reviews table and writes ``labels.parquet`` into ``folder``.

    Only texts that ``cache``, a folder, does not know yet are computed, each once, in parts of ``part_rows`` texts; a
    part is in the cache as soon as it is done. Without a folder the cache lives under ``checkpoint/``, so either way a
    killed call is continued and ends with the same bytes. progress(done, total) is called after each part, in texts.
    """
    classes = sentiment_classes(config.sentiment_map)
    labeller = labeller or Labeller.from_config(config)
    codes, unique = labeller.clean(list(reviews["text"]))
    store = LabelCache(cache or folder / CHECKPOINT, labeller.identity)
    try:
        new = np.isnan(store.get(unique)[:, 0])
        # parts are cut before known texts are left out: after a kill the batches, and so the last bits, are the same
        cut = range(0, len(unique), config.part_rows)
        parts = [[unique[i] for i in range(start, min(start + config.part_rows, len(unique))) if new[i]] for start in cut]
        log.info("labelling %d reviews with %s: %d different texts, %d new", len(codes), labeller.name, len(unique), new.sum())
        done, started = len(unique) - int(new.sum()), time.monotonic()
        hits = done
        with tqdm(total=len(unique), initial=done, desc="label", unit="text", mininterval=1, disable=None) as bar:
            for number, probabilities in compute(labeller, config, [(i, p) for i, p in enumerate(parts) if p]):
                store.put(parts[number], probabilities)
                done += len(parts[number])
                bar.update(len(parts[number]))
                if progress:
                    progress(done, len(unique))
        seconds = time.monotonic() - started
        probabilities = _spread(store.get(unique), codes)
        sizes = {"cache.hits": float(hits), "cache.misses": float(new.sum()), "cache.megabytes": store.megabytes()}
    finally:
        store.close()
    labels = pd.concat([reviews[["user", "position"]].reset_index(drop=True), assemble(probabilities, classes)], axis=1)
    write_table(labels, folder / "labels.parquet", "labels")
    metrics = summary(labels, reviews["rating"] if "rating" in reviews else None) | sizes
    if new.any():
        metrics["reviews_per_second"] = len(codes) * float(new.mean()) / seconds
    null = int(labels["emotion"].isna().sum())
    return StageResult({"labelled": len(labels) - null, "null": null}, metrics)


def summary(labels: pd.DataFrame, ratings: pd.Series | None = None) -> dict[str, float]:
    """Shares of emotions and sentiments among labelled rows, mean score, and the correlations with the stars."""
    known = labels[labels["emotion"].notna()]
    n = max(1, len(known))
    metrics = {f"share.emotion.{e}": float((known["emotion"] == e).sum() / n) for e in EMOTIONS}
    metrics |= {
        f"share.sentiment.{name.lower().replace(' ', '_')}": float((known["sentiment"] == c).sum() / n)
        for c, name in CLASS_NAMES.items()
    }
    if len(known):
        metrics["mean_score"] = float(known["score"].mean())
    if ratings is not None:
        stars = pd.Series(np.asarray(ratings, np.float64))
        pairs = pd.DataFrame({"stars": stars, "expected": labels["expected"].astype("float64")}).dropna()
        if len(pairs) > 2 and pairs.nunique().min() > 1:
            metrics["pearson_rating"] = float(pairs.corr().iloc[0, 1])
            metrics["spearman_rating"] = float(pairs.rank().corr().iloc[0, 1])
    return metrics


def label_texts(texts: Sequence[str | None], labeller: Labeller) -> list[dict[str, Any]]:
    """For serving: per text emotion, score, sentiment, expected and reason, as label() would write them."""
    frame = assemble(labeller.probabilities(texts), sentiment_classes(labeller.config.sentiment_map)).drop(columns=PROBABILITIES)
    return [{k: None if pd.isna(v) else v for k, v in row.items()} for row in frame.astype(object).to_dict("records")]
