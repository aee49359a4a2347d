"""Ingest in blocks and in processes, on DuckDB and on Spark: the same tables from each."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sealr.data import ingest as module
from sealr.data import ordered, privacy, processes, reading, rejects
from sealr.data.ingest import IngestError, ingest
from sealr.data.sources import READERS
from sealr.data.sources.lines import DataFileError, spans
from sealr.settings import DataConfig, RemoteFile

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400
START = 1_400_000_000 // DAY * DAY


def dirty(rows=400, seed=0):
    """Values of reviews with repeated, unreadable and lonely ones, ties, odd characters and long gaps."""
    rng = random.Random(seed)
    texts = ["fine", "", "häßlich €", "a\0b", "half \ud83d", "long " * 50, "one\ntwo"]
    found = []
    for n in range(rows):
        user, item = f"u{int(rng.random() ** 2 * 30)}", f"i{int(rng.random() ** 2 * 20)}"
        found.append([rng.choice([user, user, user, f"once{n}"]), item, START + rng.randrange(40) * DAY])
        found[-1] += [rng.choice([1, 2, 3.5, 5, None, None, 9]), rng.choice(texts)]
    found += [list(row) for row in rng.sample(found, 40)]
    for row in rng.sample(found, 30):
        row[rng.randrange(3)] = rng.choice([None, "", "yesterday", -1])
    rng.shuffle(found)
    return found


KEYS = {
    "amazon": ("reviewerID", "asin", "unixReviewTime", "overall", "reviewText"),
    "amazon-2023": ("user_id", "parent_asin", "timestamp", "rating", "text"),
    "goodreads": ("user_id", "book_id", "date_added", "rating", "review_text"),
    "yelp": ("user_id", "business_id", "date", "stars", "text"),
    "columns": ("user", "item", "timestamp", "rating", "text"),
}
ODD = ["{not json", "[1]", "", "   ", '{"overall": NaN}', b'{"text": "\xff"}']


def write(folder, source, rows=400):
    """A dirty data set in two parts; returns its configuration."""
    found = dirty(rows)
    for row in found if source == "amazon-2023" else ():
        row[2] = row[2] * 1000 if isinstance(row[2], int) else row[2]
    lines = [json.dumps(dict(zip(KEYS[source], row, strict=True))).encode() for row in found]
    for n, odd in enumerate(ODD):
        lines.insert(7 * n, odd if isinstance(odd, bytes) else odd.encode())
    (folder / "parts").mkdir(parents=True)
    half = len(lines) // 2
    (folder / "parts" / "b.json").write_bytes(b"\n".join(lines[half:]))  # without a line break at the end
    first = b"\xef\xbb\xbf" + b"\r\n".join(lines[:half]) + b"\n"
    (folder / "parts" / "a.json").write_bytes(first)
    return DataConfig("tiny", source=source, reviews=RemoteFile(str(folder / "parts")), k_core=3)


def run(config, folder, **more):
    """Tables as lists of rows, and the result, or the error."""
    try:
        made = ingest(config, folder, {"reviews": Path(config.reviews.path)} if config.reviews.path else {}, **more)
    except (IngestError, DataFileError) as error:
        made = str(error)
    return made, {p.name: pq.read_table(p).to_pydict() for p in sorted(folder.glob("*.parquet"))}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that each file has many; returns the tasks of each run."""
    monkeypatch.setattr(reading, "ROWS", 7)
    monkeypatch.setattr(reading, "SPAN", 4000)
    monkeypatch.setattr(rejects, "BATCH", 5)
    monkeypatch.setattr(ordered, "GROUP", 11)
    seen = []

    def in_this_process(work, tasks):
        seen.append(len(tasks))
        for place in reversed(range(len(tasks))):  # results may come in any order
            yield place, work(tasks[place])

    monkeypatch.setattr("sealr.data.engine.DuckDB.run", staticmethod(in_this_process))
    return seen


