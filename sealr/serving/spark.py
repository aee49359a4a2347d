"""Batch scoring on Spark (``sealr score --master``, docs/serving.md), for more than `sealr.serving.batch` can do.

Each Python worker of Spark loads the model once (`mlflow.pyfunc.spark_udf`), so the answers are the model's own.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pyarrow.parquet as pq
from mlflow.exceptions import MlflowException

from sealr import tracking
from sealr.redact import redact
from sealr.serving.batch import FIELDS, ScoreError, check_columns, resolved
from sealr.serving.packing import HISTORIES, find, read_values

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ANSWER = (
    "items array<string>, titles array<string>, scores array<double>, reasons array<string>, warnings array<string>"
)
STRUCT = "_sealr_answer"  # column that holds an answer until it is unpacked
REASON = re.compile(r"^mlflow\.exceptions\.MlflowException: (.+)$", re.MULTILINE)  # in a worker's stack trace


def score_users(model: str, users: str | None, out: str, params: dict[str, Any], master: str) -> int:
    """Starts Spark, writes recommendations (see `score`) and returns the number of rows. Raises ScoreError.

    params: of `sealr.serving.request.Options`. master: such as local[4]; "submit": that of spark-submit.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise ScoreError("batch scoring needs Spark: pip install 'sealr[spark]', and Java 17 or later") from None
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        raise ScoreError("Spark needs Java 17 or later: install it, or set JAVA_HOME")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers in this environment
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns that workers reuse this environment
    warnings.filterwarnings("ignore", category=FutureWarning)  # PySpark on pandas 3; the tests cover what is used here
    tracking.setup()
    builder = SparkSession.builder.appName("sealr-score")
    spark = (builder if master == "submit" else builder.master(master)).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    try:
        return score(spark, model, users, out, params)
    except MlflowException as error:
        raise ScoreError(redact(error.message)) from None
    finally:
        spark.stop()


def score(spark: SparkSession, model: str, users: str | None, out: str, params: dict[str, Any]) -> int:
    """Writes a Parquet folder, one row a user: ``user``, the answer, the version and other columns of ``users``.

    Returns the row count. model: models:/NAME@ALIAS, models:/NAME/VERSION or a folder. users: a Parquet or CSV file
    with ``user``, ``history`` and other fields of a request (lists, or these as JSON); None: all users of the model.
    out: must not exist yet. Raises ScoreError.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    version = resolved(model)
    with tempfile.TemporaryDirectory(prefix="sealr-score-", ignore_cleanup_errors=True) as scratch:
        # Resolved once: the alias may move while Spark works
        address = model.partition("@")[0] + f"/{version}" if version and "@" in model else model
        folder = mlflow.artifacts.download_artifacts(address, dst_path=scratch) if version else address
        asked = _read(spark, users) if users else _known(spark, Path(folder))
        answer = f"struct<{ANSWER}>"
        predict = mlflow.pyfunc.spark_udf(spark, folder, result_type=answer, env_manager="local", params=params)
        columns = [c for c in FIELDS if c in asked.columns]
        kept = [c for c in asked.columns if c == "user" or c not in FIELDS]
        kept = [f"`{c.replace('`', '``')}`" for c in kept]  # a name may contain a dot
        try:
            answered = asked.select(*kept, predict(F.struct(*columns)).alias(STRUCT))
            table = answered.select(*kept, f"{STRUCT}.*", F.lit(version).alias("model_version"))
            table.write.mode("errorifexists").parquet(out)
            return spark.read.parquet(out).count()
        except (PySparkException, Py4JJavaError) as error:
            raise ScoreError(_sentence(error)) from None


def _known(spark: SparkSession, folder: Path) -> DataFrame:
    """All users whose history a model has stored."""
    packed = find(folder)
    if packed is None:
        raise ScoreError(f"{folder} is not a SEALR model: it holds no histories; name the users with --users")
    path = packed / HISTORIES
    if read_values(packed)["config"]["registry"].get("users", "plain") != "plain":
        raise ScoreError("the model keeps no ids of users: name them with --users")
    return _spread(spark, spark.createDataFrame(pq.read_table(path, columns=["user"])))


def _read(spark: SparkSession, path: str) -> DataFrame:
    from pyspark.errors import PySparkException

    try:
        if path.endswith((".csv", ".csv.gz")):  # all text: an id 007 keeps its zeros
            frame = spark.read.csv(path, header=True, escape='"', multiLine=True)
        else:
            frame = spark.read.parquet(path)
    except PySparkException as error:
        raise ScoreError(f"{path} cannot be read: {_sentence(error)}") from None
    types = dict(frame.dtypes)
    check_columns(path, list(types))
    if types.get("user", "string") not in ("string", "tinyint", "smallint", "int", "bigint"):
        raise ScoreError(f"{path}: column user has type {types['user']}; ids are texts or whole numbers")
    return _spread(spark, frame.withColumn("user", frame["user"].cast("string")) if "user" in types else frame)


def _spread(spark: SparkSession, frame: DataFrame) -> DataFrame:
    """Spreads the rows over all cores: a small file is one partition, which a single worker would score."""
    return frame.repartition(spark.sparkContext.defaultParallelism)


def _sentence(error: Exception) -> str:
    """The model's own sentence in a stack trace of several processes, else the first line."""
    found = REASON.findall(str(error))
    return found[-1] if found else str(error).strip().partition("\n")[0]
