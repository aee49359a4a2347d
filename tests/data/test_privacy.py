"""Salted ids, forgotten users who stay out of the tables, and rejected rows without records."""

import json

import pandas as pd
import pytest

from sealr.data import privacy
from sealr.data.frames import store
from sealr.data.ingest import ingest
from sealr.data.privacy import SaltError
from sealr.settings import Columns, DataConfig, RemoteFile


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(privacy.VARIABLE, raising=False)
    return tmp_path / "state"


def test_a_salted_id_depends_on_the_salt_and_on_nothing_else(state, monkeypatch):
    first = privacy.salted()("ann")
    assert first == privacy.salted()("ann") != privacy.salted()("bob") and "ann" not in first and len(first) == 32
    assert (state / privacy.FILE).stat().st_mode & 0o077 == 0  # nobody else may read it
    monkeypatch.setenv(privacy.VARIABLE, "another secret")
    assert privacy.salted()("ann") != first


def test_a_missing_or_wrong_salt_is_a_sentence(state, monkeypatch):
    with pytest.raises(SaltError, match="set SEALR_SALT to the salt of the machine that made it"):
        privacy.salted("the model")
    assert not (state / privacy.FILE).exists()  # a new one would be of no use
    privacy.remember("shop", "ann")
    monkeypatch.setenv(privacy.VARIABLE, "another secret")
    with pytest.raises(SaltError, match="forgotten.json was made with another salt"):
        privacy.forgotten("shop")


def test_the_list_has_no_ids_and_survives_a_second_call(state):
    path = privacy.remember("shop", "ann")
    once = path.read_bytes()
    assert privacy.remember("shop", "ann") == path and path.read_bytes() == once
    assert "ann" not in path.read_text() and len(privacy.forgotten("shop")) == 1 and not privacy.forgotten("other")


def config(tmp_path, **more):
    rows = [f"{user},i{n},{1_500_000_000 + n},{user} wrote {n}" for user in ("ann", "7") for n in range(3)]
    (tmp_path / "r.csv").write_text("user,item,timestamp,text\n" + "\n".join([*rows, "ann,,1,secret of ann"]) + "\n")
    reviews = RemoteFile(str(tmp_path / "r.csv"))
    columns = Columns(rating="")
    return DataConfig("shop", source="columns", reviews=reviews, columns=columns, k_core=1, **more)


def tables(tmp_path, config):
    result = ingest(config, tmp_path / "made")
    names = ("reviews", "rejected")
    return result, *(pd.read_parquet(tmp_path / "made" / f"{name}.parquet") for name in names)


def test_a_forgotten_user_is_rejected_without_a_record_and_all_others_stay(tmp_path):
    privacy.remember("shop", "ann")
    result, reviews, rejected = tables(tmp_path, config(tmp_path))
    assert set(reviews["user"]) == {"7"} and len(reviews) == 3
    assert rejected["reason"].tolist() == [privacy.REASON] * 4 and rejected["record"].tolist() == [""] * 4
    assert rejected["line"].tolist() == [2, 3, 4, 8]
    assert result.rows["read"] == result.rows["reviews"] + result.rows["rejected"] == 7


def test_an_id_that_is_a_number_in_the_file_is_forgotten_too(tmp_path):
    rows = [{"user": 7, "item": "a", "timestamp": 1_500_000_000 + n, "text": "x"} for n in range(3)]
    rows += [row | {"user": 8} for row in rows]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    privacy.remember("shop", "7")
    reviews = RemoteFile(str(tmp_path / "r.jsonl"))
    numbers = DataConfig("shop", source="columns", reviews=reviews, columns=Columns(rating=""), k_core=1)
    assert set(tables(tmp_path, numbers)[1]["user"]) == {"8"}


def test_rejected_rows_keep_their_record_or_only_the_reason(tmp_path):
    assert "secret of ann" in tables(tmp_path, config(tmp_path))[2]["record"][0]
    _, reviews, rejected = tables(tmp_path, config(tmp_path, keep_rejected="reason"))
    assert rejected.values.tolist() == [["r.csv", 8, "missing item", ""]] and len(reviews) == 6


def test_who_was_forgotten_is_a_reason_to_ingest_again(tmp_path):
    before = privacy.ingest_settings(config(tmp_path))
    assert before == privacy.ingest_settings(config(tmp_path))
    privacy.remember("shop", "ann")
    assert privacy.ingest_settings(config(tmp_path)) != before
    assert privacy.salted()("ann") not in str(privacy.ingest_settings(config(tmp_path)))


def test_the_copy_of_a_frame_has_no_forgotten_user(state):
    privacy.remember("notebook", "7")
    frame = pd.DataFrame({"user": [7, 8, None], "item": "a", "timestamp": 1_500_000_000, "text": "x"})
    stored, _ = store(frame, None, {}, "notebook")
    assert pd.read_parquet(stored.path("reviews.parquet"))["user"].tolist()[:1] == ["8"] and stored.rows["reviews"] == 2
    assert store(frame, None, {}, "other")[0].rows["reviews"] == 3
