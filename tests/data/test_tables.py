import pandas as pd
import pytest

from sealr.data.tables import (
    SCHEMAS,
    TableError,
    atomic_path,
    read_json,
    read_table,
    write_blocks,
    write_json,
    write_table,
)


def test_round_trip_has_the_schemas_columns_and_dtypes(tmp_path):
    frame = pd.DataFrame(
        {
            "position": [0, 1],
            "text": ["", "ø"],
            "rating": [5, None],
            "timestamp": 1,
            "item": ["a", "b"],
            "user": "u",
            "extra": 1,
        }
    )
    write_table(frame, tmp_path / "deep" / "reviews.parquet", "reviews")
    back = read_table(tmp_path / "deep" / "reviews.parquet", "reviews")
    assert list(back) == list(SCHEMAS["reviews"])
    assert back["rating"].dtype == "float32" and back["rating"].isna().tolist() == [False, True]
    assert back["position"].dtype == "int32" and back["text"].tolist() == ["", "ø"]


def test_nullable_sentiment_survives(tmp_path):
    frame = pd.DataFrame({c: [None, None] for c in SCHEMAS["labels"]}).assign(
        user="u", position=[0, 1], sentiment=[-2, None]
    )
    write_table(frame, tmp_path / "labels.parquet", "labels")
    assert read_table(tmp_path / "labels.parquet", "labels")["sentiment"].tolist() == [-2, pd.NA]


def test_missing_column_is_named_on_writing_and_reading(tmp_path):
    with pytest.raises(TableError, match="items table needs column 'title'"):
        write_table(pd.DataFrame({"item": ["a"]}), tmp_path / "items.parquet", "items")
    pd.DataFrame({"item": ["a"]}).to_parquet(tmp_path / "items.parquet")
    with pytest.raises(TableError, match="items.parquet is not a items table: column 'title' is missing"):
        read_table(tmp_path / "items.parquet", "items")


def test_only_some_columns_and_rows_are_read(tmp_path):
    path = tmp_path / "rankings.parquet"
    frame = pd.DataFrame(
        {"user": "u", "item": list("abc"), "rank": [1, 2, 3], "score": 0.5, "ranker": "x", "split": "test"}
    )
    write_table(frame, path, "rankings")
    read = read_table(path, "rankings", ("rank", "item"), [("rank", "<=", 2)])
    assert list(read) == ["item", "rank"] and read["item"].tolist() == ["a", "b"] and read["rank"].dtype == "int32"
    pd.DataFrame({"item": ["a"]}).to_parquet(path)
    assert read_table(path, "rankings", ("item",))["item"].tolist() == ["a"]
    with pytest.raises(TableError, match="column 'rank' is missing"):
        read_table(path, "rankings", ("item", "rank"))


def test_blocks_become_one_table(tmp_path):
    blocks = [pd.DataFrame({"item": [i], "title": ["t"], "brand": [None], "categories": [None]}) for i in "ab"]
    assert write_blocks(iter(blocks), tmp_path / "items.parquet", "items") == 2
    assert read_table(tmp_path / "items.parquet", "items")["item"].tolist() == ["a", "b"]
    with pytest.raises(TableError, match="needs column 'title'"):
        write_blocks(iter([blocks[0], blocks[1][["item"]]]), tmp_path / "items.parquet", "items")
    assert len(read_table(tmp_path / "items.parquet", "items")) == 2  # a failed write leaves the old file


def test_absent_and_damaged_files_are_named(tmp_path):
    with pytest.raises(TableError, match="nothing.parquet does not exist"):
        read_table(tmp_path / "nothing.parquet", "items")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(TableError, match="bad.parquet is not a readable Parquet file"):
        read_table(tmp_path / "bad.parquet", "items")


def test_atomic_path_leaves_the_old_file_on_an_error(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_json_round_trip(tmp_path):
    write_json({"b": [1, "ø"], "a": None}, tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") == {"a": None, "b": [1, "ø"]}