@pytest.mark.parametrize("source", ["amazon", "goodreads", "columns"])
def test_small_blocks_give_the_same_tables_as_one(tmp_path, source, request):
    config = write(tmp_path, source)
    whole = run(config, tmp_path / "whole")
    assert whole[0].rows["reviews"] > 50 and len(whole[0].metrics) == 4, whole[0]
    assert {"exact duplicate", "k-core", "not JSON", "missing user"} <= set(whole[1]["rejected.parquet"]["reason"])
    tasks = request.getfixturevalue("small_blocks")
    assert run(config, tmp_path / "blocks") == whole
    assert source == "columns" or tasks[0] > 5


def test_late_rejects_find_their_records_whatever_the_blocks():
    late = [[3], [4, 9], [10, 30, 31], [50]]
    blocks = [[0, 3, 4, 5, 7], [9], [10, 20, 30], [31, 40, 50, 60], [70]]
    batches = (pa.record_batch({"n": n, "reason": [f"r{x}" for x in n]}) for n in late)
    tables = (pa.table({"n": n, "line": [x + 1 for x in n]}) for n in blocks)
    found = pa.concat_tables(rejects.join_late(batches, tables))
    numbers = [n for batch in late for n in batch]
    assert found["n"].to_pylist() == numbers and found["line"].to_pylist() == [n + 1 for n in numbers]
    assert found["reason"].to_pylist() == [f"r{n}" for n in numbers]


def test_spans_are_whole_lines_with_their_numbers(tmp_path):
    path = tmp_path / "a.json"
    lines = [b"x" * (n % 17) for n in range(200)]
    path.write_bytes(b"\n".join(lines))
    found = list(spans(path, 40))
    data = path.read_bytes()
    assert len(found) > 20 and b"".join(data[s.start : s.end] for s in found) == data
    assert all(s.line == data[: s.start].count(b"\n") and data[s.end - 1 : s.end] in (b"\n", b"x") for s in found)
    path.write_bytes(gzip.compress(data))
    assert [s.whole for s in spans(path, 40)] == [True]  # what is compressed cannot be split
    path.write_bytes(data.decode().encode("utf-16"))
    assert len(list(spans(path, 40))) == 1


def test_memory_is_bounded_by_blocks(tmp_path, monkeypatch):
    """No step holds more than a block, whatever the size of the file."""
    config = write(tmp_path, "amazon", rows=3000)
    monkeypatch.setattr(reading, "ROWS", 100)
    monkeypatch.setattr(ordered, "GROUP", 100)
    monkeypatch.setattr(rejects, "BATCH", 100)
    held = []

    def watched(function):
        return lambda blocks, *more: (held.append(len(b)) or b for b in function(blocks, *more))

    monkeypatch.setattr(reading, "_blocks", watched(reading._blocks))
    monkeypatch.setattr(ordered, "_groups", watched(ordered._groups))
    monkeypatch.setattr(module, "blocks_of", watched(rejects.blocks_of))
    made, _ = run(config, tmp_path / "out")
    assert made.rows["read"] > 3000 and len(held) > 60 and max(held) == 100
    assert all(pq.ParquetFile(p).metadata.row_group(0).num_rows <= 200 for p in (tmp_path / "out").glob("r*.parquet"))


def test_a_block_ends_early_where_texts_are_long(monkeypatch):
    monkeypatch.setattr(reading, "CHARACTERS", 1000)
    rows = [reading.Row(n, None, "x" * 300) for n in range(9)]
    assert [len(block) for block in reading._blocks(iter(rows))] == [4, 4, 1]


def die_once(marker, work, task):
    """Kills its process the first time that the task with number 2 runs."""
    if task[0] == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return work(task)


def die(task):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_costs_nothing_but_its_task(tmp_path, monkeypatch, caplog):
    config = write(tmp_path, "amazon")
    whole = run(config, tmp_path / "whole")
    monkeypatch.setattr(reading, "SPAN", 20_000)

    def killing(work, tasks):
        assert len(tasks) > 3
        return processes.in_processes(partial(die_once, tmp_path / "killed", work), tasks)

    monkeypatch.setattr("sealr.data.engine.DuckDB.run", staticmethod(killing))
    assert run(config, tmp_path / "again") == whole
    assert (tmp_path / "killed").exists() and "a process was killed; its task runs again" in caplog.text


