"""Files with the shape of the published ones: every key, nested objects, and the oddities that their rows have."""

import gzip
import json
import time

import pytest

from sealr import resources
from sealr.config import load_config
from sealr.data.ingest import ingest
from sealr.data.tables import read_table
from sealr.settings import DataConfig

AMAZON_2014 = {
    "reviewerID": "A2EXAMPLE0001", "asin": "1384719342", "reviewerName": "A. \"Nick\" Name",
    "helpful": [0, 0], "reviewText": "Not much to write about here, but it does exactly what it's supposed to.",
    "overall": 5.0, "summary": "good", "unixReviewTime": 1393545600, "reviewTime": "02 28, 2014",
}  # fmt: skip
AMAZON_2018 = {
    "overall": 4.0, "vote": "1,203", "verified": True, "reviewTime": "09 1, 2016", "reviewerID": "A3EXAMPLE0002",
    "asin": "B0000530HU", "style": {"Size:": " 7.0 oz", "Flavor:": " Classic Ice Blue"}, "reviewerName": "B.",
    "reviewText": "As advertised. Priced well", "summary": "Five Stars", "unixReviewTime": 1472688000,
    "image": ["https://images-na.ssl-images-amazon.com/images/I/71.jpg"],
}  # fmt: skip
META_2018 = {
    "category": ["Beauty", "Shave &amp; Hair Removal"], "tech1": "", "description": ["Start off feeling great."],
    "fit": "", "title": "Aqua Velva After Shave, Classic Ice Blue, 7 Ounce", "also_buy": ["B000052Y5W"], "tech2": "",
    "brand": "Aqua Velva", "feature": [], "rank": "65,003 in Beauty", "also_view": [],
    "details": {"ASIN: ": "B0000530HU"},
    "main_cat": "All Beauty", "similar_item": "", "date": "", "price": "", "asin": "B0000530HU", "imageURL": [],
}  # fmt: skip
AMAZON_2023 = {
    "rating": 5.0, "title": "Such a lovely scent", "text": "This spray is really nice.<br /><br />It smells good.",
    "images": [{"small_image_url": "https://m.media-amazon.com/1.jpg", "attachment_type": "IMAGE"}],
    "asin": "B00YQ6X8EO", "parent_asin": "B00YQ6X8E0", "user_id": "AGEXAMPLE0003",
    "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True,
}  # fmt: skip
META_2023 = {
    "main_category": "All Beauty", "title": "Howard LC0008 Leather Conditioner", "average_rating": 4.8,
    "rating_number": 10, "features": [], "description": [], "price": None, "images": [{"thumb": "t.jpg"}],
    "videos": [], "store": "Howard Products", "categories": [], "details": {"Package Dimensions": "7.1 x 5.5 inches"},
    "parent_asin": "B00YQ6X8E0", "bought_together": None,
}  # fmt: skip
GOODREADS = {
    "user_id": "8842281e", "book_id": "23310161", "review_id": "f4b4b050",
    "rating": 4, "review_text": "Fun sequel to the original.", "date_added": "Tue Nov 17 11:37:35 -0800 2015",
    "date_updated": "Tue Nov 17 11:38:05 -0800 2015", "read_at": "", "started_at": "", "n_votes": 7, "n_comments": 0,
}  # fmt: skip
BOOK = {
    "isbn": "0151686564", "series": [], "popular_shelves": [
        {"count": "15419", "name": "to-read"}, {"count": "1762", "name": "poetry"},
        {"count": "302", "name": "classics"},
        {"count": "187", "name": "favorites"}, {"count": "149", "name": "fiction"}, {"count": "136", "name": "cats"},
    ],
    "authors": [{"author_id": "18540", "role": ""}], "publisher": "Harcourt", "title": "Old Possum's Book of Cats",
    "book_id": "23310161", "is_ebook": "false", "similar_books": ["402128"],
}  # fmt: skip
YELP = {
    "review_id": "yelp-review", "user_id": "yelp-user", "business_id": "XQfwVwDr-v0ZS3_CbbE5Xw",
    "stars": 3.0, "useful": 0, "funny": 0, "cool": 0, "text": "If you decide to eat here, be aware.",
    "date": "2018-07-07 22:09:11",
}  # fmt: skip
BUSINESS = {
    "business_id": "XQfwVwDr-v0ZS3_CbbE5Xw", "name": "Turning Point", "stars": 3.0, "is_open": 1,
    "attributes": {"Ambience": "{'romantic': False}"}, "categories": "Restaurants, Breakfast & Brunch",
    "hours": {"Monday": "7:30-15:0"},
}  # fmt: skip

