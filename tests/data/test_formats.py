"""Formats and encodings of own tables; `test_inspect` reads whole files of each."""

import json
import sqlite3
import sys

import pandas as pd
import pyarrow as pa
import pytest

from sealr.data.download import data_dir, fetch
from sealr.data.ingest import ingest
from sealr.data.query import QueryError
from sealr.data.sources import columns
from sealr.data.sources.encodings import detect
from sealr.data.sources.lines import DataFileError
from sealr.settings import Columns, DataConfig, RemoteFile

HEADER = "user,item,timestamp,rating,text\n"
GOOD = {"user": "u", "item": "i", "timestamp": 1, "rating": 5, "text": "t"}


def read(path, **more):
    return list(columns.read_reviews(DataConfig("tiny", source="columns", **more), path))


def texts(path, **more):
    return [row.values["text"] if row.values else row.reason for row in read(path, **more)]


def test_one_odd_byte_costs_no_row(tmp_path, caplog):
    lines = [f"u{n},i,1,5,Größe {n}".encode() for n in range(3)] + ["v,i,1,5,café".encode("latin-1")]
    (tmp_path / "r.csv").write_bytes(HEADER.encode() + b"\n".join(lines))
    assert texts(tmp_path / "r.csv") == ["Größe 0", "Größe 1", "Größe 2", "café"]
    assert "r.csv: 1 lines are not UTF-8, so they are read as cp1252" in caplog.text
    assert texts(tmp_path / "r.csv", encoding="utf-8")[3] == "not utf-8: see data.encoding"
    with pytest.raises(DataFileError, match="data.encoding 'klingon' is unknown"):
        read(tmp_path / "r.csv", encoding="klingon")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp1252", "cp1251", "shift_jis"])
def test_encodings(tmp_path, encoding):
    text = {"cp1251": "Очень хороший товар, рекомендую", "shift_jis": "とても良い商品です"}.get(
        encoding, "Très bon café"
    )
    (tmp_path / "r.csv").write_bytes((HEADER + f'u,i,1,5,"{text}"\n' * 5).encode(encoding))
    assert texts(tmp_path / "r.csv") == [text] * 5
    assert texts(tmp_path / "r.csv", encoding=encoding) == [text] * 5


def test_detect_says_why():
    assert detect(b"abc\n") == ("utf-8", "ASCII only")
    assert detect("für\nfür".encode()[:-3])[0] == "utf-8"  # a sample may end within a character
    assert detect("Příliš žluťoučký kůň\n".encode("cp1250") * 3)[0] == "cp1250"


def test_a_json_array_is_read_object_by_object(tmp_path):
    records = [GOOD | {"text": "x" * 1_000 + str(n)} for n in range(3_000)]  # more than a block
    (tmp_path / "r.json").write_text(json.dumps([*records, 7, GOOD | {"rating": float("nan")}]))
    rows = read(tmp_path / "r.json")
    assert [row.line for row in rows] == list(range(1, 3_003)) and rows[2_999].values["text"].endswith("2999")
    assert rows[3_000].reason == "not an object" and rows[3_001].values["rating"] != rows[3_001].values["rating"]
    (tmp_path / "r.json").write_text("  [\n" + json.dumps(GOOD) + ",\n{broken")
    with pytest.raises(DataFileError, match="r.json: object 2 of the JSON array is damaged"):
        read(tmp_path / "r.json")
    (tmp_path / "r.json").write_bytes(json.dumps([GOOD | {"text": "für"}], ensure_ascii=False).encode("utf-16"))
    assert texts(tmp_path / "r.json") == ["für"]
    (tmp_path / "r.json").write_text("[]")
    assert read(tmp_path / "r.json") == []


