"""Made reviews whose stars follow from items, users and how they fit. Nothing they say is a result."""

import functools

import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences, build


def sequences_of(*histories) -> Sequences:
    """Histories of item numbers -> sequences whose item ids are these numbers, if they are 1, 2, ... without gaps."""
    rows = [
        (f"u{user:04}", f"i{item:04}", place)
        for user, history in enumerate(histories)
        for place, item in enumerate(history)
    ]
    return build(pd.DataFrame(rows, columns=["user", "item", "position"]))


@functools.cache
def reviews():
    """(sequences, stars, vectors): 120 users with 14 of 25 items each, and texts that say what kind an item is."""
    rng = np.random.default_rng(0)
    sequences = sequences_of(*(rng.permutation(25)[:14] + 1 for _ in range(120)))
    users, items = np.repeat(np.arange(120), 14), sequences.flat
    good, kind = rng.normal(0, 0.7, 26), rng.normal(size=(26, 6))
    generous, taste = rng.normal(0, 0.5, 120), rng.normal(size=(120, 6))
    fits = 0.5 * (taste[users] * kind[items]).sum(1)
    stars = (3 + good[items] + generous[users] + fits + rng.normal(0, 0.4, len(items))).astype(np.float32)
    vectors = (kind[items] + rng.normal(0, 0.3, (len(items), 6))).astype(np.float16)
    return sequences, stars, vectors
