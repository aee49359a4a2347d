"""How users felt about the items they took: one array that retrievers, re-rankers, serving and evaluation share."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences


def feelings(labels: pd.DataFrame, sequences: Sequences, shuffle_seed: int | None = None) -> np.ndarray:
    """(interactions, 2) float32: sentiment class and expected sentiment, aligned with ``sequences.flat``.

    Both are NaN where a review has no label: no text is not a neutral text. shuffle_seed: permutes the rows between
    interactions, a placebo that keeps their distribution and nothing else.
    """
    known = labels.assign(sentiment=labels["sentiment"].where(labels["expected"].notna()))
    columns = [sequences.values(known, name) for name in ("sentiment", "expected")]
    values = np.stack(columns, axis=1).astype(np.float32)
    return values if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(values)
