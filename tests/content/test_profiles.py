"""Profiles of items from their texts: only training reviews, the newest first, standardised, with a placebo."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from sealr.content.profiles import Profiles, build_profiles, item_texts, newest_training_rows
from sealr.data.sequences import build

ITEMS = pd.DataFrame(
    {"item": ["a", "b", "c"], "title": ["Red polish", None, None], "brand": ["OPI", "Acme", None], "categories": None}
)
USERS = {"u1": "abcd", "u2": "bade", "u3": "ab"}  # the last two of u1 and u2 are held out; u3 is short and trains


def reviews():
    rows = [(u, i, p) for u, items in USERS.items() for p, i in enumerate(items)]
    frame = pd.DataFrame(rows, columns=["user", "item", "position"])
    return frame.assign(text=frame["user"] + frame["item"], timestamp=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])


def read(texts):
    """Two parts; the vector of a text is its place in a fixed list, so that sums can be checked by hand."""
    known = {"u1a": [1.0, 0.0], "u1b": [0.0, 1.0], "u2b": [0.0, 3.0], "u2a": [5.0, 0.0], "u3a": [0.0, 0.0]}
    known |= {"u3b": [0.0, 2.0], "Red polish, by OPI": [1.0, 1.0], "by Acme": [0.0, 1.0]}
    vectors = np.array([known[t] for t in texts], np.float32).reshape(-1, 2)  # KeyError: a held-out text was read
    yield 0, vectors[:2]
    if len(vectors) > 2:
        yield 2, vectors[2:]


def made(most=10, **changes):
    table = reviews()
    sequences = replace(build(table), **changes)
    texts, times = sequences.values(table, "text"), sequences.values(table, "timestamp")
    return sequences, build_profiles(ITEMS, texts, times, sequences, most, read)


def test_profiles_hold_training_reviews_only():
    sequences, profiles = made()
    vectors = profiles.vectors["reviews"]
    assert vectors.shape == (len(sequences.items) + 1, 2) and vectors.dtype == torch.float32
    assert (vectors[[0, 3, 4, 5]] == 0).all()  # padding; c, d and e are held out everywhere
    # a: mean of (1, 0), (5, 0), (0, 0); b: of (0, 1), (0, 3), (0, 2); over all six: mean (1, 1)
    deviation = np.sqrt([(1 + 25) / 6 - 1, (1 + 9 + 4) / 6 - 1])
    np.testing.assert_allclose(profiles.deviation["reviews"], deviation, rtol=1e-6)
    for row, mean in ((1, [2.0, 0.0]), (2, [0.0, 2.0])):
        expected = (np.array(mean) - 1.0) / deviation
        np.testing.assert_allclose(vectors[row], expected / np.linalg.norm(expected), rtol=1e-6)


def test_only_the_newest_reviews_of_an_item():
    table = reviews()
    sequences = build(table)
    times = sequences.values(table, "timestamp")
    rows = newest_training_rows(sequences, times, 1)
    assert sequences.values(table, "text")[rows].tolist() == ["u3a", "u3b"]
    assert len(newest_training_rows(sequences, times, 10)) == 6


def test_users_without_held_out_items_count_whole():
    table = reviews()
    sequences = build(table).with_whole(["u1"])
    rows = newest_training_rows(sequences, sequences.values(table, "timestamp"), 10)
    assert sequences.values(table, "text")[rows].tolist() == ["u1a", "u1b", "u1c", "u1d", "u2b", "u2a", "u3a", "u3b"]


def test_choices_scale_and_placebo():
    _, profiles = made()
    vectors = profiles.vectors["reviews"]
    assert torch.equal(profiles.table("reviews", 8.0, 0), 8 * vectors)
    assert profiles.table("both", 2.0, 0).shape == (6, 4)
    norms = profiles.table("metadata", 3.0, 0).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([0.0, 3.0, 3.0, 0.0, 0.0, 0.0]))
    placebo = profiles.table("shuffled", 1.0, 1)
    assert (placebo[0] == 0).all() and not torch.equal(placebo, vectors)
    assert sorted(placebo.tolist()) == sorted(vectors.tolist())  # the same vectors, of other items
    assert torch.equal(placebo, profiles.table("shuffled", 1.0, 1))


def test_round_trip_and_an_item_outside_the_catalogue(tmp_path):
    _, profiles = made()
    profiles.save(tmp_path)
    again = Profiles.load(tmp_path)
    assert torch.equal(again.table("both", 1.0, 0), profiles.table("both", 1.0, 0))
    new = again.of_texts("reviews", np.array([[1.0, 0.0], [5.0, 0.0], [0.0, 0.0]], np.float16))
    torch.testing.assert_close(new, profiles.vectors["reviews"][1])  # the texts of item a


def test_a_choice_without_texts_says_what_to_do():
    nothing = ITEMS.assign(title=None, brand=None)
    table = reviews()
    sequences = build(table)
    texts, times = sequences.values(table, "text"), sequences.values(table, "timestamp")
    profiles = build_profiles(nothing, texts, times, sequences, 10, read)
    with pytest.raises(ValueError, match="no item has a title"):
        profiles.table("metadata", 1.0, 0)
    assert profiles.table("both", 1.0, 0).norm(dim=1)[1] == pytest.approx(1.0)  # the reviews alone


def test_texts_of_items():
    assert item_texts(ITEMS, ["b", "a", "none"]) == ["by Acme", "Red polish, by OPI", ""]
