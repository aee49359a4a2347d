"""Vectors of many texts, in parts of bounded memory: known texts come from the cache, others are read and kept there.

Each part that is read is in the cache before the next one starts, so an interrupted call continues where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sealr.content.readers import Reader
from sealr.data.cache import VectorCache
from sealr.progress import progress_bar
from sealr.settings import ContentConfig

log = logging.getLogger(__name__)
PART_TEXTS = 2048  # an interruption loses the work on at most one part


def vector_parts(
    texts: Sequence[str], reader: Reader, cache: Path, what: str = "reviews"
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (place of the first text, vectors (P, C) float32 of length 1) for each part of ``texts``, in order.

    A text without tokens has zeros. cache: folder that keeps vectors, in half precision. what: for the progress bar.
    """
    store = VectorCache(cache, reader.identity, reader.width, "content.cache", "<f2")
    try:
        with progress_bar(label=f"read {what}", unit="texts", total=len(texts)) as bar:
            for start in range(0, len(texts), PART_TEXTS):
                part = texts[start : start + PART_TEXTS]
                found = store.get(part)
                unknown = sorted({t for t, row in zip(part, found, strict=True) if np.isnan(row[0])})
                if unknown:
                    store.put(unknown, reader.vectors(unknown))
                    found = store.get(part)  # in half precision, as a later call finds them
                yield start, found
                bar.update(len(part))
    finally:
        store.close()


def text_vectors(texts: Sequence[str], config: ContentConfig, cache: Path, what: str = "reviews") -> np.ndarray:
    """(N, C) float16, the parts together. 10 million texts take 8 GB: use `vector_parts` where a sum is enough."""
    reader = Reader(config)
    result = np.zeros((len(texts), reader.width), np.float16)
    for start, vectors in vector_parts(texts, reader, cache, what):
        result[start : start + len(vectors)] = vectors
    return result
