"""Packing real (toy-sized) parts and loading them elsewhere."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sealr import weights
from sealr.data.tables import read_json, write_json
from sealr.rerank.llm import AdapterError
from sealr.serving.recommender import Recommender
from sealr.settings import RegistryConfig

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


def test_another_labeller_than_the_models_is_warned_of(parts, tmp_path, caplog):
    folder = parts.pack(tmp_path / "model", weight=0.0)
    Recommender.load(folder)
    assert "labelled by" not in caplog.text
    write_json(read_json(folder / "model.json") | {"labeller": "another 0123"}, folder / "model.json")
    Recommender.load(folder)
    assert "the model's data by another 0123" in caplog.text
