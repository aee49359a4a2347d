"""A toy corpus and a quick configuration."""

import pytest
from toy_sequences import make_sequences

from sealr.data.sequences import Sequences
from sealr.settings import RetrieveConfig


@pytest.fixture
def cycle() -> Sequences:
    """40 users who walk round 12 items, each from another start: the next item is certain."""
    return make_sequences([[(start + step) % 12 + 1 for step in range(5 + start % 5)] for start in range(40)], 12)


@pytest.fixture
def quick() -> RetrieveConfig:
    """Seen items stay candidates: on a cycle, without them too little would be left to get wrong."""
    shape = {"hidden": 16, "layers": 1, "max_len": 10, "dropout": 0.1, "n_retrieved": 10, "exclude_seen": False}
    return RetrieveConfig(**shape, lr=1e-2, batch_size=8, epochs=25, patience=3, eval_every=2)
