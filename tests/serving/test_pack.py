"""Packing real (toy-sized) parts and loading them elsewhere."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sealr import __version__, cli, weights
from sealr.data.privacy import SaltError
from sealr.data.tables import read_json, write_json
from sealr.explore import view
from sealr.rerank.llm import AdapterError
from sealr.serving.packing import FormatError
from sealr.serving.recommender import Recommender
from sealr.serving.request import BadRequest
from sealr.settings import RegistryConfig
from tests.serving.toy_model import USERS

LOAD = """
import json, sys
from pathlib import Path
import pandas as pd
from sealr.serving.recommender import Recommender
answers = Recommender.load(Path(sys.argv[1])).predict(pd.DataFrame([{"user": "u3"}]), {"top_k": 4})
print(json.dumps(answers.to_dict("records")))
"""


@pytest.mark.slow
def test_a_model_with_its_base_answers_in_a_clean_process_without_the_original(parts, tmp_path):
    base = parts.base
    parts.pack(tmp_path / "model")
    expected = (
        Recommender.load(tmp_path / "model").predict(pd.DataFrame([{"user": "u3"}]), {"top_k": 4}).to_dict("records")
    )
    hidden = base.rename(base.with_name("gone"))
    try:
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(tmp_path / "model")], capture_output=True, text=True, cwd=root, timeout=120
        )
    finally:
        hidden.rename(base)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected and len(expected[0]["items"]) == 4
    assert "LLM #" in expected[0]["reasons"][0]


def test_a_base_model_that_is_not_the_trained_one_is_refused(parts, tmp_path):
    named = replace(parts, config=replace(parts.config, registry=RegistryConfig(include_base=False)))
    named.pack(tmp_path / "model")
    settings = parts.base / "config.json"
    before = settings.read_text()
    try:
        settings.write_text(before.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
        weights.digest.cache_clear()
        with pytest.raises(AdapterError, match="include_base"):
            Recommender.load(tmp_path / "model")
    finally:
        settings.write_text(before)
        weights.digest.cache_clear()


def renamed(folder):
    values = read_json(folder / "model.json")
    values["config"]["retrieve"]["pool"] = values["config"]["retrieve"].pop("n_retrieved")
    write_json(values, folder / "model.json")
    why = "retrieve.pool was renamed: use retrieve.n_retrieved"
    return f"has settings that this release ({__version__}) does not read ({why})"


def one_number_of_epochs(folder):
    path = folder / "retriever" / "retriever.json"
    write_json(read_json(path) | {"epochs": 3}, path)
    return f"has the format of SEALR 0.1, which this release ({__version__}) does not read"


@pytest.mark.parametrize("older", [renamed, one_number_of_epochs])
def test_a_model_of_another_release_is_one_sentence(older, parts, tmp_path, capsys):
    folder, out = parts.pack(tmp_path / "model", weight=0.0), str(tmp_path / "out")
    message = older(folder)
    for command in (["recommend", "--user", "u3"], ["score", "--out", f"{out}.csv"], ["export", "--out", out]):
        with pytest.raises(SystemExit) as end:
            cli.main([*command, "--model", str(folder)])
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.startswith(f"error: the model {message}: train and register it again")
        assert len(said.splitlines()) == 1 and not list(tmp_path.glob("out*"))
    with pytest.raises(FormatError, match="does not read"):
        view.load(str(folder))  # sealr explore


def test_another_labeller_than_the_models_is_warned_of(parts, tmp_path, caplog):
    folder = parts.pack(tmp_path / "model", weight=0.0)
    Recommender.load(folder)
    assert "labelled by" not in caplog.text
    write_json(read_json(folder / "model.json") | {"labeller": "another 0123"}, folder / "model.json")
    Recommender.load(folder)
    assert "the model's data by another 0123" in caplog.text


def hidden(parts, users):
    return replace(parts, config=replace(parts.config, registry=replace(parts.config.registry, users=users)))


def ask(folder, user, params):
    return Recommender.load(folder).predict(pd.DataFrame([{"user": user}]), params).to_dict("records")[0]


def test_salted_ids_name_nobody_and_are_found_all_the_same(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    plain = ask(parts.pack(tmp_path / "plain", weight=0.0), "u3", {"top_k": 4})
    folder = hidden(parts, "salted").pack(tmp_path / "model", weight=0.0)
    stored = pd.read_parquet(folder / "histories.parquet")["user"].tolist()
    assert len(stored) == 24 and not set(stored) & set(USERS) and stored == sorted(stored)
    assert not any(user.encode() in path.read_bytes() for path in folder.glob("*.json") for user in ("u12", "u23"))
    assert ask(folder, "u3", {"top_k": 4}) == plain
    with pytest.raises(BadRequest, match="registry.users=salted.: name the users"):
        assert Recommender.load(folder).users
    monkeypatch.setenv("SEALR_SALT", "another")
    with pytest.raises(SaltError, match="another salt: set SEALR_SALT"):
        Recommender.load(folder)
    monkeypatch.delenv("SEALR_SALT")
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(SaltError, match="set SEALR_SALT to the salt of the machine that made it"):
        Recommender.load(folder)
    monkeypatch.setenv("SEALR_SALT", (tmp_path / "state" / "salt").read_text())
    assert ask(folder, "u3", {"top_k": 4}) == plain


def test_a_model_without_histories_says_so(parts, tmp_path):
    folder = hidden(parts, "none").pack(tmp_path / "model", weight=0.0)
    assert pd.read_parquet(folder / "histories.parquet").empty
    assert ask(folder, "u3", {"top_k": 4})["warnings"] == [
        "the model keeps no histories of users and no history was given: popular items instead"
    ]
