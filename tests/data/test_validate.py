import json
import logging
import re

import numpy as np
import pandas as pd
import pytest

from sealr.data import validate as module
from sealr.data.tables import EMOTIONS, SCHEMAS
from sealr.data.validate import ValidationFailed, validate


def reviews():
    frame = pd.DataFrame(
        {"user": ["a", "a", "b"], "item": ["x", "y", "x"], "timestamp": 1_400_000_000, "position": [0, 1, 0]}
    )
    return frame.assign(rating=[5, None, 1], text=["", "t", "u"]).astype(SCHEMAS["reviews"])


def items():
    return pd.DataFrame({"item": ["x", "y"], "title": ["t", None], "brand": None, "categories": None}).astype(
        SCHEMAS["items"]
    )


def labels(n=60):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"p_{e}": rng.random(n) for e in EMOTIONS})
    frame = frame.assign(user=[f"u{i // 5}" for i in range(n)], position=[i % 5 for i in range(n)])
    frame["emotion"] = [EMOTIONS[i % 28] for i in range(n)]
    frame = frame.assign(
        score=rng.random(n), sentiment=rng.integers(-2, 3, n), expected=rng.uniform(-2, 2, n), reason=None
    )
    frame.loc[0, ["emotion", "score", "sentiment", "expected", *(f"p_{e}" for e in EMOTIONS)]] = None
    return frame.astype(SCHEMAS["labels"])


def candidates():
    frame = pd.DataFrame({"user": "a", "item": ["x", "y", "x", "y"], "rank": [1, 2, 1, 2], "score": 0.5})
    return frame.assign(split=["valid", "valid", "test", "test"]).astype(SCHEMAS["candidates"])


TABLES = {"reviews": reviews, "items": items, "labels": labels, "candidates": candidates}


def failing(frame, suite, **kwargs):
    with pytest.raises(ValidationFailed) as caught:
        validate(frame, suite, **kwargs)
    return caught.value


def put(frame, column, row, value):
    values = frame[column].tolist()
    values[row] = value
    frame[column] = values
    return frame


@pytest.mark.parametrize("suite", TABLES)
def test_good_tables_pass(suite, capfd):
    report = validate(TABLES[suite](), suite)
    assert report.success and report.checked > 5 and report.left_out == 0 and report.docs is None
    assert capfd.readouterr().err == ""  # neither progress bars nor warnings


@pytest.mark.parametrize("suite", TABLES)
def test_an_empty_table_and_a_missing_column(suite):
    assert "The table is empty" in str(failing(TABLES[suite]().iloc[:0], suite))
    error = failing(TABLES[suite]().drop(columns="item" if suite != "labels" else "user"), suite)
    assert len(error.report.failures) == 1 and "the table has no such column, only:" in str(error)


@pytest.mark.parametrize(
    ("suite", "column", "value", "expectation", "count"),
    [
        ("reviews", "user", None, "not_be_null", 1),
        ("reviews", "user", " ", "match_regex", 1),
        ("reviews", "item", "", "match_regex", 1),
        ("reviews", "timestamp", 1_400_000_000_000, "between", 1),
        ("reviews", "timestamp", -1_000_000_000_000, "between", 1),
        ("reviews", "rating", 6, "between", 1),
        ("reviews", "rating", 0.5, "between", 1),
        ("reviews", "text", None, "not_be_null", 1),
        ("reviews", "position", -1, "between", 1),
        ("items", "item", None, "not_be_null", 1),
        ("items", "item", "x", "be_unique", 2),
        ("labels", "user", None, "not_be_null", 1),
        ("labels", "p_joy", 1.5, "between", 1),
        ("labels", "p_neutral", -0.1, "between", 1),
        ("labels", "score", 2, "between", 1),
        ("labels", "sentiment", 3, "in_set", 1),
        ("labels", "expected", -2.5, "between", 1),
        ("labels", "emotion", "hunger", "in_set", 1),
        ("candidates", "rank", 0, "between", 1),
        ("candidates", "score", None, "not_be_null", 1),
        ("candidates", "split", "train", "in_set", 1),
    ],
)
def test_one_bad_value(suite, column, value, expectation, count):
    frame = put(TABLES[suite](), column, 1, value)
    error = failing(frame, suite)
    failures = [f for f in error.report.failures if expectation in f.expectation]
    assert len(failures) == 1 and failures[0].unexpected == count
    assert f"(column {column}" in str(error) and f"{count} of {len(frame)} values unexpected" in str(error)
    assert failures[0].samples[-1]["row"] == 1 and column in failures[0].samples[0]


