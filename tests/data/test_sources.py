import gzip
import json

import pandas as pd
import pytest

from sealr import resources
from sealr.config import load_config
from sealr.data.sources import amazon, amazon2023, columns, lines, reader, sequences, yelp
from sealr.data.sources.columns import ColumnError
from sealr.data.sources.lines import DataFileError, read_lines, seconds
from sealr.settings import Columns, DataConfig

CONFIG_DIR = resources.folder("configs")
FIELDS = ["user", "item", "timestamp", "rating", "text"]


def config(**more):
    return DataConfig(name="tiny", **more)


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path, **more):
    return list(columns.read_reviews(config(source="columns", **more), path))


def test_registry():
    assert reader("yelp") is yelp and reader("amazon-2023") is amazon2023
    with pytest.raises(ValueError, match="data.source 'ebay' is unknown; known: demo, amazon, amazon-2023, goodreads"):
        reader("ebay")


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_data_config_names_a_reader(path):
    if "\ndata:" in "\n" + path.read_text():
        data = load_config(path.stem).data
        assert reader(data.source) and (data.source == "demo" or data.reviews.path)
        assert (CONFIG_DIR / f"{data.name}.yaml").is_file()  # its own name, or that of the data set it varies


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_amazon_reviews(tmp_path, name):
    row = {
        "reviewerID": "u",
        "asin": "i",
        "unixReviewTime": 5,
        "overall": 2.0,
        "reviewText": " a &amp; b ",
        "summary": "s",
    }
    lines = [row, row | {"reviewText": ""}, {"reviewerID": "u"}]
    rows = list(amazon.read_reviews(config(), write(tmp_path / name, "\ufeff" + "\r\n\n".join(map(json.dumps, lines)))))
    assert [r.line for r in rows] == [1, 3, 5] and [r.reason for r in rows] == ["", "", ""]
    assert rows[0].values == {"user": "u", "item": "i", "timestamp": 5, "rating": 2.0, "text": " a &amp; b "}
    assert rows[1].values["text"] == "s" and rows[2].values == dict.fromkeys(FIELDS) | {"user": "u"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "{'asin': 'i', 'title': 'Joe\\'s &quot;Best&quot;\\n Drum', 'price': 3.5}",
            ('Joe\'s "Best" Drum', None, None),
        ),
        (
            "{'asin': 'i', 'brand': 'B&amp;B', 'categories': [['A', 'B'], ['C', 'D &amp; E', 'F']]}",
            (None, "B&B", "C > D & E > F"),
        ),
        ('{"asin": "i", "title": null, "brand": "", "category": ["A", "B"]}', (None, None, "A > B")),
        (
            "{'asin': 'i', 'related': {'also_bought': ['a', 'b'], 'bought_together': []}, 'title': 'T'}",
            ("T", None, None),
        ),
        ("{'asin': 'i', 'title': 'a \\d b', 'categories': [[]]}", ("a \\d b", None, None)),
    ],
)
def test_amazon_metadata(tmp_path, line, expected):
    (row,) = amazon.read_items(config(), write(tmp_path / "meta.json.gz", line))
    assert row.values == dict(zip(("item", "title", "brand", "categories"), ("i", *expected), strict=True))


@pytest.mark.parametrize(
    "line", ["__import__('os').getcwd()", "{'asin': open('x')}", "{'asin': ", "{{}: 1}", "(" * 5000, "{'a': 1} + 2"]
)
def test_amazon_metadata_is_never_evaluated(tmp_path, line):
    (row,) = amazon.read_items(config(), write(tmp_path / "meta.json", line))
    assert (row.values, row.reason, row.raw) == (None, "not JSON", line)


def test_yelp(tmp_path):
    review = {
        "review_id": "r",
        "user_id": "u",
        "business_id": "b",
        "stars": 4.0,
        "text": "t",
        "date": "2021-01-02 03:04:05",
    }
    (row,) = yelp.read_reviews(config(), write(tmp_path / "r.json", json.dumps(review)))
    assert row.values == {"user": "u", "item": "b", "timestamp": 1_609_556_645, "rating": 4.0, "text": "t"}
    business = {"business_id": "b", "name": "Joe's", "categories": "Thai, Restaurants", "city": "Reno"}
    (row,) = yelp.read_items(config(), write(tmp_path / "b.json", json.dumps(business)))
    assert row.values == {"item": "b", "title": "Joe's", "brand": None, "categories": "Thai, Restaurants"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-01 00:00:05", 5),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:01.9Z", 1),
        ("soon", "soon"),
        ("", ""),
        (None, None),
        (7, 7),
    ],
)
def test_seconds(value, expected):
    assert seconds(value) == expected


