"""Ranks by time: an item is known by no review that is younger than the target."""

import numpy as np
import pytest
import torch

from sealr.content.profiles import Profiles
from sealr.data.sequences import Sequences
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever
from sealr.retrieve.timely import timely_ranks
from sealr.settings import RetrieveConfig

CONFIG = RetrieveConfig(hidden=4, content="reviews", content_scale=2.0, dropout=0.0, max_len=5)
# Two users with items 1 2 3 4 and 2 1 4 3; the training reviews are the first two of each
SEQUENCES = Sequences(["u", "v"], list("abcd"), np.array([1, 2, 3, 4, 2, 1, 4, 3]), np.array([0, 4, 8]))
ROWS, VECTORS = np.array([0, 1, 4, 5]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])


def made():
    names = {"reviews": torch.zeros(2)}
    profiles = Profiles({"reviews": torch.zeros(5, 2)}, names, {"reviews": torch.ones(2)})
    torch.manual_seed(0)
    model = build(CONFIG, 4, torch.zeros(5, 2)).eval()
    return Retriever(CONFIG, SEQUENCES.items, model, np.zeros(5, np.float32)), profiles


def with_content(vectors):
    """The ranks with fixed content (items 1..4)."""
    retriever, _ = made()
    retriever.model.items.content[1:] = torch.nn.functional.normalize(torch.tensor(vectors).float(), dim=1) * 2
    return target_ranks(retriever, SEQUENCES, "test", True)


def test_all_reviews_are_old():
    retriever, profiles = made()
    times = np.array([0, 1, 2, 9, 0, 1, 2, 9])
    found = timely_ranks(retriever, SEQUENCES, profiles, ROWS, VECTORS, times)
    # item 1 has (1, 0) and (-1, 0), item 2 has (0, 1) and (1, 1)
    assert found.tolist() == with_content([[0, 0], [0.5, 1.0], [0, 0], [0, 0]]).tolist()
    content = retriever.model.items.content
    torch.testing.assert_close(content[2], torch.tensor([1.0, 2.0]) / 5**0.5 * 2)


def test_younger_reviews_do_not_count():
    retriever, profiles = made()
    times = np.array([0, 1, 2, 3, 5, 6, 7, 8])  # u's target is older than all reviews of v
    found = timely_ranks(retriever, SEQUENCES, profiles, ROWS, VECTORS, times)
    early, late = with_content([[1, 0], [0, 1], [0, 0], [0, 0]]), with_content([[0, 0], [0.5, 1], [0, 0], [0, 0]])
    assert found.tolist() == [early[0], late[1]]


def test_reviews_of_the_same_second_do_not_count():
    retriever, profiles = made()
    timely_ranks(retriever, SEQUENCES, profiles, ROWS, VECTORS, np.full(8, 7))
    assert not retriever.model.items.content.any()


def test_another_content():
    retriever, profiles = made()
    profiles.vectors["reviews"] = torch.zeros(5, 3)
    with pytest.raises(ValueError, match="retrieve.content=reviews"):
        timely_ranks(retriever, SEQUENCES, profiles, ROWS, VECTORS, np.arange(8))
