"""Batch scoring on Spark: ``python -m sealr.serving.batch --out recommendations``. See docs/serving.md.

Users in, as Parquet or CSV, or all whom the model knows; one row a user out, as Parquet, with the columns that the model
answers with. Every Python worker of Spark loads the model once (`mlflow.pyfunc.spark_udf`), so the answers are the model's own.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
from mlflow.exceptions import MlflowException

from sealr import tracking
from sealr.redact import redact

try:
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql import functions as F
except ImportError:
    raise ImportError("batch scoring needs Spark: pip install -e '.[spark]', and Java 17 or later") from None

ANSWER = "items array<string>, titles array<string>, scores array<double>, reasons array<string>, warnings array<string>"
ANSWERED = "_sealr_answer"
ADDED = [*(column.split()[0] for column in ANSWER.split(", ")), "model_version"]
REASON = re.compile(r"^mlflow\.exceptions\.MlflowException: (.+)$", re.MULTILINE)  # in a worker's stack trace


class ScoreError(ValueError):
    """The users, the model or the target cannot be used; the message says what to change."""


def score(spark: SparkSession, model: str, users: str | None, out: str, params: dict[str, Any]) -> int:
    """Writes recommendations as a Parquet folder and returns how many rows it has.

    model: models:/NAME@ALIAS, models:/NAME/VERSION or a folder. users: a Parquet or CSV file with ``user`` and/or ``history``
    (a list of {item, text, sentiment}, or that as JSON); None: all users whose history the model has stored. out: a folder
    that is not there yet. Raises ScoreError.
    """
    version = _version(model)
    with tempfile.TemporaryDirectory(prefix="sealr-score-", ignore_cleanup_errors=True) as scratch:
        # Once, here: the alias may move while Spark works
        address = model.partition("@")[0] + f"/{version}" if version and "@" in model else model
        folder = mlflow.artifacts.download_artifacts(address, dst_path=scratch) if version else address
        asked = _read(spark, users) if users else _known(spark, Path(folder))
        predict = mlflow.pyfunc.spark_udf(spark, folder, result_type=f"struct<{ANSWER}>", env_manager="local", params=params)
        columns = [c for c in ("user", "history") if c in asked.columns]
        kept = [f"`{c.replace('`', '``')}`" for c in asked.columns if c != "history"]  # a name may hold a dot
        try:
            answered = asked.select(*kept, predict(F.struct(*columns)).alias(ANSWERED))
            table = answered.select(*kept, f"{ANSWERED}.*", F.lit(version).alias("model_version"))
            table.write.mode("errorifexists").parquet(out)
            return spark.read.parquet(out).count()
        except (PySparkException, Py4JJavaError) as error:
            raise ScoreError(_sentence(str(error))) from None


def _version(model: str) -> str | None:
    """Number in the registry; None for a folder."""
    if not model.startswith("models:/"):
        return None
    name, _, alias = model.removeprefix("models:/").partition("@")
    return str(mlflow.MlflowClient().get_model_version_by_alias(name, alias).version) if alias else name.rpartition("/")[2]


def _known(spark: SparkSession, folder: Path) -> DataFrame:
    """All users whose history a model has stored."""
    path = next((folder / "artifacts").glob("*/histories.parquet"), None)
    if path is None:
        raise ScoreError(f"{folder} is not a model of SEALR's: it holds no histories; name the users with --users")
    return _spread(spark, spark.createDataFrame(pq.read_table(path, columns=["user"])))


def _read(spark: SparkSession, path: str) -> DataFrame:
    try:
        if path.endswith((".csv", ".csv.gz")):
            frame = spark.read.csv(path, header=True, escape='"', multiLine=True)  # all text: an id 007 keeps its zeros
        else:
            frame = spark.read.parquet(path)
    except PySparkException as error:
        raise ScoreError(f"{path} cannot be read: {_sentence(str(error))}") from None
    types = dict(frame.dtypes)
    if not {"user", "history"} & types.keys():
        raise ScoreError(f"{path} needs a column user or history, it has {', '.join(types) or 'none'}")
    if clash := [c for c in (*ADDED, ANSWERED) if c in types]:
        raise ScoreError(f"{path} has a column {clash[0]}, which the recommendations have too: rename it")
    if types.get("user", "string") not in ("string", "tinyint", "smallint", "int", "bigint"):
        raise ScoreError(f"{path}: column user has type {types['user']}; ids are texts or whole numbers")
    return _spread(spark, frame.withColumn("user", F.col("user").cast("string")) if "user" in types else frame)


def _spread(spark: SparkSession, frame: DataFrame) -> DataFrame:
    """Over all cores: a small file is one part, which one worker would score."""
    return frame.repartition(spark.sparkContext.defaultParallelism)


def _sentence(message: str) -> str:
    """The model's own sentence out of a stack trace of several processes, else the first line."""
    found = REASON.findall(message)
    return found[-1] if found else message.strip().partition("\n")[0]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sealr.serving.batch",
        description="Recommends to all users of a table, on Spark.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="models:/sealr@champion", help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder")
    parser.add_argument("--users", help="Parquet or CSV with user and/or history; without it: all users the model knows")
    parser.add_argument("--out", required=True, help="Parquet folder to write; it must not be there yet")
    parser.add_argument("--top-k", type=int, default=10, help="items a user")
    parser.add_argument("--with-seen", action="store_true", help="recommend items of the history, too")
    parser.add_argument("--master", help="Spark's master, such as local[4]; without it: spark-submit's, else all cores")
    values = parser.parse_args(argv)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers in this environment
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns that the environment is not made anew
    warnings.filterwarnings("ignore", category=FutureWarning)  # pandas 3 is not fully supported; what is used here is tested
    tracking.setup()
    builder = SparkSession.builder.appName("sealr-score")
    spark = (builder.master(values.master) if values.master else builder).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    try:
        params = {"top_k": values.top_k} | ({"exclude_seen": False} if values.with_seen else {})
        rows = score(spark, values.model, values.users, values.out, params)
    except (ScoreError, MlflowException) as error:
        raise SystemExit(redact(f"error: {getattr(error, 'message', error)}")) from None
    finally:
        spark.stop()
    print(f"{rows:,} rows in {values.out}")


if __name__ == "__main__":
    main()
