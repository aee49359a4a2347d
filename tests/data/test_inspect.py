"""From a file to a configuration that reads it, with nothing written by hand."""

import gzip
import json
import sqlite3
from datetime import datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from sealr.cli import app
from sealr.config import load_config
from sealr.data.guess import rating_scale
from sealr.data.ingest import ingest
from sealr.data.inspect import InspectError, look
from sealr.data.proposal import data_name
from sealr.data.tables import read_table

# Everyone reviews everything, so the 5-core keeps all: 8 users, 6 items
TABLE = [
    {"user": f"user-{u}", "item": f"item-{i}", "day": datetime(2018, 1, 5) + timedelta(days=9 * i + u),
     "stars": (u + i) % 5 + 1, "text": f"The {i}th thing was fine for me, says number {u}."}
    for u in range(8) for i in range(6)
]  # fmt: skip


def table(**columns):
    """Rows with other names and other ways to write: column -> function of a row of TABLE."""
    return [{name: value(row) for name, value in columns.items()} for row in TABLE]


def joined(rows, delimiter, header=True):
    lines = [rows[0].keys()] * header + [row.values() for row in rows]
    return "\n".join(delimiter.join(str(v) for v in line) for line in lines) + "\n"


def user(row):
    return row["user"]


def item(row):
    return row["item"]


def text(row):
    return row["text"]


def stars(row):
    return row["stars"]


def iso(row):
    return row["day"].isoformat()


def epoch(row):
    return int((row["day"] - datetime(1970, 1, 1)).total_seconds())


def write_csv(folder):
    rows = table(customer_id=user, sku=item, created_at=iso, stars=stars, comment=text)
    (folder / "shop.csv").write_text(joined(rows, ",").replace(" fine for me,", " fine") + ",i,2018-01-01,5,no user\n")
    return "shop.csv", 1


def write_semicolons(folder):
    rows = table(
        Kunde=user, Produkt=item, Datum=lambda r: f"{r['day']:%d.%m.%Y}", Rating=lambda r: f"{r['stars']},0",
        Review=lambda r: f"Größe paßt: {r['text']}",
    )  # fmt: skip
    (folder / "laden.csv").write_bytes(
        joined(rows, ";").replace("Kunde", "Customer").replace("Produkt", "Product").encode("cp1252")
    )
    return "laden.csv", 0


def write_words(folder):
    grades = ["1/5", "D", "3/5", "B+", "5/5"]
    rows = table(
        critic=user, film=item, date=lambda r: f"{r['day']:%B} {r['day'].day}, {r['day'].year}",
        score=lambda r: grades[r["stars"] - 1], quote=text,
    )  # fmt: skip
    (folder / "films.tsv.gz").write_bytes(gzip.compress(joined(rows, "\t").encode()))
    return "films.tsv.gz", 0


def write_nested(folder):
    rows = table(
        reviewer=lambda r: {"id": r["user"], "country": "x"}, product=lambda r: {"sku": r["item"]},
        created=lambda r: epoch(r) * 1000, rating=lambda r: 2 * r["stars"],
        title=lambda r: f"Number {r['stars']} of five", body=text,
    )  # fmt: skip
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n")
    return "events.jsonl", 1


def write_array(folder):
    rows = table(
        user_id=user, item_id=item, time=epoch, vote=lambda r: "like" if r["stars"] > 3 else "dislike", review=text
    )
    (folder / "votes.json").write_text(json.dumps(rows, indent=1))
    return "votes.json", 0


def write_parquet(folder):
    rows = table(
        member=user, product=item, date=lambda r: r["day"], score=lambda r: 25.0 * (r["stars"] - 1), review=text
    )
    pd.DataFrame(rows).to_parquet(folder / "scores.parquet")
    return "scores.parquet", 0


def write_excel(folder):
    pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'sealr[excel]'")
    rows = table(Reviewer=user, Product=item, Date=lambda r: r["day"], Stars=stars, Comment=text)
    pd.DataFrame(rows).to_excel(folder / "Sheet of May.xlsx", index=False)
    return "Sheet of May.xlsx", 0


def write_zstd(folder):
    rows = table(user=user, item=item, timestamp=epoch, rating=stars, text=text)
    with pa.CompressedOutputStream(str(folder / "dump.ndjson.zst"), "zstd") as file:
        file.write("\n".join(map(json.dumps, rows)).encode())
    return "dump.ndjson.zst", 0


