"""Batch scoring on one machine against the model's own answers: formats, blocks, and what a stopped run leaves."""

import gzip
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from sealr import progress
from sealr.serving import batch, writers
from sealr.serving.batch import ScoreError, score
from sealr.serving.recommender import Recommender
from sealr.serving.writers import OutputError
from tests.serving.toy_model import USERS

HISTORY = [{"item": "i01", "text": "I love it, it works great"}, {"item": "i04", "sentiment": -2}]
PARAMS = {"top_k": 4}


@pytest.fixture(scope="module")
def recommender(model_folder):
    return Recommender.load(model_folder / "artifacts" / "model-packed")


@pytest.fixture(autouse=True)
def one_model(monkeypatch, recommender):
    """Loaded once, and asked in blocks of five."""
    monkeypatch.setattr(Recommender, "load", lambda folder: recommender)
    monkeypatch.setattr(batch, "ROWS", 5)
    monkeypatch.setattr(recommender.catalogue, "available", None)


@pytest.fixture(scope="module")
def model(model_folder):
    return str(model_folder)


def same(found, expected):
    """Answers, with scores up to the rounding that the size of a block makes."""
    for name in ("user", "items", "titles", "reasons", "warnings"):
        assert [list(v) if name != "user" else v for v in found[name]] == expected[name].tolist(), name
    for got, wanted in zip(found["scores"], expected["scores"], strict=True):
        assert got.tolist() == pytest.approx(wanted, abs=1e-4)


def test_all_known_users_are_answered_as_the_model_answers_them(model, recommender, tmp_path):
    made = score(model, None, str(tmp_path / "out.parquet"), PARAMS)
    assert (made.requests, made.items, made.empty) == (24, 96, 0)
    found = pd.read_parquet(tmp_path / "out.parquet")
    same(found, recommender.predict(pd.DataFrame({"user": USERS}), PARAMS))
    assert "LLM #" in found["reasons"].iloc[0][0] and found["model_version"].isna().all()
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_csv_with_lists_as_json_keeps_ids_and_other_columns(model, recommender, tmp_path):
    users = tmp_path / "users.csv"
    asked = pd.DataFrame(
        {
            "user": ["007", "u3", "x, y"],
            "history": [json.dumps(HISTORY), None, json.dumps(HISTORY[:1])],
            "exclude_items": [None, '["i05", "i06"]', None],
        }
    )
    asked.assign(segment=["a", "", "ü"], available_only=["", "FALSE", "false"]).to_csv(users, index=False)
    score(model, users, str(tmp_path / "out.parquet"), PARAMS)
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert list(found) == ["user", "segment", "items", "titles", "scores", "reasons", "warnings", "model_version"]
    assert found["segment"].tolist() == ["a", "", "ü"] and not {"i05", "i06"} & set(found["items"][1])
    same(found, recommender.predict(asked, PARAMS))


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet", "folder"])
def test_json_lines_and_parquet(model, recommender, tmp_path, form):
    asked = pd.DataFrame({"user": [7, 8], "history": [HISTORY, HISTORY[1:]], "categories": [["Home"], None]})
    table = asked.assign(age=[31, None], when=pd.Timestamp("2024-05-01"))
    users = tmp_path / f"users.{form}"
    if form == "folder":
        users.mkdir()
        for number in range(2):
            table.iloc[[number]].to_parquet(users / f"part-{number}.parquet")
    elif form == "parquet":
        table.to_parquet(users)
    else:
        lines = table.assign(when="2024-05-01").to_json(orient="records", lines=True)
        users.write_bytes(gzip.compress(lines.encode()) if form.endswith("gz") else lines.encode())
    score(model, users, str(tmp_path / "out.parquet"), PARAMS)
    found = pd.read_parquet(tmp_path / "out.parquet")
    same(found, recommender.predict(asked, PARAMS))
    assert found["age"].tolist()[0] == 31 and found["age"].isna().tolist() == [False, True]
    assert str(found["when"][0])[:10] == "2024-05-01"


def long(answers):
    return [
        (a["user"], n, item, score)
        for a in answers.to_dict("records")
        for n, (item, score) in enumerate(zip(a["items"], a["scores"], strict=True), start=1)
    ]


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_csv_has_a_row_for_each_recommended_item(model, recommender, tmp_path, name):
    score(model, None, str(tmp_path / name), PARAMS)
    found = pd.read_csv(tmp_path / name)
    assert list(found) == ["user", *writers.LONG]
    wanted = long(recommender.predict(pd.DataFrame({"user": USERS}), PARAMS))
    got = list(found[["user", "rank", "item", "score"]].itertuples(index=False, name=None))
    assert [row[:3] for row in got] == [row[:3] for row in wanted]
    assert [row[3] for row in got] == pytest.approx([row[3] for row in wanted], abs=1e-4)


