"""Reads GoEmotions (Demszky et al. 2020): Reddit comments with one or more of 28 emotions."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from sealr.data.tables import EMOTIONS


class EmotionDataError(ValueError):
    """A GoEmotions file is missing or malformed; the message names file and line."""


def read_split(folder: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Texts and (N, 28) float32 0/1 labels of ``<split>.tsv.gz``: text, tab, comma-separated ids, tab, comment id."""
    path = folder / f"{split}.tsv.gz"
    if not path.is_file():
        raise EmotionDataError(
            f"{path} does not exist: give a folder with train.tsv.gz, dev.tsv.gz and test.tsv.gz (docs/data.md)"
        )
    texts: list[str] = []
    rows: list[list[int]] = []
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            parts = line.rstrip("\r\n").split("\t")  # no csv reader: quotation marks are part of a text
            try:
                ids = [int(i) for i in parts[1].split(",")]
                if len(parts) != 3 or min(ids) < 0 or max(ids) >= len(EMOTIONS):
                    raise ValueError
            except (IndexError, ValueError):
                raise EmotionDataError(
                    f"{path}, line {number}: expected text, tab, label ids 0 to 27, tab, comment id"
                ) from None
            texts.append(parts[0])
            rows.append(ids)
    labels = np.zeros((len(texts), len(EMOTIONS)), np.float32)
    for row, ids in enumerate(rows):
        labels[row, ids] = 1
    return texts, labels