@pytest.mark.parametrize(
    ("suite", "columns", "note"),
    [
        ("reviews", ["user", "position"], "A position in a user's history occurs twice"),
        ("labels", ["user", "position"], "A review has two labels"),
        ("candidates", ["user", "split", "rank"], "A rank occurs twice"),
        ("candidates", ["user", "split", "item"], "An item occurs twice"),
    ],
)
def test_repeated_keys(suite, columns, note):
    frame = TABLES[suite]()
    for column in columns:
        frame = put(frame, column, 2, frame[column][1])
    error = failing(frame, suite)
    assert (
        f"expect_compound_columns_to_be_unique(column {', '.join(columns)}): 2 of {len(frame)} values unexpected"
        in str(error)
    )
    assert note in str(error) and "row=1, user=" in str(error) and "row=2, user=" in str(error)


def test_too_many_texts_without_a_label():
    frame = labels()
    frame["emotion"] = [None] * 12 + frame["emotion"].tolist()[12:]
    assert validate(frame, "labels").success  # exactly 20 %
    assert "More than 20 % of the reviews could not be labelled" in str(
        failing(put(frame, "emotion", 12, None), "labels")
    )


def test_a_collapsed_labeller_is_caught():
    frame = labels(100)
    frame["emotion"] = ["joy"] * 95 + ["love"] * 5
    assert validate(frame, "labels").success
    error = failing(put(frame, "emotion", 99, "joy"), "labels")
    assert "the labeller has collapsed" in str(error) and "emotion='joy', emotion_share=0.96" in str(error)
    assert "All scores are equal" in str(failing(labels().assign(score=0.7), "labels"))


def test_small_tables_are_not_judged_by_their_distribution():
    report = validate(labels(20).assign(emotion="joy", score=0.7), "labels")
    assert report.left_out == 2


def test_docs_need_neither_a_network_nor_scripts_and_their_links_work(tmp_path):
    docs = validate(reviews(), "reviews", tmp_path / "docs").docs
    assert "All expectations are met" in docs.read_text()
    pages = sorted(docs.parent.rglob("*"))
    assert sorted(page.suffix for page in pages if page.is_file()) == [".html"] * 3
    for page in (page for page in pages if page.is_file()):
        html = page.read_text()
        assert "<script" not in html and "<style>:root" in html
        assert not re.search(r'(?:src|href)="?https?:|url\(', html), page
        for link in re.findall(r'href="([^"#]+)"', html):
            assert (page.parent / link).is_file(), link


def test_every_failure_is_listed_and_docs_are_written_all_the_same(tmp_path):
    frame = put(put(reviews(), "rating", 0, 9), "timestamp", 2, 5_000_000_000)
    error = failing(frame, "reviews", docs_dir=tmp_path / "docs")
    text = str(error)
    assert text.startswith("the reviews table (3 rows) fails 2 of 18 expectations:")
    assert (
        "to_be_between(column timestamp, min_value=-62135596800, max_value=4102444800): 1 of 3 values unexpected"
        in text
    )
    assert "row=2, user='b', position=0, item='x', timestamp=5000000000" in text
    assert "row=0, user='a', position=0, item='x', rating=9" in text
    assert error.report.docs == tmp_path / "docs" / "reviews" / "index.html" and str(error.report.docs) in text
    pages = list((tmp_path / "docs" / "reviews" / "validations").rglob("*.html"))
    assert "Some expectations are not met" in error.report.docs.read_text()
    assert "<html" in error.report.docs.read_text() and len(pages) == 1 and "62135596800" in pages[0].read_text()


def test_at_most_five_rows_are_shown_and_long_values_are_cut():
    frame = pd.concat([reviews()] * 4, ignore_index=True)
    frame = frame.assign(user=[f"user{i}" * 50 for i in range(12)], position=0, rating=7.0)
    (failure,) = failing(frame, "reviews").report.failures
    assert failure.unexpected == failure.total == 12 and len(failure.samples) == 5
    assert max(map(len, str(failure).splitlines())) < 300


