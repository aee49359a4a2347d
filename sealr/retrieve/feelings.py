"""How users felt about the items of their histories, as retrievers read it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences


def feelings(labels: pd.DataFrame, sequences: Sequences, mode: Literal["none", "class", "shuffled"], seed: int) -> np.ndarray | None:
    """(interactions, 2) float32 sentiment class and expected sentiment, aligned with ``sequences.flat``; NaN without a label.

    None where mode is "none". "shuffled" permutes the rows between interactions, which keeps their distribution and nothing else.
    """
    if mode == "none":
        return None
    known = labels.assign(sentiment=labels["sentiment"].where(labels["expected"].notna()))  # no text, no label: not neutral
    values = np.stack([sequences.values(known, column) for column in ("sentiment", "expected")], axis=1).astype(np.float32)
    return np.random.default_rng(seed).permutation(values) if mode == "shuffled" else values
