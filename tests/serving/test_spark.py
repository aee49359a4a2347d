"""Batch scoring on a local Spark against the model's own answers."""

import json
import shutil

import mlflow
import pandas as pd
import pytest

from tests.serving.toy_model import USERS

pytest.importorskip("pyspark", reason="needs Spark (pip install 'sealr[spark]')")
if not shutil.which("java"):
    pytest.skip("needs Java 17 or later", allow_module_level=True)

from pyspark.sql import SparkSession

from sealr.serving import spark as batch

pytestmark = pytest.mark.slow
HISTORY = [{"item": "i01", "text": "I love it, it works great"}, {"item": "i04", "sentiment": -2}]
PARAMS = {"top_k": 4, "exclude_seen": True}


@pytest.fixture(scope="module")
def spark():
    """One session for all tests: a JVM and a loaded model take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYSPARK_PYTHON", batch.sys.executable)
        session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
        yield session
        session.stop()


@pytest.fixture(scope="module")
def model(model_folder):
    return mlflow.pyfunc.load_model(str(model_folder))


def check(out, frame, model):
    """The recommendations of a folder, in the order of the frame, are what the model answers itself."""
    scored = pd.read_parquet(out)
    assert scored["user"].tolist() == frame["user"].tolist() or set(scored["user"]) == set(frame["user"])
    scored = scored.set_index("user").loc[frame["user"]]
    expected = model.predict(frame, params=PARAMS)
    assert len(scored) == len(expected)
    for column in ("items", "titles", "reasons", "warnings"):
        assert [list(v) for v in scored[column]] == expected[column].tolist(), column
    for got, wanted in zip(scored["scores"], expected["scores"], strict=True):
        assert got.tolist() == pytest.approx(wanted, abs=1e-4)
    return scored


def test_all_known_users_are_answered_as_the_model_answers_them(spark, model, model_folder, tmp_path):
    rows = batch.score(spark, str(model_folder), None, str(tmp_path / "out"), PARAMS)
    assert rows == len(USERS)
    scored = check(tmp_path / "out", pd.DataFrame({"user": USERS}), model)
    assert "LLM #" in scored["reasons"].iloc[0][0] and all(len(items) == 4 for items in scored["items"])


def test_a_csv_with_histories_as_json_keeps_ids_and_other_columns(spark, model, model_folder, tmp_path):
    frame = pd.DataFrame(
        {"user": ["007", "u3", "x, y"], "history": [json.dumps(HISTORY), None, json.dumps(HISTORY[:1])]}
    )
    others = {"segment": ["a", "b", "c"], "answer": ["yes", "no", "yes"], "profile.age": ["31", "32", "33"]}
    frame.assign(**others).to_csv(tmp_path / "users.csv", index=False)
    assert batch.score(spark, str(model_folder), str(tmp_path / "users.csv"), str(tmp_path / "out"), PARAMS) == 3
    scored = check(tmp_path / "out", frame, model)
    assert {name: scored[name].tolist() for name in others} == others and "history" not in scored


def test_parquet_with_lists_of_structs_and_number_ids(spark, model, model_folder, tmp_path):
    frame = pd.DataFrame({"user": [7, 8], "history": [HISTORY, HISTORY[1:]]})
    frame.to_parquet(tmp_path / "users.parquet")
    assert batch.score(spark, str(model_folder), str(tmp_path / "users.parquet"), str(tmp_path / "out"), PARAMS) == 2
    check(tmp_path / "out", frame.assign(user=["7", "8"]), model)


def test_filters_of_rows_and_of_the_call(spark, model, model_folder, tmp_path):
    frame = pd.DataFrame(
        {"user": ["u1", "u2"], "exclude_items": [["i01", "i02"], None], "categories": [["Tools"], None]}
    )
    frame.to_parquet(tmp_path / "users.parquet")
    params = PARAMS | {"include_items": ["i01", "i05", "i06", "i09", "i10"], "exclude_seen": False}
    batch.score(spark, str(model_folder), str(tmp_path / "users.parquet"), str(tmp_path / "out"), params)
    scored = pd.read_parquet(tmp_path / "out").set_index("user")
    assert set(scored["items"]["u1"]) == {"i05", "i06"} and len(scored["items"]["u2"]) == 4
    assert "categories" not in scored


def test_what_cannot_be_scored_is_said_in_a_sentence(spark, model_folder, tmp_path):
    def refused(frame, message, params=PARAMS):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        frame.to_parquet(path)
        with pytest.raises(batch.ScoreError, match=message) as raised:
            batch.score(spark, str(model_folder), str(path), str(tmp_path / "never"), params)
        assert "\n" not in str(raised.value) and not (tmp_path / "never" / "_SUCCESS").exists()

    refused(pd.DataFrame({"customer": ["u1"]}), "needs a column user or history; it has customer")
    refused(pd.DataFrame({"user": [1.5]}), "column user has type double")
    refused(pd.DataFrame({"user": ["u1"], "items": [1]}), "has a column items")
    refused(pd.DataFrame({"user": ["u1"], "history": ["no list"]}), "history must be a list of objects")
    with pytest.raises(batch.ScoreError, match="nowhere.parquet cannot be read"):
        batch.score(spark, str(model_folder), str(tmp_path / "nowhere.parquet"), str(tmp_path / "never"), PARAMS)
    (tmp_path / "there").mkdir()
    pd.DataFrame({"user": ["u1"]}).to_parquet(tmp_path / "users.parquet")
    with pytest.raises(batch.ScoreError, match="there"):
        batch.score(spark, str(model_folder), str(tmp_path / "users.parquet"), str(tmp_path / "there"), PARAMS)