def write_parts(folder):
    rows = table(user=user, item=item, timestamp=lambda r: f"{r['day']:%m/%d/%Y}", rating=stars, text=text)
    (folder / "parts").mkdir()
    for n in range(3):
        (folder / "parts" / f"part-{n}.csv").write_text(joined(rows[n::3], "|"))
    (folder / "parts" / "_SUCCESS").write_text("")
    return "parts", 0


def write_headerless(folder):
    rows = table(a=user, b=item, c=stars, d=epoch, e=text)
    (folder / "ratings.txt").write_text(joined(rows, "\t", header=False))
    return "ratings.txt", 0


def write_utf16(folder):
    rows = table(
        user=user,
        item=item,
        date=lambda r: f"{r['day']:%Y/%m/%d %H:%M}",
        rating=stars,
        text=lambda r: f"Ça va. {r['text']}",
    )
    (folder / "unicode.txt").write_bytes(joined(rows, "\t").encode("utf-16"))
    return "unicode.txt", 0


def write_amazon(folder):
    rows = table(
        overall=lambda r: float(r["stars"]), vote=lambda r: "2", verified=lambda r: True, reviewerID=user, asin=item,
        style=lambda r: {"Size:": " L"}, reviewText=text, summary=text, unixReviewTime=epoch,
    )  # fmt: skip
    (folder / "Beauty_5.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return "Beauty_5.json.gz", 0


def write_amazon_2023(folder):
    rows = table(
        rating=stars, title=text, text=text, images=lambda r: [{"x": 1}], asin=item, parent_asin=item, user_id=user,
        timestamp=lambda r: epoch(r) * 1000, helpful_vote=lambda r: 0, verified_purchase=lambda r: True,
    )  # fmt: skip
    (folder / "All_Beauty.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "All_Beauty.jsonl", 0


FORMATS = [
    write_csv, write_semicolons, write_words, write_nested, write_array, write_parquet, write_excel, write_zstd,
    write_parts, write_headerless, write_utf16, write_amazon, write_amazon_2023,
]  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)], catch_exceptions=False)


def check(folder, yaml, bad):
    """Ingests what the configuration names: every good row is there with its day, stars in order, and a text."""
    output = ingest(load_config(str(yaml)).data, folder / "out")
    assert output.rows["read"] == len(TABLE) + bad == output.rows["reviews"] + output.rows["rejected"]
    assert output.rows["reviews"] == len(TABLE) and output.rows["users"] == 8 and output.rows["items"] == 6
    found = read_table(folder / "out" / "reviews.parquet", "reviews")
    wanted = pd.DataFrame(TABLE).sort_values(["user", "day"], ignore_index=True)
    assert found["timestamp"].tolist() == [epoch(row) for row in wanted.to_dict("records")]
    assert found["user"].tolist() == wanted["user"].tolist() and found["item"].tolist() == wanted["item"].tolist()
    means = found.groupby(wanted["stars"])["rating"].mean()
    assert means.is_monotonic_increasing and means.loc[1] <= 2 and means.loc[5] == 5
    assert all(a in b for a, b in zip(wanted["text"].str[-10:], found["text"], strict=True))


@pytest.mark.parametrize("write", FORMATS, ids=lambda f: f.__name__.removeprefix("write_"))
def test_a_file_is_read_with_what_inspect_wrote(tmp_path, write):
    name, bad = write(tmp_path)
    result = run(tmp_path / name, "--out", tmp_path / "mine.yaml")
    assert "Wrote" in result.output and "personal data" in result.output
    check(tmp_path, tmp_path / "mine.yaml", bad)
    config = load_config(str(tmp_path / "mine.yaml"))
    assert config.registry.name == config.data.name  # its versions are not those of another data set


def test_a_query_is_read_with_what_inspect_wrote(tmp_path, monkeypatch):
    monkeypatch.setenv("SEALR_DATA", str(tmp_path / "data"))
    with sqlite3.connect(tmp_path / "shop.db") as database:
        frame = pd.DataFrame(table(client=user, product=item, created_at=iso, rating=stars, comment=text))
        frame.to_sql("reviews", database, index=False)
    address, query = f"sqlite:///{tmp_path / 'shop.db'}", "select * from reviews"
    run(address, "--query", query, "--out", tmp_path / "mine.yaml")
    check(tmp_path, tmp_path / "mine.yaml", 0)


