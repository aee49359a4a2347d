import gzip
import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest

from sealr.data.download import ChecksumError, MissingFile
from sealr.data.ingest import IngestError, ingest, input_files
from sealr.data.sources.lines import DataFileError
from sealr.data.tables import read_table
from sealr.data.validate import validate
from sealr.settings import DataConfig, RemoteFile

START = 1_400_000_000


def record(user="u", item="i", time=1_400_000_000, text="fine", **more):
    return {"reviewerID": user, "asin": item, "unixReviewTime": time, "reviewText": text, "overall": 4.0} | more


class Case:
    """An Amazon data set in a folder, ingested into ``out``."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.out = folder / "data", folder / "out"
        self.folder.mkdir()
        monkeypatch.setenv("SEALR_DATA", str(self.folder))

    def write(self, *records, name="reviews.json"):
        lines = [r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in records]
        (self.folder / name).write_bytes(b"\n".join(lines) + b"\n")

    def run(self, k_core=1, **more):
        more = {"reviews": RemoteFile("reviews.json"), "source": "amazon"} | more
        output = ingest(DataConfig(name="tiny", k_core=k_core, **more), self.out)
        assert output.rows["read"] == output.rows["reviews"] + output.rows["rejected"]
        assert len(self.table("rejected")) == output.rows["rejected"] + output.rows["rejected_items_lines"]
        return output

    def table(self, name):
        return read_table(self.out / f"{name}.parquet", name)

    def rejected(self):
        return list(self.table("rejected")[["line", "reason"]].itertuples(index=False, name=None))


@pytest.fixture
def case(tmp_path, monkeypatch):
    return Case(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{not json", "not JSON"),
        ('{"reviewerID": "u", "overall": NaN}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "not an object"),
        ("null", "not an object"),
        (b'{"reviewerID": "\xff\xfe"}', "not UTF-8"),
        (record(user=None), "missing user"),
        (record(user=" "), "missing user"),
        ({"asin": "i"}, "missing user"),
        (record(item=""), "missing item"),
        (record(item=["i"]), "item is not text"),
        (record(user="\ud800"), "user is not text"),
        (record(time=None), "missing timestamp"),
        (record(time=""), "missing timestamp"),
        (record(time="yesterday"), "timestamp not readable: see data.time_unit and data.date_format"),
        (record(time=1.5), "timestamp not readable: see data.time_unit and data.date_format"),
        (record(time=True), "timestamp not readable: see data.time_unit and data.date_format"),
        (record(time=-5), "timestamp before 1990: see data.time_unit and data.start_date"),
        (record(time=0), "timestamp before 1990: see data.time_unit and data.start_date"),
        (record(time="1400000000.5"), "timestamp not readable: see data.time_unit and data.date_format"),
        (record(time=int(time.time()) + 2 * 86_400), "timestamp in the future"),
        (record(time=1_400_000_000_000), "timestamp after 2100: in milliseconds? set data.time_unit to ms"),
        (record(time=10**30), "timestamp after 2100: in milliseconds? set data.time_unit to ms"),
        (record(overall=0), "rating not from 1 to 5: see data.rating_scale"),
        (record(overall=5.5), "rating not from 1 to 5: see data.rating_scale"),
        (record(overall=10**400), "rating not a number: see data.rating_scale"),
        (record(overall="many"), "rating not a number: see data.rating_scale"),
        (record(overall="nan"), "rating not a number: see data.rating_scale"),
        (record(overall=True), "rating not a number: see data.rating_scale"),
        (record(text=["a"]), "text is not text"),
        (record(), "exact duplicate"),
    ],
)
def test_a_bad_row_is_rejected_with_its_line_reason_and_raw_text(case, bad, reason):
    case.write(record(), "", bad, "   ", record(user="v"))
    output = case.run()
    assert output.rows["read"] == 3 and case.rejected() == [(3, reason)]
    row = case.table("rejected").iloc[0]
    assert row["source"] == "reviews.json"
    raw = '{"reviewerID": "\\xff\\xfe"}' if isinstance(bad, bytes) else bad if isinstance(bad, str) else json.dumps(bad)
    assert row["record"] == raw[:10_000]


def test_what_is_unusual_but_fine_is_kept(case):
    case.write(
        record("a", text=""),
        record("b", overall=None),
        record("c", time="1400000000", overall="3"),
        record("d", time=1_400_000_000.0),
        record(7, item=8),
        record("f", text="half a pair \ud83d, \x00 and 😀"),
        record("g", text=None),
        record("h", time="1400000000.0"),
        record("<b>i</b>", item="<script>1</script>"),
    )
    case.run()
    reviews = case.table("reviews").set_index("user")
    assert reviews.loc["a", "text"] == reviews.loc["g", "text"] == "" and pd.isna(reviews.loc["b", "rating"])
    assert reviews.loc["c", ["timestamp", "rating"]].tolist() == [1_400_000_000, 3]
    assert reviews.loc["d", "timestamp"] == reviews.loc["h", "timestamp"] == 1_400_000_000
    assert reviews.loc["<b>i</b>", "item"] == "<script>1</script>"  # ids are as they are; pages escape them
    assert reviews.loc["7", "item"] == "8" and reviews.loc["f", "text"] == "half a pair \ufffd, \x00 and 😀"
    validate(case.table("reviews"), "reviews")


def test_ten_megabytes_of_text_survive_and_raw_records_are_cut(case):
    text = "long " * 2_000_000
    case.write(record(text=text), record(user=None, text=text))
    case.run()
    assert case.table("reviews")["text"][0] == text and len(case.table("rejected")["record"][0]) == 10_000


def test_a_setting_that_rejects_most_rows_is_warned_of(case, caplog):
    case.write(*(record(f"u{n}", overall=n) for n in range(1, 9)))  # a scale of ten
    case.run()
    assert "one reason rejects 38 % of the reviews" in caplog.text and 'data.columns.rating=""' in caplog.text
    caplog.clear()
    case.write(*(record(f"u{n}", overall=n) for n in range(1, 7)))
    case.run()
    assert not caplog.text


def test_a_wrong_reader_is_hinted_at(case, caplog):
    row = {"user_id": "u", "parent_asin": "i", "timestamp": START * 1000, "rating": 5, "text": "t"}
    case.write(*[row] * 3, record())
    case.run()
    assert "one reason rejects 75 % of the reviews: missing user; `sealr inspect FILE` tells" in caplog.text
    with pytest.raises(IngestError, match="rejected: missing user 3; `sealr inspect FILE` tells which data.source"):
        case.write(*[row] * 3)
        case.run()


def test_lists_and_numbers_of_items_are_words(case):
    case.write({"user": "u", "item": "i", "timestamp": 1_400_000_000, "rating": 5, "text": "t"}, name="r.jsonl")
    case.write({"item": "i", "title": 1984, "brand": None, "categories": ["Hair", "Shampoo"]}, name="i.jsonl")
    case.run(source="columns", reviews=RemoteFile("r.jsonl"), items=RemoteFile("i.jsonl"))
    assert case.table("items").iloc[0][["title", "categories"]].tolist() == ["1984", "Hair > Shampoo"]


def test_start_date_is_inclusive_and_utc(case):
    case.write(record("a", time=1_609_459_199), record("b", time=1_609_459_200))
    assert case.run(start_date="2021-01-01").rows["reviews"] == 1
    assert case.rejected() == [(1, "before start_date")]
    with pytest.raises(ValueError, match="data.start_date '1.1.2021' is not a date"):
        case.run(start_date="1.1.2021")


def test_dates_before_1990_only_if_asked_and_those_of_tomorrow_are_a_matter_of_clocks(case):
    times = {"a": -86_400, "b": 0, "c": 631_151_999, "d": 631_152_000, "e": int(time.time()) + 80_000}
    case.write(*(record(user, time=value) for user, value in times.items()))
    assert case.run().rows["reviews"] == 2 and set(case.table("reviews")["user"]) == {"d", "e"}
    assert case.run(start_date="1970-01-01").rows["reviews"] == 4
    assert case.rejected() == [(1, "before start_date")]
    assert case.run(start_date="1900-01-01").rows["reviews"] == 5
    validate(case.table("reviews"), "reviews")


def test_reviews_without_a_text_can_be_rejected(case):
    case.write(record("a"), record("b", text=" "), record("c", text=None))
    assert case.run().rows["reviews"] == 3
    assert case.run(need_text=True).rows["reviews"] == 1
    assert case.rejected() == [(2, "missing text"), (3, "missing text")]


def test_a_folder_of_parts_is_one_data_set(case):
    (case.folder / "parts" / "deep").mkdir(parents=True)
    case.write(record("a"), record("b"), "{", name="parts/part-0.json")
    case.write(record("a"), record("c"), record("d", time="x"), name="parts/deep/part-1.json")
    case.write("not counted", name="parts/_SUCCESS")
    output = case.run(reviews=RemoteFile("parts"))
    assert output.rows["read"] == 6 and set(case.table("reviews")["user"]) == {"a", "b", "c"}
    found = case.table("rejected")[["source", "line", "reason"]].values.tolist()
    assert sorted(map(tuple, found)) == [
        ("part-0.json", 1, "exact duplicate"),
        ("part-0.json", 3, "not JSON"),
        ("part-1.json", 3, "timestamp not readable: see data.time_unit and data.date_format"),
    ]


def test_ties_keep_file_order_and_positions_count_per_user(case):
    rows = [("b", "i3", START + 2), ("a", "i2", START), ("b", "i1", START), ("b", "i9", START), ("b", "i5", START)]
    case.write(*(record(*row) for row in rows))
    output = case.run()
    rows = case.table("reviews")[["user", "item", "position"]].values.tolist()
    assert rows == [["a", "i2", 0], ["b", "i1", 0], ["b", "i9", 1], ["b", "i5", 2], ["b", "i3", 3]]
    assert case.table("reviews")["position"].dtype == "int32"
    assert output.metrics == {"ties": 0.4, "mean_length": 2.5, "density": 0.5, "mean_text": 4.0}


def test_k_core_is_iterative_and_every_drop_is_recorded(case):
    # c has one review and is dropped; then item z has one left, then b, then y; a, d, w and x stay
    pairs = [("a", "w"), ("a", "x"), ("d", "w"), ("d", "x"), ("b", "y"), ("b", "z"), ("a", "y"), ("c", "z")]
    case.write(*(record(u, i, START + n) for n, (u, i) in enumerate(pairs)))
    output = case.run(k_core=2)
    assert set(case.table("reviews")["user"]) == {"a", "d"} and set(case.table("items")["item"]) == {"w", "x"}
    assert case.rejected() == [(n, "k-core") for n in (5, 6, 7, 8)]
    assert output.rows | {"read": 8, "reviews": 4, "rejected": 4, "users": 2, "items": 2} == output.rows
    assert json.loads(case.table("rejected")["record"][3])["reviewerID"] == "c"


def test_duplicates_do_not_count_for_k_core(case):
    case.write(record("a"), record("a"), record("a", text="other"), record("a", time=START + 5))
    with pytest.raises(IngestError, match="read 4, rejected: k-core 3, exact duplicate 1; lower data.k_core .now 4"):
        case.run(k_core=4)
    assert len(case.table("rejected")) == 4  # written all the same, to show the reasons
    assert case.run(k_core=3).rows["reviews"] == 3


def test_one_user(case):
    case.write(*(record("a", f"i{n}", START + n) for n in range(6)))
    with pytest.raises(IngestError, match="no review is left: read 6, rejected: k-core 6; lower data.k_core"):
        case.run(k_core=5)
    assert case.run(k_core=1).rows["users"] == 1


def test_nothing_usable(case):
    case.write("{", record(user=None))
    with pytest.raises(
        IngestError,
        match=r"reviews.json: no review is left: read 2, rejected: not JSON 1, missing user 1; `sealr inspect",
    ):
        case.run()
    case.write("", "  ")
    with pytest.raises(IngestError, match="reviews.json holds no reviews"):
        case.run()
    (case.folder / "reviews.json").write_bytes(b"")
    with pytest.raises(IngestError, match="reviews.json holds no reviews"):
        case.run()


def test_a_truncated_gzip_file_is_named_and_leaves_nothing(case):
    whole = gzip.compress(
        "\n".join(json.dumps(record(f"u{n}", text=os.urandom(50).hex())) for n in range(500)).encode()
    )
    (case.folder / "reviews.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFileError, match=r"reviews.json: the gzip file is truncated or damaged"):
        case.run()
    assert not list(case.out.iterdir())


def test_metadata_is_joined_and_its_bad_lines_are_counted_apart(case, caplog):
    case.write(record(item="i1"), record(item="i2"), record(item="i3"))
    case.write(
        "{'asin': 'i1', 'title': 'Rock &amp; Roll', 'brand': None, 'categories': [['A'], ['A', 'B']]}",
        "{'asin': 'i2', 'title': open('x')}",
        {"asin": "i2", "title": ""},
        "{'title': 'no id'}",
        {"asin": "i1", "title": "a second row"},
        {"asin": "unused", "title": "t"},
        name="meta.json",
    )
    output = case.run(items=RemoteFile("meta.json"))
    assert (
        output.rows | {"read": 3, "rejected": 0, "read_items": 6, "rejected_items_lines": 2, "items": 3} == output.rows
    )
    items = case.table("items")
    assert items["item"].tolist() == ["i1", "i2", "i3"] and items["title"].isna().tolist() == [False, True, True]
    assert items.iloc[0][["title", "categories"]].tolist() == ["Rock & Roll", "A > B"]
    rejected = case.table("rejected")
    assert rejected[["source", "line", "reason"]].values.tolist() == [
        ["meta.json", 2, "not JSON"],
        ["meta.json", 4, "missing item"],
    ]
    assert "1 of 3 items are not in meta.json" in caplog.text
    validate(items, "items")


def test_missing_metadata_is_a_warning_and_missing_reviews_are_an_error(case, caplog):
    case.write(record())
    case.run(items=RemoteFile("meta.json.gz"))
    assert "there is no item metadata, so titles are empty" in caplog.text and case.table("items")["title"].isna().all()
    with pytest.raises(MissingFile, match=r"data/nothing.json is missing.*Put the file at .*or set SEALR_DATA"):
        case.run(reviews=RemoteFile("nothing.json"))
    with pytest.raises(MissingFile, match=r"https://www.yelp.com/dataset"):
        case.run(source="yelp", reviews=RemoteFile("yelp.json"))
    case.write("{}", name="meta.json")
    with pytest.raises(ChecksumError):
        case.run(items=RemoteFile("meta.json", sha256="0" * 64))


def test_input_files(case):
    case.write(record())
    config = DataConfig(name="tiny", source="amazon", reviews=RemoteFile("reviews.json"), items=RemoteFile("no.json"))
    assert input_files(config) == {"reviews": case.folder / "reviews.json"}
    assert input_files(DataConfig(name="demo")) == {}


def test_the_demo_data_is_clean(tmp_path):
    output = ingest(DataConfig(name="demo"), tmp_path)
    assert (
        output.rows | {"rejected": 0, "users": 320, "items": 120} == output.rows
        and 2900 < output.rows["reviews"] < 3500
    )
    assert 0.15 < output.metrics["ties"] < 0.35
    validate(read_table(tmp_path / "reviews.parquet", "reviews"), "reviews")
    assert read_table(tmp_path / "items.parquet", "items").notna().all(axis=None)


SHARED = Path(os.environ.get("SEALR_DATA", "nowhere")).resolve()
MUSICAL = SHARED / "reviews" / "reviews_Musical_Instruments_5.json.gz"


@pytest.mark.skipif(
    not MUSICAL.is_file(), reason="SEALR_DATA does not hold reviews/reviews_Musical_Instruments_5.json.gz"
)
def test_musical_instruments(tmp_path):
    output = ingest(DataConfig(name="mi", source="amazon"), tmp_path, {"reviews": MUSICAL})
    expected = {"read": 10261, "reviews": 10261, "rejected": 0, "users": 1429, "items": 900}
    assert output.rows == expected | {"read_items": 0, "rejected_items_lines": 0}
    assert round(output.metrics["ties"], 2) == 0.40
    validate(read_table(tmp_path / "reviews.parquet", "reviews"), "reviews")