CASES = {
    "amazon of 2014": ("amazon", AMAZON_2014, "asin", None, ("1384719342", 1393545600, 5, AMAZON_2014["reviewText"])),
    "amazon of 2018": (
        "amazon", AMAZON_2018, "asin", META_2018, ("B0000530HU", 1472688000, 4, "As advertised. Priced well"),
    ),
    "amazon of 2023": (
        "amazon-2023", AMAZON_2023, "parent_asin", META_2023,
        ("B00YQ6X8E0", 1588687728, 5, "This spray is really nice.\n\nIt smells good."),
    ),
    "goodreads": ("goodreads", GOODREADS, "book_id", BOOK, ("23310161", 1447789055, 4, "Fun sequel to the original.")),
    "yelp": ("yelp", YELP, "business_id", BUSINESS, (YELP["business_id"], 1531001351, 3, YELP["text"])),
}  # fmt: skip
USER = {"amazon": "reviewerID", "amazon-2023": "user_id", "goodreads": "user_id", "yelp": "user_id"}
ITEMS = {
    "amazon of 2018": (
        "Aqua Velva After Shave, Classic Ice Blue, 7 Ounce",
        "Aqua Velva",
        "Beauty > Shave & Hair Removal",
    ),
    "amazon of 2023": ("Howard LC0008 Leather Conditioner", "Howard Products", "All Beauty"),
    "goodreads": ("Old Possum's Book of Cats", "Harcourt", "poetry, classics, fiction"),
    "yelp": ("Turning Point", None, "Restaurants, Breakfast & Brunch"),
}


def lines(path, *records):
    path.write_bytes(gzip.compress("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records).encode()))
    return path


@pytest.mark.parametrize("name", CASES)
def test_a_release_from_its_files_to_tables(tmp_path, name):
    source, review, item, meta, (expected_item, seconds, stars, text) = CASES[name]
    user = USER[source]
    bad = [review | {user: ""}, {k: v for k, v in review.items() if k != item and k != "asin"}, "{broken", "[1]"]
    files = {"reviews": lines(tmp_path / "reviews.json.gz", review, *bad, review, review | {user: "another"})}
    if meta:
        files["items"] = lines(tmp_path / "meta.json.gz", meta, "{broken")
    out = ingest(DataConfig("tiny", source=source, k_core=1), tmp_path / "out", files)
    assert out.rows["read"] == 7 == out.rows["reviews"] + out.rows["rejected"] and out.rows["reviews"] == 2
    row = read_table(tmp_path / "out" / "reviews.parquet", "reviews").set_index("user").loc[review[user]]
    assert row[["item", "timestamp", "rating", "text"]].tolist() == [expected_item, seconds, stars, text]
    reasons = read_table(tmp_path / "out" / "rejected.parquet", "rejected")
    assert set(reasons["reason"]) == {"missing user", "missing item", "not JSON", "not an object", "exact duplicate"}
    if meta:
        found = read_table(tmp_path / "out" / "items.parquet", "items").iloc[0]
        assert tuple(None if v != v else v for v in found[["title", "brand", "categories"]]) == ITEMS[name]


def test_what_goodreads_and_amazon_leave_out(tmp_path):
    reviews = [GOODREADS | {"rating": 0, "user_id": "a"}, GOODREADS | {"date_added": "", "user_id": "b"},
               GOODREADS | {"date_added": "yesterday", "user_id": "c"}]  # fmt: skip
    files = {"reviews": lines(tmp_path / "r.json.gz", *reviews)}
    ingest(DataConfig("tiny", source="goodreads", k_core=1), tmp_path / "out", files)
    assert read_table(tmp_path / "out" / "reviews.parquet", "reviews")["rating"].isna().tolist() == [True]
    assert read_table(tmp_path / "out" / "rejected.parquet", "rejected")["reason"].tolist() == [
        "missing timestamp", "timestamp not readable: see data.time_unit and data.date_format",
    ]  # fmt: skip
    now = int(time.time() * 1000)
    reviews = [AMAZON_2023 | {"text": ""}, AMAZON_2023 | {"timestamp": now + 10**9, "user_id": "z"}]
    files = {"reviews": lines(tmp_path / "r.json.gz", *reviews)}
    ingest(DataConfig("tiny", source="amazon-2023", k_core=1), tmp_path / "out", files)
    assert read_table(tmp_path / "out" / "reviews.parquet", "reviews")["text"].tolist() == ["Such a lovely scent"]
    assert read_table(tmp_path / "out" / "rejected.parquet", "rejected")["reason"].tolist() == [
        "timestamp in the future"
    ]


@pytest.mark.parametrize("path", sorted(resources.folder("configs").glob("amazon-2023-*.yaml")), ids=lambda p: p.stem)
def test_configurations_of_2023_name_public_files(path):
    data = load_config(path.stem).data
    assert data.name == path.stem and data.source == "amazon-2023"
    for remote in (data.reviews, data.items):
        assert remote.url.startswith("https://mcauleylab.ucsd.edu/") and remote.url.endswith(remote.path.split("/")[1])
