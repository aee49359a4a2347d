"""Emotion labels of reviews (Section 2.1): 28 probabilities a text, and the paper's sentiment class.

A long review is cut into windows of equal length; its probabilities are the mean over its windows, weighted by their
numbers of tokens. Of a text at most ``window_tokens * max_windows`` tokens are read (and, before tokenising, at most
CHARACTERS_PER_TOKEN characters for each of them), so a pasted book costs no more than a long review.
"""

from __future__ import annotations

import hashlib
import html
import logging
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from sealr.config import LabelConfig
from sealr.data.manifest import CHECKPOINT, Output
from sealr.data.tables import EMOTIONS, atomic_path, read_json, write_json, write_table
from sealr.emotion import backends
from sealr.emotion.sentiment import CLASS_NAMES, sentiment_classes, to_sentiment

log = logging.getLogger(__name__)
CHARACTERS_PER_TOKEN = 16  # English has 4 to 5
EMPTY = "empty text"  # the reason of a null label
PROBABILITIES = [f"p_{e}" for e in EMOTIONS]


class Labeller:
    """Texts to probabilities. ``name`` and ``digest`` say which weights those are from."""

    def __init__(self, backend: backends.Backend, config: LabelConfig) -> None:
        self.backend, self.config = backend, config
        self.name, self.digest = backend.source.name, backend.source.digest
        marked, plain = backend.tokenizer("a").input_ids, backend.tokenizer("a", add_special_tokens=False).input_ids
        start = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
        self._before, self._after = marked[:start], marked[start + len(plain) :]  # such as [CLS] and [SEP]
        self._content = min(config.window_tokens, backend.max_tokens) - len(self._before) - len(self._after)

    @classmethod
    def from_config(cls, config: LabelConfig) -> Labeller:
        """Raises weights.WeightsError, backends.LabellerError or network.AdapterError."""
        return cls(backends.load(backends.find(config.model)), config)

    def probabilities(self, texts: Sequence[str | None]) -> np.ndarray:
        """(N, 28) float32 in the order of EMOTIONS; NaN rows where a text has nothing to read."""
        limit = self._content * self.config.max_windows
        cleaned = [clean(t, limit * CHARACTERS_PER_TOKEN) for t in texts]
        unique = list(dict.fromkeys(t for t in cleaned if t))
        result = np.full((len(unique) + 1, len(EMOTIONS)), np.nan, np.float32)  # the last row stands for empty texts
        if unique:
            tokens = self.backend.tokenizer(unique, add_special_tokens=False, verbose=False).input_ids
            result[:-1] = self._run([t[:limit] for t in tokens])
        rows = {t: i for i, t in enumerate(unique)}
        return result[[rows.get(t, -1) for t in cleaned]]

    def _run(self, tokens: list[list[int]]) -> np.ndarray:
        """Token ids of texts -> (N, 28)."""
        windows = [(owner, w) for owner, ids in enumerate(tokens) for w in split_windows(ids, self._content)]
        order = sorted(range(len(windows)), key=lambda i: -len(windows[i][1]))  # stable: ties stay in text order
        total = np.zeros((len(tokens), len(EMOTIONS)))
        weight = np.zeros((len(tokens), 1))
        start = 0
        while start < len(order):
            width = len(windows[order[start]][1]) + len(self._before) + len(self._after)
            batch = [windows[i] for i in order[start : start + max(1, self.config.batch_tokens // width)]]
            start += len(batch)
            for (owner, ids), p in zip(batch, self._forward([w for _, w in batch], width), strict=True):
                count = max(1, len(ids))  # a text of signs that the tokenizer drops still has its window
                total[owner] += count * p
                weight[owner] += count
        return (total / weight).astype(np.float32)

    @torch.inference_mode()
    def _forward(self, windows: list[list[int]], width: int) -> np.ndarray:
        """Windows of at most ``width`` tokens with the special ones -> (B, 28) float64."""
        ids = torch.full((len(windows), width), self.backend.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows):
            full = self._before + window + self._after
            ids[row, : len(full)] = torch.tensor(full)
            mask[row, : len(full)] = 1
        return torch.sigmoid(self.backend.logits(ids, mask)).double().numpy()


def labeller_id(config: LabelConfig) -> str:
    """Name and digest of the weights a configuration means here, without loading them."""
    source = backends.find(config.model)
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
    progress: Callable[[int, int], None] | None = None,
) -> Output:  # fmt: skip
    """Labels every row of a reviews table and writes ``labels.parquet`` into ``folder``.

    Different texts are labelled once, in parts of ``part_rows`` texts kept under ``checkpoint/``: a killed call is
    continued, and ends with the same bytes. progress(done, total) is called after each part, in texts.
    """
    classes = sentiment_classes(config.sentiment_map)
    labeller = labeller or Labeller.from_config(config)
    texts = [t if isinstance(t, str) else "" for t in reviews["text"]]
    codes, unique = pd.factorize(pd.Series(texts, dtype=object))
    parts = _parts_folder(folder, labeller, config, list(unique))
    log.info("labelling %d reviews (%d different texts) with %s", len(texts), len(unique), labeller.name)
    blocks: list[np.ndarray] = []
    computed, started = 0, time.monotonic()
    with tqdm(total=len(unique), desc="label", unit="text", mininterval=1, disable=None) as bar:
        for number, start in enumerate(range(0, len(unique), config.part_rows)):
            part, path = list(unique[start : start + config.part_rows]), parts / f"part-{number:05d}.parquet"
            if not path.exists():
                # a part knows nothing of the other parts: its batches, and so its last bits, are always the same
                with atomic_path(path) as temporary:
                    pd.DataFrame(labeller.probabilities(part), columns=PROBABILITIES).to_parquet(temporary, index=False)
                computed += len(part)
            blocks.append(pd.read_parquet(path).to_numpy(np.float32))
            bar.update(len(part))
            if progress:
                progress(start + len(part), len(unique))
    seconds = time.monotonic() - started
    probabilities = np.concatenate(blocks)[codes] if blocks else np.empty((0, len(EMOTIONS)), np.float32)
    labels = pd.concat([reviews[["user", "position"]].reset_index(drop=True), assemble(probabilities, classes)], axis=1)
    write_table(labels, folder / "labels.parquet", "labels")
    metrics = summary(labels, reviews["rating"] if "rating" in reviews else None)
    if computed:
        metrics["reviews_per_second"] = len(texts) * computed / len(unique) / seconds
    null = int(labels["emotion"].isna().sum())
    return Output({"labelled": len(labels) - null, "null": null}, metrics)


def _parts_folder(folder: Path, labeller: Labeller, config: LabelConfig, texts: list[str]) -> Path:
    """The checkpoint folder, emptied when it belongs to other weights, settings or texts."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
    settings = {n: getattr(config, n) for n in ("window_tokens", "max_windows", "batch_tokens", "part_rows")}
    identity = settings | {"labeller": labeller.digest, "texts": digest.hexdigest()}
    parts = folder / CHECKPOINT
    parts.mkdir(parents=True, exist_ok=True)
    if not (parts / "identity.json").exists() or read_json(parts / "identity.json") != identity:
        for old in parts.glob("part-*.parquet"):
            old.unlink()
        write_json(identity, parts / "identity.json")
    return parts


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


def distribution_plot(labels: pd.DataFrame, path: Path, ratings: pd.Series | None = None) -> None:
    """Bars of the emotions and of the five sentiments (a bar a star where there are ratings), as a PNG."""
    from matplotlib.figure import Figure  # without pyplot there is no window system and no global state

    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    shares = labels["emotion"].value_counts(normalize=True).reindex(EMOTIONS, fill_value=0.0).sort_values()
    left.barh(list(shares.index), shares.to_numpy(float))
    left.set_xlabel("share of labelled reviews")
    left.set_title("most probable emotion")
    stars = pd.Series(np.asarray(ratings, np.float64)) if ratings is not None else pd.Series(np.nan, index=range(len(labels)))
    known = labels["sentiment"].notna().to_numpy()
    groups = sorted(stars[known].dropna().round().unique()) or [None]
    for i, star in enumerate(groups):
        rows = known if star is None else known & (stars.round() == star).to_numpy()
        share = labels["sentiment"][rows].astype(int).value_counts(normalize=True).reindex(list(CLASS_NAMES), fill_value=0.0)
        offset = (i - (len(groups) - 1) / 2) * 0.8 / len(groups)
        right.bar(
            np.arange(len(CLASS_NAMES)) + offset,
            share.to_numpy(float),
            0.8 / len(groups),
            label=None if star is None else "1 star" if star == 1 else f"{star:.0f} stars",
        )
    right.set_xticks(range(len(CLASS_NAMES)), [n.replace(" ", "\n") for n in CLASS_NAMES.values()])
    right.set_ylabel("share of labelled reviews" if groups == [None] else "share within the rating")
    right.set_title("sentiment")
    if groups != [None]:
        right.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