@pytest.mark.parametrize("salt", ["", "a secret of the environment"], ids=["salt of the state folder", "salt given"])
def test_forgotten_users_stay_out_also_where_several_processes_read(tmp_path, monkeypatch, salt):
    """The list and the salt go along to the processes, which start anew."""
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    monkeypatch.setenv(privacy.VARIABLE, salt)
    config = write(tmp_path, "amazon")
    before = run(config, tmp_path / "before")[1]
    privacy.remember("tiny", "u0")
    whole = run(config, tmp_path / "whole")
    ran = []

    def in_processes(work, tasks):
        ran.extend(tasks)
        monkeypatch.delenv("SEALR_HOME")  # a process on another machine has neither
        monkeypatch.delenv(privacy.VARIABLE)
        return processes.in_processes(work, tasks)

    monkeypatch.setattr(reading, "SPAN", 20_000)
    monkeypatch.setattr("sealr.data.engine.DuckDB.run", staticmethod(in_processes))
    made, tables = again = run(config, tmp_path / "again")
    assert len(ran) > 3 and again == whole
    assert "u0" in before["reviews.parquet"]["user"] and "u0" not in tables["reviews.parquet"]["user"]
    rejected = zip(tables["rejected.parquet"]["reason"], tables["rejected.parquet"]["record"], strict=True)
    records = [record for reason, record in rejected if reason == privacy.REASON]
    assert len(records) > 10 and set(records) == {""} and '"u0"' not in str(tables)
    assert made.rows["read"] == made.rows["reviews"] + made.rows["rejected"]


def test_a_task_that_always_kills_its_process_is_an_error():
    with pytest.raises(MemoryError, match="a process was killed 3 times: is there too little memory"):
        list(processes.in_processes(die, [1, 2]))


def test_an_endless_line_is_found_in_a_process(tmp_path, monkeypatch):
    config = write(tmp_path, "amazon")
    monkeypatch.setattr("sealr.data.sources.lines.LONGEST", 200)
    monkeypatch.setattr(reading, "SPAN", 4000)
    monkeypatch.setattr("sealr.data.engine.DuckDB.run", staticmethod(lambda f, tasks: enumerate(map(f, tasks))))
    made, tables = run(config, tmp_path / "out")
    assert "a.json: line" in made and "is longer than 200 bytes" in made and not tables


STAGE = """
import sys
from sealr.settings import DataConfig, RemoteFile
from sealr.data import reading
from sealr.data.ingest import ingest, input_files
from sealr.data.manifest import run_stage
reading.SPAN = 20_000
config = DataConfig("tiny", source="amazon", reviews=RemoteFile(sys.argv[1]), k_core=3)
files = input_files(config)
def work(folder):
    if len(sys.argv) > 2:
        from sealr.data.engine import DuckDB
        make = DuckDB.make
        def slow(*more):
            make(*more)
            print("in the middle", flush=True)
            import time; time.sleep(60)
        DuckDB.make = slow
    return ingest(config, folder, files)
if __name__ == "__main__":
    print(run_stage("ingest", "tiny", config, files, ("data",), work).digest)
"""


