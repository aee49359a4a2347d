import numpy as np

from sealr.data.sequences import Sequences


def make_sequences(lists: list[list[int]], n_items: int) -> Sequences:
    """One user a list: u0, u1, ...; item i is called "item<i>"."""
    flat = np.array([i for items in lists for i in items], dtype=np.int64)
    offsets = np.concatenate(([0], np.cumsum([len(items) for items in lists]))).astype(np.int64)
    return Sequences([f"u{u}" for u in range(len(lists))], [f"item{i}" for i in range(1, n_items + 1)], flat, offsets)