CSV = 'item,user,timestamp,rating,text,extra\ni1,u1,5,4,"two\nlines, ""quoted""",x\n\ni2,u2,6,,plain,y\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.csv", CSV),
        ("r.csv.gz", CSV),
        ("r.tsv", CSV.replace(",", "\t")),
        ("R.CSV", "\ufeff" + CSV.replace("\n", "\r\n")),
    ],
)
def test_csv_with_lines_counted_where_records_start(tmp_path, name, text):
    rows = read(write(tmp_path / name, text))
    assert [r.line for r in rows] == [2, 5] and all(not r.reason for r in rows)
    assert [rows[0].values[f] for f in ("user", "item", "timestamp", "rating")] == ["u1", "i1", "5", 4]
    assert rows[0].values["text"] == ('two\nlines\t "quoted"' if name.endswith("tsv") else 'two\nlines, "quoted"')
    assert rows[1].values["rating"] == "" and rows[1].values["text"] == "plain"


def test_bad_csv_records_are_reported_at_the_line_they_start(tmp_path):
    path = tmp_path / "r.csv"
    lines = b'a,b,1,2,"x\ny\nz"\na,b\na,b,1,2,"bad" end\na,b,1,2,"\xff\n"\na,b,1,2,ok\na,b,1,2,"open\nto the end'
    path.write_bytes(b"user,item,timestamp,rating,text\n" + lines)
    rows = read(path)
    assert [(r.line, r.reason.split(":")[0]) for r in rows] == [
        (2, ""), (5, "expected 5 columns, found 2"), (6, "not CSV"), (7, ""), (9, ""), (10, "not CSV"),
    ]  # fmt: skip
    assert rows[5].reason == "not CSV: a double quote is not closed"
    assert rows[3].values["text"] == "ÿ\n" and rows[5].raw == 'a,b,1,2,"open\nto the end'


def test_a_quote_that_is_not_closed(tmp_path, caplog):
    """It swallows the following records up to the next quote, or all of the file."""
    header, rows = "user\titem\ttimestamp\trating\ttext\n", "".join(f"u{n}\ti\t1\t5\tfine\n" for n in range(1100))
    with pytest.raises(
        DataFileError, match="r.tsv line 2: the record has more than 1,000 lines, because a double quote is not closed"
    ):
        read(write(tmp_path / "r.tsv", f'{header}u\ti\t1\t5\t"so good\n{rows}'))
    some = f'{header}u\ti\t1\t5\t"so good\n{rows[:60]}u\ti\t1\t5\twow"\n'
    assert (
        len(read(write(tmp_path / "s.tsv", some))) == 1
        and "s.tsv: 4 lines inside of quoted fields look like records" in caplog.text
    )


def test_a_csv_field_of_megabytes(tmp_path):
    text = "long " * 400_000
    (row,) = read(write(tmp_path / "r.csv", f'user,item,timestamp,rating,text\na,b,1,2,"{text}"\n'))
    assert row.values["text"] == text


def test_json_lines_with_mapped_columns(tmp_path):
    lines = [
        '{"who": "u", "what": 3, "when": 1000}',
        "",
        '{"who": "v", "what": 4, "when": 2500, "said": "t"}',
        "not json",
    ]
    path = write(tmp_path / "r.jsonl.gz", "\n".join(lines))
    rows = read(path, columns=Columns("who", "what", "when", "", "said"), time_unit="ms")
    assert [r.line for r in rows] == [1, 3, 4] and rows[2].reason == "not JSON"
    assert rows[0].values == {"user": "u", "item": 3, "timestamp": 1, "rating": None, "text": None}
    assert rows[1].values["timestamp"] == 2 and rows[1].values["text"] == "t"


def test_parquet_with_real_timestamps_and_nulls(tmp_path):
    frame = pd.DataFrame({"user": [1, 2], "item": ["a", None], "rating": [5.0, None], "text": ["t", None]})
    frame["timestamp"] = pd.to_datetime(["1970-01-02", None])
    frame.to_parquet(tmp_path / "r.parquet")
    rows = read(tmp_path / "r.parquet")
    assert [r.line for r in rows] == [1, 2]
    assert rows[0].values == {"user": 1, "item": "a", "timestamp": 86_400, "rating": 5.0, "text": "t"}
    assert rows[1].values["item"] is None and rows[1].values["timestamp"] is None
    assert json.loads(rows[0].raw)["item"] == "a"


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [("s", "5", "5"), ("ms", "5000", 5), ("iso", "1970-01-02", 86_400), ("iso", "19700102", 86_400)],
)
def test_time_units(tmp_path, unit, value, expected):
    path = write(tmp_path / "r.csv", f"user,item,timestamp,rating,text\nu,i,{value},,\nu,i,x,,\n")
    row, bad = read(path, time_unit=unit)
    assert row.values["timestamp"] == expected
    assert (bad.values, bad.reason) == (None, "timestamp is not of the form iso: see data.date_format")


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl", "r.parquet"])
def test_a_missing_column_is_named_with_those_found(tmp_path, name):
    frame, path = pd.DataFrame({"user": ["u"], "item": ["i"], "time": [1], "text": ["t"]}), tmp_path / name
    if path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        getattr(frame, f"to_{path.suffix[1:]}")(path, index=False)
    with pytest.raises(
        ColumnError, match=rf"{name}: no column 'timestamp' \(data.columns.timestamp\); the columns are: .*time"
    ):
        read(path, columns=Columns(rating=""))
    assert len(read(path, columns=Columns(rating="", timestamp="time"))) == 1
    with pytest.raises(ColumnError, match="data.columns.user is empty"):
        read(path, columns=Columns(user=""))


