"""What reading reviews costs, and what that makes for a large catalogue.

``python benchmarks/reading.py REVIEWS`` reads texts of an ingested reviews table with an empty cache, then from the
cache, and makes profiles of a generated catalogue. It prints unit costs, and the sum for 10^6 items with 10 reviews.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from sealr.content.profiles import build_profiles
from sealr.content.readers import Reader
from sealr.content.vectors import vector_parts
from sealr.data.sequences import Sequences
from sealr.data.tables import read_table
from sealr.settings import ContentConfig

WIDTH = 384
PART = 2048


def main(
    reviews: Annotated[Path, typer.Argument(help="reviews.parquet of an ingested data set with texts.")],
    texts: Annotated[int, typer.Option(help="Texts to read.")] = 2048,
    items: Annotated[int, typer.Option(help="Items of the generated catalogue.")] = 100_000,
    per_item: Annotated[int, typer.Option(help="Reviews of each generated item.")] = 10,
) -> None:
    """Measure reading, the cache and profiles; extrapolate to 10^6 items with 10 reviews each."""
    config = ContentConfig()
    table = read_table(reviews, "reviews")
    sample = [t for t in table["text"].sample(frac=1, random_state=0) if t.strip()][:texts]
    reader = Reader(config)
    reader.vectors(sample[:32])  # warm-up
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for _ in vector_parts(sample, reader, Path(folder)):
            pass
        reading = time.perf_counter() - started
        started = time.perf_counter()
        for _ in vector_parts(sample, reader, Path(folder)):
            pass
        cached = time.perf_counter() - started
        size = sum(f.stat().st_size for f in Path(folder).iterdir())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    profiles = time_profiles(items, per_item)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    units = {
        "texts read a second": len(sample) / reading,
        "cached texts a second": len(sample) / cached,
        "bytes of cache a text": size / len(sample),
        "reviews put into profiles a second": items * per_item / profiles,
        "bytes of memory an item": grown / items,
    }
    for name, value in units.items():
        print(f"{name:<40}{value:>14,.1f}")
    n, total = 10**6, 10**7
    print(f"\n{n:,} items with 10 reviews each, {torch.get_num_threads()} thread(s):")
    print(f"{'reading, once':<40}{total / units['texts read a second'] / 3600:>14,.1f} hours")
    print(f"{'reading again, from the cache':<40}{total / units['cached texts a second'] / 60:>14,.1f} minutes")
    print(f"{'cache':<40}{total * units['bytes of cache a text'] / 1e9:>14,.1f} GB on disk")
    print(f"{'profiles':<40}{total / units['reviews put into profiles a second'] / 60:>14,.1f} minutes")
    print(f"{'memory of the profiles':<40}{n * units['bytes of memory an item'] / 1e9:>14,.1f} GB")


def time_profiles(items: int, per_item: int) -> float:
    """Seconds for the profiles of a generated catalogue, without reading."""
    rng = np.random.default_rng(0)
    flat = np.repeat(np.arange(1, items + 1), per_item)
    rng.shuffle(flat)
    offsets = np.arange(0, len(flat) + 1, per_item)
    names = [f"i{n}" for n in range(items)]
    sequences = Sequences([f"u{n}" for n in range(len(offsets) - 1)], names, flat, offsets)
    empty = pd.DataFrame({"item": names, "title": None, "brand": None, "categories": None})
    texts, times = np.full(len(flat), "x", dtype=object), np.arange(len(flat))
    block = rng.standard_normal((PART, WIDTH)).astype(np.float32)

    def read(given: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(given), PART):
            yield start, block[: len(given) - start]

    started = time.perf_counter()
    build_profiles(empty, texts, times, sequences, 50, read)
    return time.perf_counter() - started


if __name__ == "__main__":
    typer.run(main)
