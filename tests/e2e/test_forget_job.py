"""A finished job with a registered champion forgets a user: `sealr forget`, searched by other means than its own."""

import json
import sqlite3
import subprocess
import sys

import mlflow
import pandas as pd
import pytest

from tests.e2e.jobs import environment, run

pytestmark = pytest.mark.slow
DATA = ("--data", "tiny.yaml", "--base", "toy.yaml")
SETTINGS = "label.cache=true registry.name=shop"


def sealr(project, *arguments):
    command = [sys.executable, "-m", "sealr", *arguments]
    done = subprocess.run(command, env=environment(project), cwd=project, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def files_that_name(project, user, *texts):
    """All files below the project that hold the user's id or a text: bytes, and cells of tables. Not our own code."""
    needles = [user.encode(), *(text.encode() for text in texts)]
    found = set()
    for path in project.rglob("*"):
        if not path.is_file() or "code/sealr" in str(path) or path.suffix in (".yaml", ".log"):
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content = pd.read_parquet(path).to_json().encode()
        if any(needle in content for needle in needles):
            found.add(str(path.relative_to(project)))
    return found


@pytest.fixture(scope="module")
def finished(project):
    code, _, err = run(project, "--set", SETTINGS)
    assert code == 0, err
    assert sealr(project, "promote", "1", "--name", "shop", "--reason", "a toy")[0] == 0
    (fusion,) = (project / "state" / "tiny").glob("rerank/*/fusion.json")
    user = json.loads(fusion.read_text())["test_users"][0]
    (path,) = (project / "state" / "tiny").glob("ingest/*/reviews.parquet")
    reviews = pd.read_parquet(path)
    others = set(reviews[reviews["user"] != user]["text"])
    return user, [text for text in reviews[reviews["user"] == user]["text"] if text not in others]


def test_forget_leaves_nothing_and_the_next_job_drops_the_user(project, finished):
    user, texts = finished
    assert texts
    before = files_that_name(project, user, *texts)
    kinds = {"ingest", "label", "retrieve", "rerank"}
    assert kinds <= {name.split("/")[2] for name in before if name.startswith("state/tiny/")}
    assert any(name.endswith("histories.parquet") for name in before), before
    code, out, err = sealr(project, "forget", user, *DATA)
    assert code == 0, out + err
    assert user not in out
    assert files_that_name(project, user, *texts) == set()
    assert "replaced by models:/shop/2" in out and "do not unlearn" in out and "forgotten.json" in out

    client = mlflow.MlflowClient(f"sqlite:///{project}/state.db")
    (version,) = client.search_model_versions("name = 'shop'")
    assert version.tags["sealr.rewrites"] == "1" and version.description.startswith("Rewrites version 1")
    assert {k: int(v) for k, v in client.get_registered_model("shop").aliases.items()} == {
        "champion": 2,
        "challenger": 2,
    }
    ask = ("recommend", "--model", "models:/shop@champion", "--format", "json")
    code, known, err = sealr(project, *ask, "--user", "u0008")
    assert code == 0 and len(json.loads(known)) == 10, err
    assert "is not known" in sealr(project, *ask, "--user", user)[2]
    with sqlite3.connect(next((project / "state" / "label-cache").glob("*.sqlite"))) as cache:
        assert cache.execute("SELECT count(*) FROM p").fetchone()[0] > 0  # texts of others stay

    code, out, err = sealr(project, "forget", user, *DATA)
    assert code == 0 and "Nothing is left" in out, out + err  # again: it may be repeated
    code, out, err = sealr(project, "forget", "nobody-of-that-name", *DATA)
    assert code == 2 and "no trace of this user" in err

    code, out, err = run(project, "--set", SETTINGS, name="ingest")
    assert code == 0 and "forgotten user" in err, err
    assert files_that_name(project, user, *texts) == set()