def test_a_check_that_cannot_run_is_a_failure():
    error = failing(reviews().assign(timestamp="yesterday"), "reviews")
    assert "expect_column_values_to_be_between(column timestamp" in str(error)


def test_the_callers_index_and_frame_are_left_alone():
    frame = labels().set_index(pd.Index(range(100, 160)))
    before = frame.copy()
    validate(frame, "labels")
    pd.testing.assert_frame_equal(frame, before)


def test_logging_level_is_put_back():
    before = logging.getLogger("great_expectations").level
    validate(items(), "items")
    assert logging.getLogger("great_expectations").level == before


def test_unknown_and_invalid_suites(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match="no expectation suite 'ratings' in expectations/; known: candidates, items, labels"
    ):
        validate(items(), "ratings")
    monkeypatch.setattr(module.resources, "folder", lambda name: tmp_path)
    (tmp_path / "items.json").write_text("{")
    with pytest.raises(ValueError, match="items.json is not a valid expectation suite"):
        validate(items(), "items")
    expectations = [{"type": "expect_column_values_to_be_nice", "kwargs": {"column": "item"}}]
    suite = {"name": "items", "meta": {}, "expectations": expectations}
    (tmp_path / "items.json").write_text(json.dumps(suite))
    with pytest.raises(ValueError, match="items.json"):
        validate(items(), "items")


def large(tmp_path, monkeypatch, rows=5000):
    """A table of which only 100 rows are held."""
    monkeypatch.setattr(module.large_tables, "ROWS", 100)
    frame = pd.DataFrame({"user": [f"u{i // 5}" for i in range(rows)], "item": "x", "timestamp": 1_400_000_000})
    return frame.assign(rating=4, text="t", position=[i % 5 for i in range(rows)]).astype(SCHEMAS["reviews"])


def test_of_a_large_table_every_row_is_counted_and_a_sample_is_judged(tmp_path, monkeypatch):
    frame = large(tmp_path, monkeypatch)
    held = []
    monkeypatch.setattr(module, "validate", lambda frame, *more: held.append(len(frame)) or validate(frame, *more))
    frame.to_parquet(tmp_path / "reviews.parquet")
    report = module.validate_file(tmp_path / "reviews.parquet", "reviews", tmp_path / "docs")
    assert report.success and report.rows == 5000 and held == [100]


def test_the_only_bad_rows_of_a_large_table_are_found(tmp_path, monkeypatch):
    frame = large(tmp_path, monkeypatch)
    frame.loc[4321, "rating"] = 9
    frame.loc[[17, 3000], "user"] = " "
    frame.loc[2000, "text"] = None
    frame.loc[2502, "position"] = 1  # as in row 2501
    frame.to_parquet(tmp_path / "reviews.parquet")
    with pytest.raises(ValidationFailed) as caught:
        module.validate_file(tmp_path / "reviews.parquet", "reviews")
    text, found = str(caught.value), caught.value.report
    assert text.startswith("the reviews table (5,000 rows) fails 4 of 18 expectations:")
    assert sorted(f.unexpected for f in found.failures) == [1, 1, 2, 2] and {f.total for f in found.failures} == {5000}
    rows = {f.expectation.split("_")[-1]: [sample["row"] for sample in f.samples] for f in found.failures}
    assert rows == {"between": [4321], "regex": [17, 3000], "null": [2000], "unique": [2501, 2502]}


def test_counts_of_sets_and_of_repeated_keys(tmp_path, monkeypatch):
    large(tmp_path, monkeypatch)
    frame = pd.concat([candidates()] * 60, ignore_index=True)
    frame["user"] = [f"u{i // 4}" for i in range(240)]
    frame.loc[239, "split"] = "train"
    frame.to_parquet(tmp_path / "candidates.parquet")
    with pytest.raises(ValidationFailed, match="in_set.*1 of 240 values unexpected"):
        module.validate_file(tmp_path / "candidates.parquet", "candidates")
    frame = pd.DataFrame({"item": [f"i{n}" for n in range(299)] + ["i7"], "title": "it's", "brand": "b"})
    frame.assign(categories=None).astype(SCHEMAS["items"]).to_parquet(tmp_path / "items.parquet")
    with pytest.raises(ValidationFailed, match="be_unique.*2 of 300 values unexpected"):
        module.validate_file(tmp_path / "items.parquet", "items")