def rows_of(path, table):
    with sqlite3.connect(path) as connection:
        return connection.execute(f'SELECT "user", rank, item, segment FROM {table} ORDER BY rowid').fetchall()


def tables_of(path):
    with sqlite3.connect(path) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_a_table_of_a_database_is_replaced_as_a_whole(model, recommender, tmp_path, monkeypatch):
    users, database = tmp_path / "users.jsonl", tmp_path / "shop.db"
    users.write_text("".join(json.dumps({"user": u, "segment": [n]}) + "\n" for n, u in enumerate(USERS)))
    out = f"sqlite:///{database}"
    score(model, users, out, PARAMS, "recommended")
    wanted = [row[:3] for row in long(recommender.predict(pd.DataFrame({"user": USERS}), PARAMS))]
    first = rows_of(database, "recommended")
    assert [row[:3] for row in first] == wanted and first[0][3] == "[0]" and tables_of(database) == {"recommended"}
    with pytest.raises(OutputError, match="recommended exists already.*--overwrite"):
        score(model, users, out, PARAMS, "recommended")
    stop_after(monkeypatch, recommender, blocks=2)
    with pytest.raises(KeyboardInterrupt):
        score(model, users, out, {"top_k": 2}, "recommended", overwrite=True)
    assert rows_of(database, "recommended") == first and tables_of(database) == {"recommended"}
    monkeypatch.undo()
    monkeypatch.setattr(Recommender, "load", lambda folder: recommender)
    score(model, users, out, {"top_k": 2}, "recommended", overwrite=True)
    assert len(rows_of(database, "recommended")) == 48 and tables_of(database) == {"recommended"}