def test_dates_with_two_readings_are_left_to_the_user(tmp_path):
    rows = table(user=user, item=item, date=lambda r: "03/04/2018", rating=stars, text=text)
    (tmp_path / "r.csv").write_text(joined(rows, ";"))
    output = run(tmp_path / "r.csv", "--out", tmp_path / "mine.yaml").output
    reading = "03/04/2018 can be 3 April 2018 or 4 March 2018"
    assert f"Decide this before you run the job: {tmp_path}/r.csv (column date): {reading}" in output
    assert reading in (tmp_path / "mine.yaml").read_text()
    with pytest.raises(ValueError, match=f'{reading}: set data.date_format to "%d/%m/%Y" or "%m/%d/%Y"'):
        ingest(load_config(str(tmp_path / "mine.yaml")).data, tmp_path / "out")
    chosen = load_config(str(tmp_path / "mine.yaml"), "", {"data.date_format": "%m/%d/%Y"}).data
    assert ingest(chosen, tmp_path / "out").rows["reviews"] == len(TABLE)


def test_nothing_is_overwritten_and_no_text_is_printed_in_full(tmp_path):
    (tmp_path / "r.csv").write_text(joined(table(user=user, item=item, date=iso, rating=stars, text=text), ";"))
    result = run(tmp_path / "r.csv", "--out", tmp_path / "mine.yaml")
    assert "user-0" not in result.output and "says number" not in result.output + (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"mine.yaml exists: .* --force"):
        run(tmp_path / "r.csv", "--out", tmp_path / "mine.yaml")
    run(tmp_path / "r.csv", "--out", tmp_path / "mine.yaml", "--force")
    assert (tmp_path / "mine.yaml").read_text() != "mine"
    assert "data:\n" in run(tmp_path / "r.csv").output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no rows"),
        ("one\ntwo\nthree\n", "is no table"),
        ("a,b\n1,2\n3,4\n5,6\n", "no column looks like .*; the columns are: .*Write the configuration by hand"),
        ("user,date,text\na,2018-01-01,so it goes\nb,2018-01-02,so it went\n", "no column looks like items"),
    ],
)
def test_what_cannot_be_understood(tmp_path, content, message):
    (tmp_path / "r.csv").write_text(content)
    with pytest.raises(InspectError, match=message):
        look(tmp_path / "r.csv")


def test_other_mistakes(tmp_path):
    with pytest.raises(ValueError, match="nothing.csv does not exist"):
        run("nothing.csv")
    with pytest.raises(ValueError, match="ends in .yaml"):
        run("nothing.csv", "--out", "my-shop")


def test_names_of_data_sets(tmp_path):
    names = {"My Shop.csv.gz": "my-shop", "2018.csv": "2018", "___.csv": "my-data", "Läden_1.tsv": "l-den-1"}
    assert {name: data_name(tmp_path / name) for name in names} == names


@pytest.mark.parametrize(
    ("numbers", "scale", "strays"),
    [
        ([1, 2, 3, 4, 5] * 73, "", ""),
        ([1, 2, 3, 4, 5] * 73 + [99], "", "99"),
        ([1, 2, 3, 4, 5] * 73 + [0, -1], "", "0"),
        ([1, 2, 3, 4, 5] * 9 + [0] * 4, "0..5", ""),
        ([1, 2, 3, 4, 5] * 73 + [0.5], "0.5..5", ""),
        ([1, 4, 5, 8, 10] * 20, "1..10", ""),
        ([1] * 99 + [0] * 9 + [5], "0..1", "5"),
        ([1] * 99 + [-1], "-1..1", ""),
        ([0, 40, 80, 100] * 30 + [9999], "0..100", "9999"),
        ([1, 2, 5, 30], "0..100", ""),  # too few to call 30 a stray
    ],
)
def test_a_few_strays_do_not_stretch_the_scale(numbers, scale, strays):
    guess = rating_scale(numbers)
    assert guess.value == scale
    assert ("strays such as" in guess.why) == bool(strays) and strays in guess.why
