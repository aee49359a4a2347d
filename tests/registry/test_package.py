"""A registered model: what MLflow knows about it, and loading it with nothing but its own files and requirements."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest

from sealr import weights
from sealr.data.tables import write_json
from sealr.registry.package import requirements
from tests.serving.toy_model import USERS, toy_registration

ASK = """
import importlib.util, json, sys
import mlflow.pyfunc, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
import sealr
rows = [{"user": "u3", "history": None}, {"user": None, "history": [{"item": "i01", "text": "I love it"}]}]
answers = model.predict(pd.DataFrame(rows), params={"top_k": 4}).to_dict("records")
training = ("prefect", "great_expectations", "optuna", "bitsandbytes", "gguf")
found = [name for name in training if importlib.util.find_spec(name)]
print(json.dumps({"code": sealr.__file__, "answers": answers, "training": found}))
"""


@pytest.fixture(scope="module")
def registered(parts, tmp_path_factory):
    """The toy, registered in a registry of its own and downloaded."""
    store = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store)
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
        with mlflow.start_run(experiment_id="0"):
            registration = toy_registration(parts, store / "state")
        uri = f"models:/{registration.name}/{registration.version}"
        folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(store / "model")))
        yield SimpleNamespace(folder=folder, registration=registration)
        mlflow.set_tracking_uri(None)


def ask(python, folder, cwd, **env):
    """Loads and asks the model in another process, in a folder without a checkout."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [*python, "-c", ASK, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=kept | env, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_logged_model_knows_its_version(registered):
    (model,) = mlflow.MlflowClient().search_logged_models(["0"])
    versions = json.loads(model.tags["mlflow.modelVersions"])
    assert [(v["name"], str(v["version"])) for v in versions] == [("sealr", "1")]
    assert registered.registration.aliases == ("challenger", "champion")


@pytest.mark.slow
def test_the_input_example_names_no_user(registered):
    text = (registered.folder / "input_example.json").read_text()
    assert "unknown user" in text and not any(f'"{user}"' in text for user in USERS)


def test_requirements_are_what_serving_needs_pinned_to_what_is_installed(parts, tmp_path):
    lines = requirements(parts.config, 1.0)
    assert all("==" in line and "+" not in line for line in lines)
    assert f"transformers=={importlib.metadata.version('transformers')}" in lines
    names = {line.partition("==")[0] for line in lines}
    assert not names & {"prefect", "great-expectations", "optuna", "matplotlib", "bitsandbytes", "gguf"}

    def more(weight=1.0, **rerank):
        config = replace(parts.config, rerank=replace(parts.config.rerank, **rerank))
        config = replace(config, registry=replace(config.registry, include_base=False))
        return {line.partition("==")[0] for line in requirements(config, weight)} - names

    assert more() == set() and {"bitsandbytes"} <= more(quantization="nf4")
    converted = Path(shutil.copytree(parts.base, tmp_path / "converted"))
    write_json({"file": "model.Q4_1.gguf"}, converted / "source.json")
    assert weights.resolve(str(converted)) == converted
    assert more(base=str(converted)) == {"gguf"} and more(0.0, base=str(converted)) == set()


@pytest.mark.slow
def test_it_answers_from_its_own_code_without_a_checkout_or_an_installed_package(registered, tmp_path):
    """-S leaves out .pth files, and with them an editable installation."""
    answer = ask([sys.executable, "-S"], registered.folder, tmp_path, PYTHONPATH=sysconfig.get_path("purelib"))
    assert Path(answer["code"]).is_relative_to(registered.folder)
    expected = mlflow.pyfunc.load_model(str(registered.folder)).predict(pd.DataFrame({"user": ["u3"]}), {"top_k": 4})
    assert answer["answers"][0]["items"] == expected["items"][0] and "LLM #" in answer["answers"][0]["reasons"][0]


@pytest.mark.slow
def test_it_answers_where_nothing_but_its_requirements_is_installed(registered, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    if uv := shutil.which("uv"):  # it keeps unpacked packages, so a second run takes seconds
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(tmp_path / "venv")], check=True)
        command = [uv, "pip", "install", "-q", "--python", str(python)]
    else:
        venv.create(tmp_path / "venv", with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command += ["-r", str(registered.folder / "requirements.txt")]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    if installed.returncode:
        pytest.skip(f"no package index can be reached: {installed.stderr.strip()[-300:]}")
    answer = ask([str(python)], registered.folder, tmp_path)
    assert answer["training"] == [] and "LLM #" in answer["answers"][0]["reasons"][0]
