"""Files of reviews as users have them: the columns and oddities of real exports, with generated reviews.

Each has a few bad rows, as real files have. Their number is known, so rows that are lost or accepted by mistake show.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from sealr.data.sources.demo import generate

USERS = 150
BROKEN = '{"reviewerID": "A2", "asin'  # the end of a file whose copy was cut short


@dataclass(frozen=True)
class Export:
    """A file as a user has it. bad: rows that must be rejected. query: for a database."""

    location: str
    rows: int
    bad: int
    query: str = ""


def reviews() -> list[dict[str, Any]]:
    """user, item, time (s), stars, text and when (datetime) of each review, in the order of the files."""
    frame = generate(USERS)[0].rename(columns={"timestamp": "time", "rating": "stars"})
    rows = frame.astype({"stars": int}).to_dict("records")
    return [row | {"when": datetime.fromtimestamp(row["time"], UTC)} for row in rows]


def amazon_2014(folder: Path) -> Export:
    """JSON lines, gzip. One exact duplicate; the last line is cut short; some reviews have a summary alone."""
    rows = [
        {
            "reviewerID": r["user"], "asin": r["item"], "reviewerName": 'J. "Jo" Smith', "helpful": [0, n % 3],
            "reviewText": "" if n % 50 == 0 else r["text"], "overall": float(r["stars"]), "summary": r["text"],
            "unixReviewTime": r["time"], "reviewTime": f"{r['when']:%m %d, %Y}",
        }
        for n, r in enumerate(reviews())
    ]  # fmt: skip
    return _lines(folder / "reviews_Beauty_5.json.gz", [*rows, rows[0]], BROKEN)


def amazon_2018(folder: Path) -> Export:
    """JSON lines, gzip. Optional keys; one exact duplicate."""
    rows = [
        {
            "overall": float(r["stars"]), "verified": True, "reviewTime": f"{r['when']:%m %d, %Y}",
            "reviewerID": r["user"], "asin": r["item"], "reviewerName": "Kay",
            "reviewText": r["text"], "summary": "Five Stars", "unixReviewTime": r["time"],
        }
        | ({"vote": "2", "style": {"Size:": " 1 oz"}, "image": ["https://example.com/a.jpg"]} if n % 7 == 0 else {})
        for n, r in enumerate(reviews())
    ]  # fmt: skip
    return _lines(folder / "All_Beauty_5.json.gz", [*rows, rows[5]])


def amazon_2023(folder: Path) -> Export:
    """JSON lines, gzip. Milliseconds; variants of a product under its parent; one review without a user."""
    rows = [
        {
            "rating": float(r["stars"]), "title": "As described", "text": r["text"].replace(". ", ".<br />"),
            "images": [], "asin": f"V{n % 9}{r['item']}", "parent_asin": r["item"], "user_id": r["user"],
            "timestamp": r["time"] * 1000 + 123, "helpful_vote": 0, "verified_purchase": True,
        }
        for n, r in enumerate(reviews())
    ]  # fmt: skip
    return _lines(folder / "All_Beauty.jsonl.gz", [*rows, rows[0] | {"user_id": None}])


def yelp(folder: Path) -> Export:
    """JSON lines as in yelp_academic_dataset_review.json. The last line is cut short."""
    rows = [
        {
            "review_id": f"r{n:021}", "user_id": r["user"], "business_id": r["item"], "stars": float(r["stars"]),
            "useful": 0, "funny": 0, "cool": 0, "text": r["text"].replace(". ", ".\n\n"),
            "date": f"{r['when']:%Y-%m-%d %H:%M:%S}",
        }
        for n, r in enumerate(reviews())
    ]  # fmt: skip
    return _lines(folder / "yelp_academic_dataset_review.json", rows, BROKEN)


def goodreads(folder: Path) -> Export:
    """JSON lines, gzip. Dates with names and zones; a rating of 0 is none; one review without a book."""
    rows = [
        {
            "user_id": r["user"], "book_id": r["item"], "review_id": f"{n:032x}",
            "rating": 0 if n % 40 == 0 else r["stars"], "review_text": r["text"],
            "date_added": f"{r['when']:%a %b %d %H:%M:%S -0700 %Y}", "date_updated": "", "read_at": "",
            "started_at": "", "n_votes": 0, "n_comments": 0,
        }
        for n, r in enumerate(reviews())
    ]  # fmt: skip
    return _lines(folder / "goodreads_reviews_poetry.json.gz", [*rows, rows[0] | {"book_id": ""}])


def semicolons(folder: Path) -> Export:
    """CSV in latin-1 with semicolons, dates like Nov 5, 2018 and ratings like 3/5. One row has a field too few."""
    rows = [
        [r["user"], r["item"], f"{r['when']:%b} {r['when'].day}, {r['when'].year}", f"{r['stars']}/5",
         f"Très bien: {r['text']}; «{r['item']}»"]
        for r in reviews()
    ]  # fmt: skip
    text = _table(["Reviewer", "Product", "Review date", "Score", "Comment"], rows, ";")
    (folder / "avis.csv").write_bytes((text + "u0001;D0001;Nov 5, 2018\n").encode("latin-1"))
    return Export(str(folder / "avis.csv"), len(rows) + 1, 1)


def likes(folder: Path) -> Export:
    """TSV with like and dislike, and neither in some rows. One row has no date."""
    verdict = {1: "dislike", 2: "dislike", 3: "", 4: "like", 5: "like"}
    rows = [
        [n, r["user"], r["item"], r["when"].isoformat(), verdict[r["stars"]], r["text"]]
        for n, r in enumerate(reviews())
    ]
    rows.append([len(rows), "u0001", "D0001", "", "like", "Nothing to complain about."])
    (folder / "votes.tsv").write_text(
        _table(["id", "member_id", "article_id", "created_at", "verdict", "message"], rows, "\t")
    )
    return Export(str(folder / "votes.tsv"), len(rows), 1)


def excel(folder: Path) -> Export:
    """A sheet with cells that are dates, an empty row, and one review without a customer."""
    rows = [
        {"Customer ID": r["user"], "Product ID": r["item"], "Date": r["when"].replace(tzinfo=None), "Stars": r["stars"],
         "Headline": "My opinion in short", "Review": r["text"]}
        for r in reviews()
    ]  # fmt: skip
    frame = pd.DataFrame([*rows, dict.fromkeys(rows[0]), rows[0] | {"Customer ID": None}])
    frame.to_excel(folder / "Reviews 2023.xlsx", index=False)
    return Export(str(folder / "Reviews 2023.xlsx"), len(rows) + 1, 1)


def parquet(folder: Path) -> Export:
    """Times with a zone, ratings from 0 to 100, ids as categories. One row has no item."""
    rows = reviews()
    frame = pd.DataFrame(
        {
            "customer": pd.Categorical([*(r["user"] for r in rows), "u0001"]),
            "sku": [*(r["item"] for r in rows), None],
            "event_time": [*(r["when"] for r in rows), rows[0]["when"]],
            "score": [*(25.0 * (r["stars"] - 1) for r in rows), 50.0],
            "body": [*(r["text"] for r in rows), "It is lost."],
        }
    )
    frame.to_parquet(folder / "warehouse.parquet")
    return Export(str(folder / "warehouse.parquet"), len(frame), 1)


def parts(folder: Path) -> Export:
    """A folder as Spark writes it: parts of JSON lines, gzip, with a marker and checksums. Nulls are left out."""
    rows = [
        {"user": r["user"], "product": {"id": r["item"], "shop": "de"}, "ts": r["time"], "text": r["text"]}
        | ({} if n % 10 == 0 else {"rating": r["stars"]})
        for n, r in enumerate(reviews())
    ]
    rows.append({"product": {"id": "D0001", "shop": "de"}, "ts": rows[0]["ts"], "text": "Nobody wrote this."})
    place = folder / "export"
    place.mkdir()
    share = len(rows) // 4 + 1
    for number in range(4):
        data = "\n".join(map(json.dumps, rows[number * share : (number + 1) * share])).encode()
        (place / f"part-{number:05}-4b1c-c000.json.gz").write_bytes(gzip.compress(data))
        (place / f".part-{number:05}-4b1c-c000.json.gz.crc").write_bytes(b"crc\0")
    (place / "_SUCCESS").write_text("")
    return Export(str(place), len(rows), 1)


def sql(folder: Path) -> Export:
    """Two joined tables of a SQLite database, through SQLAlchemy. One order has no customer."""
    rows = reviews()
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as database, database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id TEXT, sku TEXT)")
        database.execute("CREATE TABLE opinions (order_id INTEGER, created_at TIMESTAMP, stars NUMERIC, body TEXT)")
        orders = [(n, r["user"], r["item"]) for n, r in enumerate(rows)]
        written = [(n, f"{r['when']:%Y-%m-%d %H:%M:%S}", r["stars"], r["text"]) for n, r in enumerate(rows)]
        database.executemany("INSERT INTO orders VALUES (?, ?, ?)", [*orders, (len(rows), None, "D0001")])
        database.executemany("INSERT INTO opinions VALUES (?, ?, ?, ?)", [*written, (len(rows), *written[0][1:])])
    query = "SELECT customer_id, sku, created_at, stars, body FROM opinions JOIN orders ON orders.id = order_id"
    return Export(f"sqlite:///{folder / 'shop.db'}", len(rows) + 1, 1, query)


def array(folder: Path) -> Export:
    """One JSON array, indented, with ratings from 1 to 10. One element is null."""
    rows = [
        {"author": {"id": r["user"], "name": "Jo"}, "item_id": r["item"], "date": f"{r['when']:%d.%m.%Y}",
         "rating": 2 * r["stars"], "review": r["text"]}
        for r in reviews()
    ]  # fmt: skip
    (folder / "dump.json").write_text(json.dumps([*rows, None], indent=2))
    return Export(str(folder / "dump.json"), len(rows) + 1, 1)


def zstd(folder: Path) -> Export:
    """JSON lines, zstd, with ids that are numbers. The last line is cut short."""
    rows = [
        {"user_id": int(r["user"][1:]), "track_id": int(r["item"][1:]), "played_at": r["time"] * 1000,
         "stars": r["stars"], "comment": r["text"]}
        for r in reviews()
    ]  # fmt: skip
    with pa.CompressedOutputStream(str(folder / "stream.ndjson.zst"), "zstd") as file:
        file.write(("\n".join(map(json.dumps, rows)) + "\n" + BROKEN).encode())
    return Export(str(folder / "stream.ndjson.zst"), len(rows) + 1, 1)


FORMATS: dict[str, Callable[[Path], Export]] = {
    "Amazon 2014, JSON lines, gzip": amazon_2014,
    "Amazon 2018, JSON lines, gzip": amazon_2018,
    "Amazon 2023, JSON lines, gzip": amazon_2023,
    "Yelp, JSON lines": yelp,
    "Goodreads, JSON lines, gzip": goodreads,
    "CSV, semicolons, latin-1, `Nov 5, 2018`, `3/5`": semicolons,
    "TSV, like and dislike": likes,
    "Excel": excel,
    "Parquet": parquet,
    "folder of parts": parts,
    "SQL query": sql,
    "JSON array": array,
    "JSON lines, zstd": zstd,
}


def _table(header: list[str], rows: list[list[Any]], delimiter: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _lines(path: Path, rows: list[dict[str, Any]], broken: str = "") -> Export:
    """JSON lines, compressed if the name says so. Rows beyond those of `reviews` are bad."""
    data = "\n".join([*map(json.dumps, rows), *([broken] if broken else [])]).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    count = len(rows) + bool(broken)
    return Export(str(path), count, count - len(reviews()))
