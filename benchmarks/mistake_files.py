"""Files of reviews that are wrong, or that do not fit their configuration, and words of the answer to each."""

from __future__ import annotations

import gzip
import json

from benchmarks.mistake_cases import Mistake

STARS = {"columns": "{rating: rating}"}
AMAZON_2023: dict[str, object] = {
    "user_id": "u", "parent_asin": "i", "timestamp": 1_500_000_000_000, "rating": 5, "text": "fine"
}  # fmt: skip
NESTED: dict[str, object] = {"reviewer": {"id": "u"}, "item": "i", "timestamp": 1_500_000_000, "text": "fine"}


def shop(**data: str) -> str:
    """A configuration that reads reviews.csv; data: settings of the section data, as YAML."""
    given = {"name": "shop", "source": "columns", "k_core": "1", "reviews": "{path: reviews.csv}"} | data
    given.setdefault("columns", "{rating: ''}")
    return "data:\n" + "".join(f"  {name}: {value}\n" for name, value in given.items())


def review_rows(time: str = "150000000{i}", text: str = "fine", rating: str = "", delimiter: str = ",") -> str:
    """Six users with six items; {i} stands for the number of the item."""
    columns = ["user", "item", "timestamp", "text", *(["rating"] if rating else [])]
    given = (time, text, *([rating] if rating else []))
    lines = [(f"u{u}", f"i{i}", *(value.replace("{i}", str(i)) for value in given)) for u in range(6) for i in range(6)]
    return "".join(f"{delimiter.join(line)}\n" for line in (columns, *lines))


def json_lines(what: str, record: dict[str, object], says: str, **data: str) -> Mistake:
    """36 JSON objects that do not fit the configuration."""
    lines = "".join(json.dumps(record) + "\n" for _ in range(36))
    settings = shop(reviews="{path: r.json}", **data)
    return Mistake(what, ("ingest", "--data", "shop.yaml"), says, {"shop.yaml": settings, "r.json": lines})


def file(what: str, content: str | bytes, says: str, **data: str) -> Mistake:
    """A wrong file of reviews, or one that does not fit its configuration."""
    return Mistake(what, ("ingest", "--data", "shop.yaml"), says, {"shop.yaml": shop(**data), "reviews.csv": content})


ROWS = review_rows()
FILES = [
    Mistake("no file", ("ingest", "--data", "shop.yaml"), "reviews.csv", {"shop.yaml": shop()}),
    file("an empty file", "", "reviews.csv"),
    file("only a header", "user,item,timestamp,text\n", "holds no reviews"),
    file("a misspelt column", ROWS.replace("user", "usr", 1), "user"),
    file("another delimiter than set", ROWS, "delimiter", delimiter="tab"),
    file("an unknown encoding", ROWS, "klingon", encoding="klingon"),
    file("half a gzip file", gzip.compress(ROWS.encode() * 99)[:200], "truncated or damaged"),
    file("a picture", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "reviews.csv is a picture"),
    file("days before months, or after", ROWS.replace("150000000", "05/06/201"), "date_format"),
    file("a core that nobody is in", ROWS, "lower data.k_core", k_core="50"),
    file("a checksum that does not fit", ROWS, "SHA-256", reviews="{path: reviews.csv, sha256: abc}"),
    file("a zip archive", b"PK\x03\x04" + bytes(99), "is a zip archive: unpack it"),
    file(
        "dates in words, read by another pattern",
        review_rows('"November 1{i}, 2018"'),
        "timestamp is not of the form %d.%m.%Y: see data.date_format",
        date_format='"%d.%m.%Y"',
    ),
    file("a day that is no date", review_rows("yesterday"), "timestamp is not of the form iso: see data.date_format"),
    file("a pattern that is none", review_rows(), "data.date_format 'dd.mm.yyyy' is neither", date_format="dd.mm.yyyy"),
    file("dates before 1990", review_rows("1975-01-1{i}"), "timestamp before 1990: see data.time_unit"),
    file("a time in milliseconds", review_rows("150000000{i}000"), "in milliseconds? set data.time_unit to ms"),
    file("reviews of the year 2100", review_rows("2099-12-1{i}"), "timestamp in the future"),
    file("marks for stars", review_rows(rating="B+"), "rating not a number: see data.rating_scale", **STARS),
    file("stars above five", review_rows(rating="1{i}"), "rating not from 1 to 5: see data.rating_scale", **STARS),
    file("a scale that is none", review_rows(rating="5"), "neither a range such as 1..10", rating_scale="ten", **STARS),
    file(
        "latin-1 where UTF-8 is set", review_rows(text="café").encode("latin-1"), "see data.encoding", encoding="utf-8"
    ),
    file("semicolons where commas are set", review_rows(delimiter=";"), "set data.delimiter", delimiter='","'),
    file(
        "a quotation mark that is never closed",
        review_rows().replace("u0,i0", '"u0,i0', 1),
        "a double quote is not closed",
    ),
    json_lines("Amazon of 2023 read as of 2014", AMAZON_2023, "`sealr inspect FILE` tells", source="amazon"),
    json_lines("a user within another object", NESTED, "the columns are: reviewer, item, timestamp, text, reviewer.id"),
    Mistake(
        "a database without a query",
        ("ingest", "--data", "shop.yaml"),
        "set data.reviews.query, or --query",
        {"shop.yaml": shop(reviews="{path: 'sqlite:///shop.db'}")},
    ),
    Mistake(
        "a folder without files",
        ("ingest", "--data", "shop.yaml"),
        "empty",
        {"shop.yaml": shop(reviews="{path: empty}"), "empty/.keep": ""},
    ),
    Mistake("a file to inspect that is nowhere", ("inspect", "none.csv"), "none.csv does not exist"),
    Mistake(
        "a configuration that exists",
        ("inspect", "reviews.csv", "--out", "shop.yaml"),
        "--force",
        {"shop.yaml": shop(), "reviews.csv": ROWS},
    ),
]