def test_zstd_with_frames_and_damage(tmp_path):
    path = tmp_path / "r.csv.zst"
    with open(path, "wb") as file:
        for part in (HEADER + "u,i,1,5,one\n", "v,i,1,5,two\n"):
            buffer = pa.BufferOutputStream()
            with pa.CompressedOutputStream(buffer, "zstd") as stream:
                stream.write(part.encode())
            file.write(buffer.getvalue())
    assert texts(path) == ["one", "two"]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataFileError, match="the zstd file is truncated or damaged"):
        read(path)


def test_excel(tmp_path, monkeypatch):
    openpyxl = pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'sealr[excel]'")
    book = openpyxl.Workbook()
    for row in (
        (),
        tuple(GOOD),
        (7, "i", pd.Timestamp("1970-01-02").to_pydatetime(), 4.5, None),
        (),
        tuple(GOOD.values()),
    ):
        book.active.append(row)
    book.save(tmp_path / "r.xlsx")
    rows = read(tmp_path / "r.xlsx")
    assert [row.values["timestamp"] for row in rows] == [86_400, 1] and rows[0].values["user"] == 7
    assert rows[0].values["text"] is None and json.loads(rows[0].raw)["timestamp"] == "1970-01-02T00:00:00"
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(
        ImportError, match=r"r.xlsx is an Excel file, which needs openpyxl: pip install 'sealr\[excel\]'"
    ):
        read(tmp_path / "r.xlsx")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\x03\x04", "is a zip archive: unpack it"),
        (b"\xd0\xcf\x11\xe0", "an old Excel file: save it as .xlsx"),
        (b"SQLite format 3\x00", "a SQLite database: set data.reviews.path to sqlite"),
        (b"BZh91AY", "compressed with bzip2: unpack it"),
    ],
)
def test_formats_that_are_not_read(tmp_path, start, message):
    (tmp_path / "r.csv").write_bytes(start + b"\x00" * 50)
    with pytest.raises(DataFileError, match=message):
        read(tmp_path / "r.csv")


def test_parts_of_two_formats_and_one_order_of_day_and_month(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.csv").write_text(HEADER + "u,i,03/04/2018,5,one\n")
    (tmp_path / "parts" / "b.jsonl").write_text(json.dumps(GOOD | {"timestamp": "04/13/2018"}))
    rows = read(tmp_path / "parts")
    assert [row.file for row in rows] == ["a.csv", "b.jsonl"] and rows[0].values["timestamp"] == 1_520_121_600


def test_a_query(tmp_path, monkeypatch):
    monkeypatch.setenv("SEALR_DATA", str(tmp_path / "data"))
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("create table r (who text, what integer, day text, stars real, said text)")
        database.executemany(
            "insert into r values (?, ?, ?, ?, ?)", [("a", 1, "2018-11-05", 4.0, "ä"), ("b", 2, None, 5, "")]
        )
    remote = RemoteFile(f"sqlite:///{tmp_path / 'shop.db'}", query="select * from r order by who")
    config = DataConfig(
        "tiny", source="columns", reviews=remote, columns=Columns("who", "what", "day", "stars", "said"), k_core=1
    )
    output = ingest(config, tmp_path / "out")
    assert output.rows["read"] == 2 and output.rows["reviews"] == 1
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("insert into r values ('c', 3, '2018-11-06', 1, 'new')")
    assert len(fetch(remote).read_text().splitlines()) == 3  # asked again
    for query, message in (
        ("select * from r where who = 'z'", "has no rows"),
        ("select colour from r", "failed: no such column"),
    ):
        with pytest.raises(QueryError, match=message):
            fetch(RemoteFile(remote.path, query=query))
    with pytest.raises(ValueError, match="is a database: set data.reviews.query, or --query, to a SQL query"):
        fetch(RemoteFile(remote.path))
    with pytest.raises(QueryError, match=r"postgresql://me:\*\*\*@127.0.0.1:1/x (failed|needs the driver)"):
        fetch(RemoteFile("postgresql://me:secret@127.0.0.1:1/x", query="select 1"))
    assert len(list((data_dir() / "sql").iterdir())) == 1