def stop_after(monkeypatch, recommender, blocks):
    whole, asked = recommender.predict, []

    def predict(*given):
        asked.append(1)
        if len(asked) > blocks:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(recommender, "predict", predict)


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_a_stopped_run_leaves_nothing_or_what_was_there(model, recommender, tmp_path, monkeypatch, name):
    stop_after(monkeypatch, recommender, blocks=2)
    out = tmp_path / name
    with pytest.raises(KeyboardInterrupt):
        score(model, None, str(out), PARAMS)
    assert not list(tmp_path.iterdir())
    out.write_text("of yesterday")
    with pytest.raises(KeyboardInterrupt):
        score(model, None, str(out), PARAMS, overwrite=True)
    assert out.read_text() == "of yesterday" and [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(OutputError, match="exists already"):
        score(model, None, str(out), PARAMS)


KILLED = """
import os, sys
from pathlib import Path
from sealr.serving import writers
answer = {"user": "u", "items": ["i"], "titles": ["t"], "scores": [1.0], "reasons": ["r"], "warnings": []}
with writers.writer(*sys.argv[1:]) as write:
    write([{}], [answer], "1")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("out", [["out.parquet"], ["out.csv"], ["sqlite:///out.db", "recommended"]])
def test_a_killed_run_leaves_nothing_that_looks_complete(tmp_path, out):
    done = subprocess.run([sys.executable, "-c", KILLED, *out], cwd=tmp_path)
    assert done.returncode == -9
    if len(out) > 1:
        assert tables_of(tmp_path / "out.db") == {"recommended_unfinished"}
        with writers.writer(f"sqlite:///{tmp_path}/out.db", "recommended") as write:  # the next run starts anew
            answer = {"user": "v", "items": ["j"], "titles": ["t"], "scores": [1.0], "reasons": ["r"], "warnings": []}
            write([{"segment": "a"}], [answer], "1")
        assert rows_of(tmp_path / "out.db", "recommended") == [("v", 1, "j", "a")]
    else:
        assert [path.name[0] for path in tmp_path.iterdir()] == ["."]


def test_blocks_bound_the_answers_in_memory(model, recommender, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "ITEMS", 12)
    whole, sizes = recommender.predict, []
    monkeypatch.setattr(recommender, "predict", lambda frame, params: sizes.append(len(frame)) or whole(frame, params))
    score(model, None, str(tmp_path / "a.csv"), {"top_k": 4})
    score(model, None, str(tmp_path / "b.csv"), {"top_k": 1})
    assert sizes == [3] * 8 + [5] * 4 + [4]


def test_available_items_and_users_without_a_recommendation(model, tmp_path):
    (tmp_path / "available").write_text("i02\ni03\n")
    users = tmp_path / "users.jsonl"
    seen = [{"item": "i02"}, {"item": "i03"}]
    users.write_text(json.dumps({"user": "new"}) + "\n" + json.dumps({"user": "full", "history": seen}) + "\n")
    made = score(model, users, str(tmp_path / "out.csv"), PARAMS, available=tmp_path / "available")
    assert set(pd.read_csv(tmp_path / "out.csv")["item"]) == {"i02", "i03"}
    assert (made.requests, made.items, made.empty, made.warned) == (2, 2, 1, 2)
    assert "user 'new' is not known" in made.warning


@pytest.mark.parametrize("named", [False, True])
def test_a_long_run_tells_a_log_how_far_it_is(model, tmp_path, monkeypatch, caplog, named):
    caplog.set_level("INFO", "sealr")
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    users = tmp_path / "users.parquet"
    pd.DataFrame({"user": USERS}).to_parquet(users)
    score(model, users if named else None, str(tmp_path / "out.csv"), PARAMS)
    assert ("users.parquet: 24 of 24 rows" if named else "score: 5 of 24 users") in caplog.text


def test_what_cannot_be_scored_is_said_in_a_sentence(model, tmp_path, caplog):
    def refused(message, text, name="users.jsonl", **more):
        path = tmp_path / name
        path.write_text(text)
        out = Path(tmp_path / "never.parquet")
        with pytest.raises(ScoreError, match=message) as raised:
            score(model, path, str(out), PARAMS | more)
        assert "\n" not in str(raised.value) and not out.exists()

    refused("needs a column user or history; it has customer", '{"customer": 1}')
    refused("has a column items", '{"user": "u1", "items": 1}')
    refused("jsonl, row 2: user must be an id", '{"user": "u1"}\n{"user": 1.5}')
    six = '{"user": "u1"}\n' * 6
    refused("row 7: history must be a list", six + '{"user": "u1", "history": "no"}')  # in the second block
    refused("row 1: unknown key of a history 'txt'; did you mean text", '{"history": [{"item": "i01", "txt": "a"}]}')
    refused("row 1: no item has the category 'Hom'; did you mean Home", '{"user": "u1", "categories": ["Hom"]}')
    refused("csv, row 3", "user,segment\nu1,a\nu2\n", "users.csv")
    refused("has no rows", "", "users.jsonl")
    refused("has no rows", "user\n", "users.csv")
    with pytest.raises(ScoreError, match="none.csv"):
        score(model, tmp_path / "none.csv", str(tmp_path / "out.csv"), PARAMS)
    with pytest.raises(ScoreError, match="not a SEALR model"):
        score(str(tmp_path), None, str(tmp_path / "out.csv"), PARAMS)
    (tmp_path / "near.csv").write_text("user,exclude_item\nu1,a\n")
    score(model, tmp_path / "near.csv", str(tmp_path / "near.parquet"), PARAMS)
    assert "exclude_item is kept as it is; did you mean exclude_items?" in caplog.text


@pytest.mark.parametrize(
    ("out", "table", "message"),
    [
        ("out.txt", "", "out.txt ends in none of .parquet, .csv, .csv.gz"),
        ("out.csv", "recommended", "--table is for databases"),
        ("sqlite:///out.db", "", "name a --table"),
        ("mysql+nothing://me:secret@host/shop", "t", "mysql\\+nothing://me:\\*\\*\\*@host"),
        ("sqlite:////nowhere/out.db", "t", "unable to open database file"),
    ],
)
def test_outputs_that_cannot_be(out, table, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=message) as raised, writers.writer(out, table):
        pass
    assert "secret" not in str(raised.value)


def test_a_column_that_changes_its_type_is_named(tmp_path):
    answer = {"user": "u", "items": ["i"], "titles": ["t"], "scores": [1.0], "reasons": ["r"], "warnings": []}
    with pytest.raises(OutputError, match="column age"), writers.writer(str(tmp_path / "out.parquet")) as write:
        write([{"age": 1, "note": None}], [answer], "1")
        write([{"age": "old", "note": "x"}], [answer], "1")
    assert not list(tmp_path.iterdir())