def test_items_of_any_table(tmp_path):
    path = write(tmp_path / "i.csv", "id,name\na,Amp\n")
    chosen = config(source="columns", columns=Columns(item="id", title="name", brand="", categories=""))
    assert [r.values for r in columns.read_items(chosen, path)] == [
        {"item": "a", "title": "Amp", "brand": None, "categories": None}
    ]


def test_unknown_and_damaged_formats(tmp_path):
    with pytest.raises(DataFileError, match=r"r.xlsx is not a readable Excel file"):
        read(write(tmp_path / "r.xlsx", "x"))
    with pytest.raises(DataFileError, match="r.parquet is not a readable Parquet file"):
        read(write(tmp_path / "r.parquet", "x"))
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(CSV.encode() * 50)[:-9])
    with pytest.raises(DataFileError, match="r.csv.gz: the gzip file is truncated or damaged"):
        read(tmp_path / "r.csv.gz")
    assert read(write(tmp_path / "empty.csv", "")) == []


def test_a_file_with_a_gzip_name_may_be_plain(tmp_path):
    (tmp_path / "a.gz").write_bytes(b"plain\ntext")
    assert list(read_lines(tmp_path / "a.gz")) == [(1, b"plain\n"), (2, b"text")]


def test_a_small_file_with_an_endless_line(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 1_000_000)
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b"{}\n" + b"0" * 50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(DataFileError, match="line 2 is longer than 1,000,000 bytes"):
        list(read_lines(path))


def test_sequences_become_interactions_in_order(tmp_path):
    path = write(tmp_path / "s.txt.gz", "u1 3 1 3\n\nu2 2\nu1 9\nu3\n")
    rows = list(sequences.read_reviews(config(source="sequences"), path))
    assert [(r.values["user"], r.values["item"]) for r in rows if r.values] == [
        ("u1", "3"),
        ("u1", "1"),
        ("u1", "3"),
        ("u2", "2"),
    ]
    times = [r.values["timestamp"] for r in rows[:3]]
    assert times == sorted(set(times)) and rows[0].values["text"] == "" and rows[0].values["rating"] is None
    assert [(r.line, r.reason) for r in rows if r.values is None] == [
        (5, "line 4: the user has an earlier line"),
        (6, "line 5: a user without items"),
    ]


def test_items_of_sequences_are_read_by_column_names(tmp_path):
    path = write(tmp_path / "items.tsv", "item\tphrase\tbrand\n7\tred lacquer\tOPI\n")
    made = config(source="sequences", columns=Columns(title="phrase", categories=""))
    assert [r.values["title"] for r in sequences.read_items(made, path)] == ["red lacquer"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_the_header_tells_the_delimiter(tmp_path, delimiter):
    path = write(tmp_path / "r.csv", "\n".join(delimiter.join(row) for row in (FIELDS, ["u", "i", "5", "4", "a b"])))
    assert [row.values["text"] for row in read(path)] == ["a b"]
    with pytest.raises(ColumnError, match="If these are several columns, set data.delimiter"):
        read(path, delimiter="~")


def test_a_file_without_a_header_and_with_an_odd_delimiter(tmp_path):
    path = write(tmp_path / "r.txt", "u~i~3~5~fine\nv~i~4~6~good\n")
    rows = read(path, delimiter="~", header=False, columns=Columns("1", "2", "4", "3", "5"))
    assert [row.line for row in rows] == [1, 2] and rows[1].values["timestamp"] == "6"
    assert rows[1].values["text"] == "good" and rows[1].values["rating"] == 4


def test_several_texts_are_joined(tmp_path):
    path = write(tmp_path / "r.jsonl", "\n".join(
        json.dumps({"user": "u", "item": "i", "timestamp": 1, "rating": 5} | more)
        for more in ({"summary": "Good", "body": "I like it."}, {"summary": "", "body": "Fine."}, {"summary": 3})
    ))  # fmt: skip
    texts = [row.values["text"] for row in read(path, columns=Columns(text=("summary", "body")))]
    assert texts == ["Good\nI like it.", "Fine.", [3]]  # cleaning rejects the last one


def test_keys_of_nested_objects(tmp_path):
    record = {"reviewer": {"id": "u"}, "product": {"ids": {"sku": "i"}}, "timestamp": 1, "rating": 5, "text": "t"}
    path = write(tmp_path / "r.jsonl", json.dumps(record))
    (row,) = read(path, columns=Columns("reviewer.id", "product.ids.sku"))
    assert row.values["user"] == "u" and row.values["item"] == "i"
    with pytest.raises(ColumnError, match=r"no column 'reviewer.name' .*reviewer, .*reviewer.id"):
        read(path, columns=Columns("reviewer.name", "product.ids.sku"))
    pd.DataFrame([record]).to_parquet(tmp_path / "r.parquet")
    (row,) = read(tmp_path / "r.parquet", columns=Columns("reviewer.id", "product.ids.sku"))
    assert row.values["user"] == "u" and row.values["item"] == "i"
