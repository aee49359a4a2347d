"""The label cache: other data, other labellers, two processes at once, a damaged file."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sealr.data.cache import CacheError, VectorCache
from sealr.data.tables import read_table
from sealr.emotion.label import PROBABILITIES, label
from sealr.emotion.labeller import Labeller
from tests import toys
from tests.emotion.test_label import reviews, small

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def labeller(toy_labeller):
    return small(toy_labeller)


def values(n, seed=0):
    return np.random.default_rng(seed).random((n, 28), np.float32)


def test_what_was_put_is_there_and_nothing_else(tmp_path):
    cache, p = VectorCache(tmp_path, "a", 28, "label.cache"), values(1200)
    texts = [f"text {i}" for i in range(1200)]
    cache.put(texts[:1100], p[:1100])
    again = VectorCache(tmp_path, "a", 28, "label.cache").get(texts)
    assert np.array_equal(again[:1100], p[:1100]) and np.isnan(again[1100:]).all()
    assert np.isnan(VectorCache(tmp_path, "b", 28, "label.cache").get(texts)).all()
    assert 0.1 < cache.megabytes() < 1
    cache.put(["text 0"], p[1:2])
    assert np.array_equal(cache.get(["text 0"])[0], p[0])  # the first one stays
    cache._file.execute("UPDATE p SET p = x'00' WHERE text = (SELECT text FROM p LIMIT 1)")  # but not half a value
    cache.put(texts[:1100], p[:1100])
    assert np.array_equal(cache.get(texts)[:1100], p[:1100])


def test_another_folder_with_more_reviews_labels_only_what_is_new(labeller, tmp_path, monkeypatch):
    first = label(reviews(), labeller.config, tmp_path / "first", labeller, cache=tmp_path / "cache")
    assert (first.metrics["cache.hits"], first.metrics["cache.misses"]) == (0, 50)
    seen, real = [], labeller.predict_texts
    monkeypatch.setattr(labeller, "predict_texts", lambda texts, workers=1: seen.extend(texts) or real(texts, workers))
    grown = reviews(70)
    grown.loc[69, "text"], grown.loc[68, "text"] = "something new", "and  &amp; more"
    second = label(grown, labeller.config, tmp_path / "second", labeller, cache=tmp_path / "cache")
    assert seen == ["something new", "and & more"][::-1] and second.metrics["cache.misses"] == 2
    assert second.metrics["cache.hits"] == 50 and second.metrics["cache.megabytes"] > 0
    a, b = (read_table(tmp_path / n / "labels.parquet", "labels") for n in ("first", "second"))
    np.testing.assert_array_equal(a[PROBABILITIES].to_numpy(), b[PROBABILITIES].to_numpy()[:60])
    third = label(grown, labeller.config, tmp_path / "third", labeller, cache=tmp_path / "cache")
    assert third.metrics["cache.misses"] == 0 and "reviews_per_second" not in third.metrics
    assert (tmp_path / "third" / "labels.parquet").read_bytes() == (tmp_path / "second" / "labels.parquet").read_bytes()


def test_other_weights_and_windows_have_other_files(labeller, tmp_path):
    label(reviews(), labeller.config, tmp_path / "a", labeller, cache=tmp_path / "cache")
    others = [small(toys.toy_labeller(tmp_path / "other", seed=1))]
    for options in ({"window_tokens": 20}, {"max_windows": 2}):
        sizes = {"window_tokens": 16, "max_windows": 3} | options
        others.append(Labeller(labeller.backend, labeller.config, **sizes))
    assert len({labeller.identity, *(other.identity for other in others)}) == 4
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [f"{labeller.identity}.sqlite"]


WRITER = """
import sys
import numpy as np
from pathlib import Path
from sealr.data.cache import VectorCache
cache = VectorCache(Path(sys.argv[1]), "shared", 28, "label.cache")
for start in range(0, 400, 10):
    texts = [f"text {i}" for i in range(start, start + 10)]
    cache.put(texts, np.repeat(np.arange(start, start + 10, dtype=np.float32)[:, None], 28, 1))
    assert not np.isnan(cache.get(texts)).any()
"""


def test_two_processes_write_at_once(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=environment, cwd=ROOT) for _ in range(2)
    ]
    assert [w.wait() for w in writers] == [0, 0]
    found = VectorCache(tmp_path, "shared", 28, "label.cache").get([f"text {i}" for i in range(400)])
    assert np.array_equal(found[:, 0], np.arange(400)) and np.array_equal(found[:, 27], np.arange(400))


def test_a_damaged_or_locked_file_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "a.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(CacheError, match="damaged.*delete it"):
        VectorCache(tmp_path, "a", 28, "label.cache")
    monkeypatch.setattr("sealr.data.cache.WAIT_SECONDS", 0.1)
    cache = VectorCache(tmp_path, "b", 28, "label.cache")
    other = sqlite3.connect(cache.path)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(CacheError, match="locked.*label.cache=false"):
        cache.put(["x"], values(1))
    other.close()
    cache.put(["x"], values(1))
    assert not np.isnan(cache.get(["x"])).any()


def test_a_value_of_another_length_counts_as_absent(tmp_path):
    cache = VectorCache(tmp_path, "a", 28, "label.cache")
    cache.put(["x"], values(1))
    with sqlite3.connect(cache.path) as file:
        file.execute("UPDATE p SET p = x'00'")
    file.close()
    assert np.isnan(cache.get(["x"])).all()
