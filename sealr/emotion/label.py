"""The label stage (Section 2.1): emotion, sentiment class and 28 probabilities for every review."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr.data.cache import VectorCache
from sealr.data.manifest import CHECKPOINT, StageResult
from sealr.data.tables import EMOTIONS, write_table
from sealr.emotion.labeller import EMPTY, NO_WORDS, Labeller, expand_to_rows
from sealr.emotion.language import language_report, language_shares
from sealr.emotion.ray_engine import label_parts
from sealr.emotion.sentiment import CLASS_NAMES, sentiment_classes, to_sentiment
from sealr.progress import QUICK, progress_bar
from sealr.settings import LabelConfig

log = logging.getLogger(__name__)
PART_ROWS = 512  # distinct texts per part; an interruption loses at most one part
EXECUTION_ONLY_FIELDS = ("workers", "engine", "cache")  # settings that do not change the labels
REASONS = {EMPTY: "empty text", NO_WORDS: "no known words"}  # of null labels
PROBABILITIES = [f"p_{e}" for e in EMOTIONS]


def label(
    reviews: pd.DataFrame,
    config: LabelConfig,
    folder: Path,
    labeller: Labeller | None = None,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
    part_rows: int = PART_ROWS,
) -> StageResult:
    """Labels every row of a reviews table and writes ``labels.parquet`` into ``folder``.

    Distinct texts that the folder ``cache`` does not know are computed in parts of ``part_rows``. A finished part is
    in the cache, so an interrupted call continues and ends with the same bytes. Without a folder the cache lives under
    ``checkpoint/``. progress(done, total) is called after each part with numbers of texts.
    """
    classes = sentiment_classes(config.sentiment_map)
    if len(reviews) >= QUICK:
        log.info("%s reviews are read", f"{len(reviews):,}")
    labeller = labeller or Labeller.from_config(config)
    codes, unique = labeller.clean(list(reviews["text"]))
    store = VectorCache(cache or folder / CHECKPOINT, labeller.identity, len(EMOTIONS), "label.cache")
    try:
        new = np.isnan(store.get(unique)[:, 0])
        # Parts are cut before known texts are left out: batches, and so the last bits, are the same after a kill
        cut = range(0, len(unique), part_rows)
        parts = [[unique[i] for i in range(start, min(start + part_rows, len(unique))) if new[i]] for start in cut]
        log.info(
            "labelling %d reviews with %s: %d distinct texts, %d new", len(codes), labeller.name, len(unique), new.sum()
        )
        done = hits = len(unique) - int(new.sum())
        started = time.monotonic()
        with progress_bar(label="label", unit="texts", total=len(unique), done=hits) as bar:
            for number, probabilities in label_parts(labeller, config, [(i, p) for i, p in enumerate(parts) if p]):
                store.put(parts[number], probabilities)
                done += len(parts[number])
                bar.update(len(parts[number]))
                if progress:
                    progress(done, len(unique))
        seconds = time.monotonic() - started
        probabilities = expand_to_rows(store.get(unique), codes)
        sizes = {"cache.hits": float(hits), "cache.misses": float(new.sum()), "cache.megabytes": store.megabytes()}
    finally:
        store.close()
    rows = assemble(probabilities, codes, classes)
    labels = pd.concat([reviews[["user", "position"]].reset_index(drop=True), rows], axis=1)
    write_table(labels, folder / "labels.parquet", "labels")
    languages = language_shares(reviews["text"])
    sentence, doubtful = language_report(languages)
    log.log(logging.WARNING if doubtful else logging.INFO, "%s", sentence)
    metrics = summary(labels, reviews["rating"] if "rating" in reviews else None) | sizes | languages
    if new.any():
        metrics["reviews_per_second"] = len(codes) * float(new.mean()) / seconds
    null = int(labels["emotion"].isna().sum())
    return StageResult({"labelled": len(labels) - null, "null": null}, metrics)


def assemble(probabilities: np.ndarray, codes: np.ndarray, classes: np.ndarray) -> pd.DataFrame:
    """(N, 28) probabilities -> the columns of the labels table that follow from them.

    codes: (N,) of `Labeller.clean`, which say why a row has no label.
    """
    null = np.isnan(probabilities).any(axis=1)
    top = np.where(null[:, None], 0.0, probabilities).argmax(axis=1)
    sentiment, expected = to_sentiment(probabilities, classes)
    frame = pd.DataFrame({
        "emotion": pd.Series(np.array(EMOTIONS, object)[top]).mask(null, None),
        "score": probabilities[np.arange(len(top)), top],
        "sentiment": pd.Series(sentiment, dtype="Int8").mask(null),
        "expected": expected,
        "reason": pd.Series([REASONS.get(c) for c in codes.tolist()], dtype=object),
    })  # fmt: skip
    return pd.concat([frame, pd.DataFrame(probabilities, columns=PROBABILITIES)], axis=1)


def summary(labels: pd.DataFrame, ratings: pd.Series | None = None) -> dict[str, float]:
    """Shares of emotions and sentiments among labelled rows, mean score, and correlations with the stars."""
    known = labels[labels["emotion"].notna()]
    n = max(1, len(known))
    metrics = {f"share.emotion.{e}": float((known["emotion"] == e).sum() / n) for e in EMOTIONS}
    for c, name in CLASS_NAMES.items():
        metrics[f"share.sentiment.{name.lower().replace(' ', '_')}"] = float((known["sentiment"] == c).sum() / n)
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
    """For serving: emotion, score, sentiment, expected and reason of each text, as `label` would write them.

    "probabilities" is a (28,) array, NaN where the text has no label.
    """
    codes, unique = labeller.clean(texts)
    probabilities = expand_to_rows(labeller.predict_texts(unique), codes)
    frame = assemble(probabilities, codes, sentiment_classes(labeller.config.sentiment_map))
    records = frame.drop(columns=PROBABILITIES).astype(object).to_dict("records")
    known = [{k: None if pd.isna(v) else v for k, v in row.items()} for row in records]
    return [row | {"probabilities": p} for row, p in zip(known, probabilities, strict=True)]
