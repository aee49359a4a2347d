"""Tracking and registry on PostgreSQL, artifacts behind the tracking server: a throw-away cluster and a real server."""

import getpass
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from sealr import tracking
from sealr.cli import main
from sealr.registry import promote
from sealr.serving.follower import Follower, ServerOptions
from sealr.serving.server import create_app
from sealr.settings import RegistryConfig
from tests.e2e.jobs import free_port, serve
from tests.serving.toy_model import USERS, toy_parts, toy_registration

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "not a secret"  # of a cluster that lives for a minute
DEBIAN = sorted(
    Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name) if p.parent.name.isdecimal() else 0
)


def binary(name):
    places = os.pathsep.join([os.environ.get("PATH", ""), *map(str, reversed(DEBIAN))])
    return shutil.which(name, path=places) or pytest.skip(
        f"PostgreSQL's {name} is not there (Debian: apt install postgresql)"
    )


def owner():
    """Who may run a cluster: PostgreSQL refuses root."""
    if os.geteuid():
        return getpass.getuser()
    names = {user.pw_name for user in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None) or pytest.skip("no user but root")


@pytest.fixture(scope="module")
def database():
    """The address of an empty database; cluster and data are gone afterwards."""
    psycopg2 = pytest.importorskip("psycopg2", reason="needs psycopg2 (pip install -e '.[team]')")
    initdb, pg_ctl, user, port = binary("initdb"), binary("pg_ctl"), owner(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="sealr-pg-"))  # short: the path of a socket has at most 107 characters
    (folder / "password").write_text(PASSWORD)
    if not os.geteuid():
        for path in (folder, folder / "password"):
            shutil.chown(path, user)

    def run(*arguments):
        rights = {} if os.geteuid() else {"user": user, "extra_groups": []}
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, timeout=60, **rights)
        log = folder / "log"
        assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")

    try:
        run(initdb, "-D", "data", "-U", "sealr", "-A", "scram-sha-256", "--pwfile", "password", "-E", "UTF8", "-N")
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        run(pg_ctl, "-D", "data", "-l", "log", "-w", "-o", settings, "start")
        try:
            # A database of its own, as docs/team.md makes it
            connection = psycopg2.connect(
                host="127.0.0.1", port=port, user="sealr", password=PASSWORD, dbname="postgres"
            )
            connection.autocommit = True
            connection.cursor().execute("CREATE DATABASE mlflow")
            connection.close()
            yield f"postgresql://sealr:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/mlflow"
        finally:
            run(pg_ctl, "-D", "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    """MLflow's server as docs/team.md starts it: metadata in PostgreSQL, artifacts passed through."""
    folder = tmp_path_factory.mktemp("team")
    url = f"http://127.0.0.1:{(port := free_port())}"
    store = ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
    env = os.environ | {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    arguments = [sys.executable, "-m", "mlflow", "server", *store, *where]
    for _ in serve(arguments, f"{url}/health", folder / "server.log", env, folder):
        yield url, folder


@pytest.fixture(scope="module")
def registered(server, toy_llama, toy_labeller, tmp_path_factory):
    """Two versions of a toy, the first of them champion; the run of the first."""
    url, folder = server
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", url)
        patch.chdir(folder)  # whatever is written beside the artifact store would be seen
        parts = toy_parts(tmp_path_factory.mktemp("parts"), toy_llama, toy_labeller)
        done = []
        for weight in (1.0, 0.0):
            with tracking.job("finetune", parts.config) as run_id, tracking.stage("register", run_id, RegistryConfig()):
                done.append(toy_registration(parts, tmp_path_factory.mktemp("state"), weight))
        yield folder, parts, done
    mlflow.set_tracking_uri(None)


def test_versions_aliases_and_decisions_are_kept_in_postgresql(registered, database):
    import psycopg2

    _, _, (first, second) = registered
    assert (first.version, first.aliases) == ("1", ("challenger", "champion"))
    assert (second.version, second.aliases) == ("2", ("challenger",)) and "no significant gain" in second.reason
    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT alias, version FROM registered_model_aliases WHERE name = 'sealr' ORDER BY alias")
        assert cursor.fetchall() == [("challenger", 2), ("champion", 1)]
        cursor.execute(
            "SELECT value FROM model_version_tags WHERE key = %s ORDER BY version", (promote.GATE + "decision",)
        )
        assert [value for (value,) in cursor.fetchall()] == ["promoted", "refused"]
    connection.close()


def test_artifacts_lie_in_the_store_and_nowhere_else(registered):
    folder, _, _ = registered
    assert len(list((folder / "artifacts").rglob("artifacts/model/adapter/adapter_model.safetensors"))) == 2
    assert not {"mlruns", "mlartifacts", "mlflow.db"} & {p.name for p in folder.iterdir()}
    assert PASSWORD not in (folder / "server.log").read_text()


def test_searches_by_tag_work_there_as_on_sqlite(registered):
    _, _, (first, _) = registered
    assert len(promote.stage_keys()) >= 6 and tracking.stage_keys(1) == set()  # this job logged no manifests
    assert promote.find(first.name, "no such content") is None


def test_the_champion_loads_by_its_alias_and_a_moved_alias_is_served(registered):
    _, parts, _ = registered
    users = pd.DataFrame({"user": USERS[:3]})
    model = mlflow.pyfunc.load_model("models:/sealr@champion")
    expected = model.predict(users, params={"top_k": 4})
    assert all(len(items) == 4 for items in expected["items"])
    follower = Follower(ServerOptions(model="models:/sealr@champion"))
    follower.update()
    ask = {"dataframe_records": users.to_dict("records"), "params": {"top_k": 4}}
    with TestClient(create_app(ServerOptions(), follower)) as client:
        answer = client.post("/invocations", json=ask)
        assert answer.status_code == 200 and answer.headers["X-Model-Version"] == "1"
        assert [a["items"] for a in answer.json()["predictions"]] == expected["items"].tolist()
        with pytest.raises(SystemExit) as end:
            main(["promote", "2", "--reason", "the retriever alone is faster"])
        assert end.value.code == 0
        follower.update()
        answer = client.post("/invocations", json=ask)
        assert answer.status_code == 200 and answer.headers["X-Model-Version"] == "2" and "LLM #" not in answer.text
    assert promote.rollback("sealr", "it was not") == ("1", "2") and promote.champion("sealr") == "1"
