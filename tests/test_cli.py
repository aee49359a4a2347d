"""The command: help, exit codes, one sentence for a mistake, and no traceback."""

import logging
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from sealr import doctor
from sealr.cli import app, explain, main
from sealr.config import load_config

ROOT = Path(__file__).resolve().parents[1]


def leaves(group, path=()):
    """Every command of the command line, as words."""
    for name, command in group.commands.items():
        words = (*path, name)
        yield from leaves(command, words) if hasattr(command, "commands") else [words]


def commands():
    from typer.main import get_command

    return sorted(leaves(get_command(app)))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A user's working folder, without servers."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "SEALR_HOME", "SEALR_DATA"):
        monkeypatch.delenv(name, raising=False)
    before, level = dict(os.environ), logging.getLogger("sealr").level
    yield tmp_path
    logging.getLogger("sealr").setLevel(level)
    os.environ.clear()  # commands set the project's variables
    os.environ.update(before)


def run(capsys, *arguments):
    """Exit code, output and errors of a command in this process."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return end.value.code, out, err


def refused(capsys, *arguments):
    """The sentence of a command that refuses its input."""
    code, _, err = run(capsys, *arguments)
    assert code == 2 and err.startswith("error: ") and "Traceback" not in err, err
    return err


def process(*arguments, **environment):
    """Seconds and result of a command in a process of its own, as a user starts it."""
    started = time.monotonic()
    command = [sys.executable, "-m", "sealr", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    return time.monotonic() - started, done


def test_all_commands_are_there():
    wanted = (
        "run ingest label retrieve evaluate tune benchmark refresh recommend score serve deployments promote rollback "
    )
    wanted += "compare explore drift train-labeller evaluate-labeller prune doctor"
    assert {(name,) for name in wanted.split()} | {("config", "show"), ("config", "check")} <= set(commands())


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_has_one_line_and_an_example(command, capsys):
    code, out, _ = run(capsys, *command, "--help")
    text = " ".join(out.split())
    assert code == 0 and f"Usage: sealr {' '.join(command)}" in text
    assert f"Example: sealr {' '.join(command)}" in text
    assert out.splitlines()[2].strip()  # the description


def test_help_without_arguments_and_version(capsys):
    assert "Commands:" in run(capsys)[1]
    assert run(capsys, "--version")[1].startswith("sealr ")


def test_help_and_a_refused_setting_are_fast():
    """The limits of the issue are .5 s and 2 s; a busy machine gets three times as much."""
    seconds, done = min((process("--help") for _ in range(3)), key=lambda pair: pair[0])
    assert done.returncode == 0 and seconds < 1.5
    seconds, done = min((process("run", "--set", "retrieve.epoch=5") for _ in range(3)), key=lambda pair: pair[0])
    assert done.returncode == 2 and seconds < 6
    assert done.stderr == "error: unknown setting retrieve.epoch; did you mean retrieve.epochs?\n"


@pytest.mark.parametrize(
    "heavy", ["torch", "mlflow", "prefect", "transformers", "pandas", "great_expectations", "rich"]
)
def test_a_refused_setting_imports_nothing_heavy(heavy):
    code = "import sys\nfrom sealr.cli import main\ntry: main(['run', '--set', 'a.b=1'])\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print({heavy!r} in sys.modules)"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian"], "No such command 'trian'"),
        (["promot", "1"], "Did you mean 'promote'"),
        (["run", "--sett", "a=1"], "--set"),
        (["run", "--data", "dem"], "did you mean demo?"),
        (["run", "--base", "/nowhere/base.yaml"], "/nowhere/base.yaml"),
        (["run", "--set", "retrieve.epochs=many"], "retrieve.epochs"),
        (["run", "--set", "retrieve.epochs"], "section.field=value"),
        (["run", "--set", "rerank.base=/nowhere/model"], "/nowhere/model"),
        (["run", "--dry-run-is", "perhaps"], "perhaps"),
        (["run", "--set", "data.source=columns data.reviews.path=/nowhere/reviews.csv"], "/nowhere/reviews.csv"),
        (["tune", "--set", "retrieve.model=popularity"], "popularity has no settings to search"),
        (["tune", "--set", "retrieve.model=fusion 'retrieve.parts=[{model: popularity}]'"], "no settings to search"),
        (["tune", "--storage", "nosuch://host/x"], "--storage nosuch://host/x cannot be used"),
        (["tune", "--what", "reranker", "--set", "rerank.ranker=palr"], "rerank.ranker"),
        (["tune", "--trials", "0"], "--trials"),
        (["benchmark", "--table", "9"], "did you mean"),
        (["benchmark", "--only", "sasrek"], "did you mean sasrec?"),
        (["benchmark", "--data", "nowhere"], "no data set 'nowhere'"),
        (["benchmark", "--only", "sasrec", "--set", "retrieve.epohcs=3"], "did you mean retrieve.epochs?"),
        (["recommend"], "--user"),
        (["recommend", "--history", "none.json"], "none.json: No such file or directory"),
        (["recommend", "--user", "u", "--model", "/nowhere/model"], "/nowhere/model"),
        (["recommend", "--user", "u", "--satisfaction-weight", "-1"], "--satisfaction-weight"),
        (["score", "--out", "o", "--satisfaction-weight", "much"], "--satisfaction-weight"),
        (["score", "--out", "o", "--master", "local[1]", "--table", "t"], "leave out --master"),
        (["score", "--out", "o.txt", "--model", "."], "o.txt ends in none of .parquet"),
        (["serve", "--model", ".", "--available", "none.txt"], "none.txt: No such file or directory"),
        (["compare", "models:/sealr/1", "models:/sealr/2"], "--next"),
        (["compare", "models:/sealr/1", "folder", "--next", "n.csv"], "folder is not in the registry"),
        (["compare", "models:/sealr/1", "models:/sealr/2", "--next", "n.csv"], "n.csv does not exist"),
        (["promote", "1"], "--reason"),
        (["promote", "one", "--reason", "better"], "version"),
        (["config", "check", "--set", "retrieve.heads=3"], "retrieve.heads"),
        (["config", "check", "--set", "retrieve.model=fusion"], "a fusion needs parts"),
        (["run", "--set", "'retrieve.teacher=[{model: fusion}]'"], "retrieve.teacher[0]: every part needs a model"),
        (["tune", "--set", "'retrieve.teacher=[{model: ease}]'"], "a search trains without a teacher"),
        (["deployments"], "PREFECT_API_URL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_a_sentence(arguments, part, site, capsys):
    assert part in refused(capsys, *arguments)


def test_debug_shows_the_traceback_wherever_it_stands(site, capsys):
    for arguments in (["--debug", "run", "--set", "a.b=1"], ["run", "--set", "a.b=1", "--debug"]):
        code, _, err = run(capsys, *arguments)
        assert code == 2 and "Traceback" in err and "ConfigError" in err


def test_a_defect_keeps_its_traceback_and_a_failure_of_a_disk_does_not():
    def caught(raises):
        try:
            raises()
        except Exception as error:
            return explain(error)

    assert caught(lambda: {}["no"]) == (1, "")
    assert caught(lambda: int("a library's ValueError")) == (1, "")
    assert caught(Path("/nowhere/file").read_text)[0] == 2
    assert caught(lambda: __import__("pyspark_that_nobody_has")) == (1, "")
    error = ModuleNotFoundError("No module named 'prefect'", name="prefect")
    assert explain(error) == (2, "this command needs prefect, which is not installed: pip install 'sealr[train]'")
    error = ModuleNotFoundError("No module named 'streamlit'", name="streamlit.web")
    assert explain(error) == (2, "this command needs streamlit, which is not installed: pip install 'sealr[explore]'")


@pytest.mark.parametrize(
    ("missing", "words"), [("pyspark.sql", "pip install 'sealr[spark]', and Java 17"), ("java", "set JAVA_HOME")]
)
def test_scoring_on_spark_without_spark_or_java(missing, words, site, monkeypatch, capsys):
    session = None if missing == "pyspark.sql" else SimpleNamespace(SparkSession=None)
    monkeypatch.setitem(sys.modules, "pyspark.sql", session)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert words in refused(capsys, "score", "--out", "o", "--model", str(site), "--master", "local[1]")


def test_a_state_folder_that_cannot_be_written(site, monkeypatch, capsys):
    (site / "file").write_text("not a folder")
    monkeypatch.setenv("SEALR_HOME", str(site / "file" / "state"))
    assert "set SEALR_HOME to a folder that you may write to" in refused(capsys, "run")


def test_an_mlflow_database_that_cannot_be_opened(site, monkeypatch, capsys):
    started = time.monotonic()
    for uri in (f"sqlite:///{site}/no/folder/mlflow.db", f"sqlite:///{site}/text.db"):
        (site / "text.db").write_text("this is not a database" * 100)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for command in (["run"], ["prune"], ["recommend", "--user", "u"]):
            assert "set MLFLOW_TRACKING_URI" in refused(capsys, *command)
    assert time.monotonic() - started < 10


def test_a_database_that_another_job_writes_is_no_mistake(site, monkeypatch):
    with sqlite3.connect(site / "mlflow.db") as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(doctor, "PATIENCE", 0.1)
        doctor.check_tracking()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9"),
        ("MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1:9/mlflow"),
        ("PREFECT_API_URL", "http://127.0.0.1:9/api"),
    ],
)
def test_a_server_that_is_away(name, value, site, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    said = refused(capsys, "run")
    assert name in said and "127.0.0.1:9" in said and "secret" not in said


def test_a_port_in_use(site, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port}" in refused(capsys, "serve", "--model", str(site), "--port", port)


def test_a_shown_configuration_reads_as_the_same_one(site, capsys):
    settings = ["--set", "retrieve.epochs=3 rerank.lora.targets=[q_proj]", "--set", "data.category='kitchen tools'"]
    for more in ([], ["--changed"]):
        code, out, _ = run(capsys, "config", "show", *settings, *more)
        assert code == 0
        Path("shown.yaml").write_text(out)
        overrides = "retrieve.epochs=3 rerank.lora.targets=[q_proj] data.category='kitchen tools'"
        assert load_config("shown.yaml") == load_config("demo", "smollm2-135m", overrides)
        assert run(capsys, "config", "check", "--data", "shown.yaml", "--base", "")[:2] == (0, "ok\n")
    assert "name" in yaml.safe_load(out)["data"] and "heads" not in yaml.safe_load(out)["retrieve"]


def test_check_reads_the_reviews_where_they_are_here(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"u{u},i{i},2018-01-{u + i + 1:02d},{99 if u == i == 0 else 4}" for u in range(6) for i in range(6)]
    (tmp_path / "shop.csv").write_text("\n".join(["who,what,day,stars", *rows]))
    text = "data: {{name: shop, source: columns, reviews: {{path: {file}}}, k_core: {core}, columns: {{user: who, "
    text += "item: {item}, timestamp: day, rating: stars, text: '', title: '', brand: '', categories: ''}}}}"

    def check(file="shop.csv", item="what", core=5):
        (tmp_path / "shop.yaml").write_text(text.format(file=tmp_path / file, item=item, core=core))
        code, out, err = run(capsys, "config", "check", "--data", "shop.yaml")
        return code, out + err

    assert check() == (
        0,
        "ok: shop.csv: all 36 rows read, rejected: rating not from 1 to 5: see data.rating_scale (1)\n",
    )
    assert check("else.csv") == (
        0,
        f"ok, but {tmp_path / 'else.csv'} is not on this machine, so no column was looked up\n",
    )
    code, said = check(item="product")
    assert code == 2 and "product" in said and "who, what, day, stars" in said
    code, said = check(core=7)
    assert code == 2 and "with data.k_core=7 none is left" in said


def test_doctor_reports_every_part_and_fails_with_what_is_wrong(site, monkeypatch, capsys, toy_llama):
    settings = ["--set", f"rerank.base={toy_llama}"]
    code, out, _ = run(capsys, "doctor", *settings)
    names = (
        "packages",
        "machine",
        "state folder",
        "MLflow",
        "Prefect",
        "data folder",
        "base LLM",
        "labeller's encoder",
    )
    assert all(name in out for name in names) and str(toy_llama) in out
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    code, out, _ = run(capsys, "doctor", *settings)
    assert code == 1 and "fail  Prefect" in out and "prefect server start" in out


def test_an_alias_or_version_that_is_not_there(site, monkeypatch, capsys):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{site}/mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{site}/mlflow.db")
    client.create_registered_model("sealr")
    version = client.create_model_version("sealr", str(site), tags={}).version
    client.set_registered_model_alias("sealr", "champion", version)
    capsys.readouterr()  # MLflow's lines about the new database
    ask = ("recommend", "--user", "u", "--model")
    assert "did you mean champion? (aliases: champion)" in refused(capsys, *ask, "models:/sealr@chmpion")
    assert "sealr has no version 7 (versions: 1)" in refused(capsys, *ask, "models:/sealr/7")
    client.delete_registered_model_alias("sealr", "champion")
    client.set_registered_model_alias("sealr", "challenger", version)
    said = refused(capsys, *ask, "models:/sealr@champion")
    assert "(aliases: challenger); sealr promote VERSION makes a version champion" in said
    assert "sealr has no version 7 (versions: 1)" in refused(capsys, "promote", "7", "--reason", "better")
    mlflow.set_tracking_uri(None)


def test_a_weight_of_satisfaction_without_a_forecast_is_told(model_folder, tmp_path, monkeypatch, capsys):
    import sealr

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    loaded = sealr.load(str(model_folder))
    monkeypatch.setattr(sealr, "load", lambda model: loaded)
    ask = ("recommend", "--model", str(model_folder), "--user", "u3", "--satisfaction-weight")
    assert "foretells no satisfaction" not in run(capsys, *ask, "2")[2]
    monkeypatch.setattr(loaded.recommender, "forecast", None)
    assert "foretells no satisfaction" in run(capsys, *ask, "2")[2]
    assert "foretells no satisfaction" not in run(capsys, *ask, "1")[2]


def test_recommend_and_score_with_filters(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    ask = ("recommend", "--model", str(model_folder), "--format", "csv")

    def items(*options):
        code, out, err = run(capsys, *ask, *options)
        assert code == 0, err
        return {line.split(",")[1] for line in out.splitlines()[1:]}

    assert items("--user", "new", "--category", "Garden", "--exclude-item", "i05") == {"i04", "i06", "i07"}
    assert items("--user", "new", "--include-item", "i02", "--include-item", "i05") == {"i02", "i05"}
    (tmp_path / "history.csv").write_text("item,rating\ni06,5\n")
    (tmp_path / "available.txt").write_text("i05\ni06\ni07\n")
    with_history = ("--user", "new", "--history", "history.csv", "--available", "available.txt")
    assert items(*with_history) == {"i05", "i07"}
    code, out, _ = run(capsys, "recommend", "--model", str(model_folder), "--user", "new", "--include-item", "i02")
    assert code == 0 and out.count("i02") == 1  # it has no title, so its id is printed once
    assert "did you mean Garden?" in refused(capsys, *ask, "--user", "new", "--category", "Gardn")
    assert "give one --user" in refused(capsys, *ask, *with_history, "--user", "u3")
    (tmp_path / "history.csv").write_text("item,ratng\ni06,5\n")
    assert "history.csv: unknown key of a history 'ratng'; did you mean rating?" in refused(capsys, *ask, *with_history)

    score = ("score", "--model", str(model_folder), "--category", "Garden", "--with-seen")
    code, out, err = run(capsys, *score, "--out", "out.csv")
    assert (code, out) == (0, "24 requests; 96 recommended items in out.csv\n")
    assert err == "warning: 24 requests have warnings, the first: the filters leave 4 items\n"
    assert "out.csv exists already" in refused(capsys, *score, "--out", "out.csv")
    assert run(capsys, *score, "--out", "sqlite:///shop.db", "--table", "t")[0] == 0


def test_an_address_that_is_none_of_mlflow(site, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    assert "sqlite:////home/me/mlflow.db" in refused(capsys, "ingest")


def test_the_list_of_commands_is_not_cut(capsys):
    assert "..." not in run(capsys, "--help")[1].partition("Commands:")[2]


def test_tracking_and_doctor_mean_the_same_database():
    from sealr import tracking

    assert tracking.DEFAULT_URI == doctor.DEFAULT_URI


def test_a_run_of_mlflow_without_an_experiment_lands_in_sealr(site, monkeypatch):
    import mlflow

    from sealr import tracking

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{site}/mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{site}/mlflow.db")
    given = client.create_run("0", tags={"mlflow.project.entryPoint": "main"}).info.run_id
    client.log_param(given, "data", "demo")
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with tracking.job("finetune", load_config("demo")) as run_id:
        pass
    client.set_terminated(given)  # as `mlflow run` does
    run = client.get_run(run_id)
    assert run.info.experiment_id == client.get_experiment_by_name("sealr").experiment_id
    assert run.data.params == {"data": "demo"} and run.data.tags["mlflow.project.entryPoint"] == "main"
    assert run_id in client.get_run(given).data.tags["mlflow.note.content"]
    mlflow.set_tracking_uri(None)


def test_artifacts_lie_beside_the_database_and_not_in_the_working_folder(site, monkeypatch):
    import mlflow

    from sealr import tracked, tracking

    (site / "team").mkdir()
    (site / "report.html").write_text("what was found")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{site}/team/mlflow.db")
    with tracking.job("finetune", load_config("demo")) as run_id:
        tracking.log_file(site / "report.html", run_id)
    assert tracked.find_artifact(run_id, "report.html").is_relative_to(site / "team")
    assert {path.name for path in site.iterdir()} == {"team", "report.html"}
    mlflow.set_tracking_uri(None)


def test_a_failed_run_has_the_jobs_name_and_says_why(site, monkeypatch, capsys):
    import mlflow

    from sealr import tracking
    from sealr.config import ConfigError

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{site}/mlflow.db")
    with pytest.raises(ConfigError), tracking.job("finetune", load_config("demo"), {"mlflow.note.content": "By me."}):
        raise ConfigError("no reviews at s3://me:secret@bucket/r.csv")
    client = mlflow.MlflowClient(f"sqlite:///{site}/mlflow.db")
    (run_of_job,) = client.search_runs([client.get_experiment_by_name("sealr").experiment_id])
    tags = run_of_job.data.tags
    assert (run_of_job.info.status, tags["mlflow.runName"]) == ("FAILED", "finetune demo")
    assert tags["sealr.failure"] == "no reviews at s3://me:***@bucket/r.csv"
    assert tags["mlflow.note.content"] == f"Failed: {tags['sealr.failure']}\n\nBy me."
    with pytest.raises(KeyError), tracking.job("finetune", load_config("demo")):
        raise KeyError("column")
    newest = client.search_runs([run_of_job.info.experiment_id], order_by=["attributes.start_time DESC"])[0]
    assert newest.data.tags["sealr.failure"] == "KeyError: 'column'"

    capsys.readouterr()  # MLflow's lines about the new database
    given = client.create_run("0").info.run_id  # as `mlflow run` does: with a name such as bold-cow-536
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    said = refused(capsys, "run", "--data", "dem")
    tags = client.get_run(given).data.tags
    assert tags["mlflow.runName"] == "run dem" and tags["sealr.failure"] in said and "did you mean" in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # never in the way of the sentence itself
    assert "did you mean demo" in refused(capsys, "run", "--data", "dem")
    mlflow.set_tracking_uri(None)