@pytest.mark.slow
def test_after_a_kill_in_the_middle_the_stage_starts_cleanly(tmp_path):
    config = write(tmp_path, "amazon")
    (tmp_path / "stage.py").write_text(STAGE)

    def start(state, *more):
        command = [sys.executable, str(tmp_path / "stage.py"), config.reviews.path, *more]
        environment = os.environ | {"SEALR_HOME": str(tmp_path / state), "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    expected = start("quiet").communicate(timeout=120)[0]
    process = start("killed", "slow")
    assert process.stdout.readline() == "in the middle\n"
    process.kill()
    process.communicate()
    left = [p.name for p in (tmp_path / "killed").rglob("*") if p.is_file()]
    assert "tables.duckdb" in left and "reviews.parquet" not in left and "manifest.json" not in left
    assert start("killed").communicate(timeout=120)[0] == expected and len(expected) > 60
    files = {p.name for p in (tmp_path / "killed").rglob("*") if p.is_file() and p.suffix != ".lock"}
    assert files == {"manifest.json", "reviews.parquet", "items.parquet", "rejected.parquet"}


def test_ids_are_compared_as_they_are(tmp_path):
    """Zero bytes, case, accents and trailing spaces make other ids; order is that of the characters."""
    users = ["a", "a\0", "A", "a ", "á", "a\u0301", "ab", "é", "z", "\U0001f600", "\uffff"]
    rows = [{"reviewerID": u, "asin": "i", "unixReviewTime": START, "reviewText": "t"} for u in users]
    (tmp_path / "r.json").write_text("\n".join(map(json.dumps, rows)))
    made, tables = run(
        DataConfig("tiny", source="amazon", reviews=RemoteFile(str(tmp_path / "r.json")), k_core=1), tmp_path
    )
    assert made.rows["users"] == len(users) and tables["reviews.parquet"]["user"] == sorted(users)


# Spark

spark = pytest.mark.skipif(
    not shutil.which("java") or not find_spec("pyspark"),
    reason="needs Spark (pip install 'sealr[spark]') and Java 17 or later",
)


@pytest.fixture(scope="module")
def session():
    """One session for all tests: a JVM takes seconds. A task may fail twice."""
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        builder = SparkSession.builder.master("local[2,3]").config("spark.ui.enabled", "false")
        session = builder.config("spark.sql.shuffle.partitions", "3").getOrCreate()
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


@spark
@pytest.mark.slow
@pytest.mark.parametrize("source", READERS)
def test_spark_gives_equal_tables(tmp_path, session, monkeypatch, source):
    monkeypatch.setattr(reading, "SPAN", 10_000)
    if source in KEYS:
        config = write(tmp_path, source, rows=200)
    elif source == "sequences":
        lines = ["u1 a b c a", "u2 a b", "u1 c", "u3", "u4 c a b b", "u\xff a"]
        (tmp_path / "s.txt").write_bytes("\n".join(lines).encode("latin-1"))
        config = DataConfig("tiny", source=source, reviews=RemoteFile(str(tmp_path / "s.txt")), k_core=2)
    else:
        config = DataConfig("tiny", source=source, demo_users=30)
    local = run(config, tmp_path / "local")
    assert local[0].rows["reviews"] > 5
    assert run(replace(config, engine="spark"), tmp_path / "spark") == local


@spark
@pytest.mark.slow
def test_a_killed_worker_of_spark_costs_nothing_but_its_task(tmp_path, session, monkeypatch):
    from sealr.data.spark import Spark

    config = write(tmp_path, "amazon")
    whole = run(config, tmp_path / "whole")
    monkeypatch.setattr(reading, "SPAN", 20_000)
    run_tasks, marker = Spark.run, tmp_path / "killed"

    def killing(self, work, tasks):
        def die_once(task):
            if task[0] == 2 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return work(task)

        assert len(tasks) > 3
        return run_tasks(self, die_once, tasks)

    monkeypatch.setattr(Spark, "run", killing)
    assert run(replace(config, engine="spark"), tmp_path / "again") == whole and marker.exists()


@spark
@pytest.mark.slow
def test_spark_names_a_damaged_file(tmp_path, session):
    path = tmp_path / "r.json"
    path.write_bytes(gzip.compress(b'{"reviewerID": "u"}\n' * 5000)[:50])
    config = DataConfig("tiny", source="amazon", reviews=RemoteFile(str(path)), engine="spark")
    made, tables = run(config, tmp_path / "out")
    assert made.startswith(f"{path}: the gzip file is truncated or damaged") and "\n" not in made and not tables
