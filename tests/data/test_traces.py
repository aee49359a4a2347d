"""Where a user's id and texts are found, and where they only seem to be."""

import json
import sqlite3

import numpy as np
import pandas as pd
import pytest

from sealr.data.cache import VectorCache, forget, key_of
from sealr.data.traces import Traces, phrases

LONG = 'The strap is "fine", but the buckle broke after a day & I cried.'
PHRASE = dict(phrases([LONG]))[LONG]
TRACES = Traces(("user-17", "abcdef0123"), frozenset({LONG, "Meh"}), (PHRASE,), frozenset({LONG, "Meh"}))
COMMON = Traces(("17", "abcdef0123"), frozenset())


@pytest.fixture
def count(tmp_path):
    """Findings in a file with this name and content."""

    def write(name, content, traces=TRACES):
        path = tmp_path / name
        if isinstance(content, pd.DataFrame):
            content.to_parquet(path)
        else:
            path.write_text(content, encoding="utf-8")
        return traces.count(path)

    return write


def test_a_phrase_is_of_plain_words_and_long_enough():
    assert PHRASE == "but the buckle broke after a day"
    assert dict(phrases(["too short", LONG])) == {LONG: PHRASE}


def test_bytes_are_searched_as_json_and_html_write_them(count):
    assert count("a.log", "said user-17: no") == 1
    assert count("a.log", "user-171 and my_user-17 are other users") == 0
    assert count("a.json", json.dumps({"text": LONG})) == 1
    assert count("a.html", f"<p>{LONG.replace('&', '&amp;')}</p>") == 1
    assert count("a.txt", "") == 0
    assert Traces(("zoë-17",)).pattern.search(json.dumps("zoë-17").encode())


def test_tables_are_searched_cell_by_cell(count):
    table = pd.DataFrame({"user": ["user-17", "abcdef0123", "user-171"], "text": ["Meh", LONG, "Meh, I say"]})
    assert count("t.parquet", table) == 4
    assert count("t.parquet", pd.DataFrame({"record": [json.dumps({"u": "user-17", "t": LONG}), None]})) == 2
    assert count("t.parquet", pd.DataFrame({"test_users": [["a", "user-17"], []]})) == 1
    assert count("t.parquet", pd.DataFrame({"number": [17, 17]})) == 0


def test_a_common_id_counts_only_where_users_stand(count):
    table = pd.DataFrame({"user": ["17", "18"], "item": ["17", "17"], "record": ["17,17", "17"]})
    assert count("t.parquet", table, COMMON) == 1
    values = {"items": {"17": 4}, "learned": {"17": 4}, "gate_users": ["17"], "ranks": ["17"], "user": "17"}
    assert count("e.json", json.dumps(values), COMMON) == 3
    assert count("a.log", "epoch 17", COMMON) == 0


def test_databases_are_searched_row_by_row_and_caches_forget(tmp_path):
    path = tmp_path / "log.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE log (n INTEGER, message TEXT)")
        database.execute("INSERT INTO log VALUES (1, 'no user user-17'), (2, 'nothing')")
    assert TRACES.count(path) == 1
    store = VectorCache(tmp_path, "model", 2, "label.cache")
    store.put([LONG, "Meh", "of others"], np.ones((3, 2), np.float32))
    assert TRACES.count(store.path) == 2
    forget(store.path, TRACES.keys)
    assert TRACES.count(store.path) == 0 and not np.isnan(store.get(["of others"])).any()
    assert key_of("Meh") not in store.path.read_bytes()
    store.close()
