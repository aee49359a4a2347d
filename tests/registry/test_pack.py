"""Packing real (toy-sized) parts and loading them elsewhere."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sealr import weights
from sealr.config import Config, DataConfig, LabelConfig, RegistryConfig, RerankConfig, RetrieveConfig
from sealr.data.sequences import Sequences
from sealr.data.tables import write_table
from sealr.registry.composite import Recommender, pack
from sealr.registry.package import histories
from sealr.rerank.finetune import finetune
from sealr.rerank.llm import AdapterError
from sealr.rerank.prompts import Request
from sealr.retrieve.train import train


@pytest.fixture(scope="module")
def parts(tmp_path_factory, toy_llama, toy_labeller):
    """(folder of a base model of its own, configuration, what pack takes beside folder and configuration)."""
    folder = tmp_path_factory.mktemp("parts")
    base = shutil.copytree(toy_llama, folder / "base")
    walks = [[(start + step) % 12 + 1 for step in range(6)] for start in range(24)]
    sequences = Sequences(
        [f"u{n}" for n in range(24)], [f"i{n:02d}" for n in range(12)], np.concatenate(walks), np.arange(25) * 6
    )
    retrieve = RetrieveConfig(hidden=8, layers=1, max_len=6, epochs=2, eval_every=1, pool=10)
    rerank = RerankConfig(base=str(base), candidates=10, epochs=1, lr=0.01, batch_size=4, top_k=3)
    config = Config(
        DataConfig("toy"), LabelConfig(str(toy_labeller)), retrieve, rerank, registry=RegistryConfig(include_base=True)
    )
    train(retrieve, sequences, folder / "retriever")
    prompts = [Request([3, 4], [2, -1], [7, 8, 9], answer=[7]) for _ in range(12)]
    finetune(prompts[:8], prompts[8:], rerank, "products", folder / "adapter")
    items = pd.DataFrame({"item": sequences.items, "title": None, "brand": None, "categories": None})
    write_table(items, folder / "items.parquet", "items")
    known = histories(sequences, np.zeros(len(sequences.flat), dtype=np.int64))
    return base, config, (folder / "retriever", folder / "adapter", folder / "items.parquet", known)


LOAD = """
import json, sys
from pathlib import Path
import pandas as pd
from sealr.registry.composite import Recommender
answers = Recommender.load(Path(sys.argv[1])).predict(pd.DataFrame([{"user": "u3"}]), {"top_k": 4})
print(json.dumps(answers.to_dict("records")))
"""


def test_a_model_with_its_base_answers_in_a_clean_process_without_the_original(parts, tmp_path):
    base, config, more = parts
    pack(tmp_path / "model", config, 1.0, *more)
    expected = Recommender.load(tmp_path / "model").predict(pd.DataFrame([{"user": "u3"}]), {"top_k": 4}).to_dict("records")
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
    base, config, more = parts
    pack(tmp_path / "model", replace(config, registry=RegistryConfig(include_base=False)), 1.0, *more)
    settings = base / "config.json"
    before = settings.read_text()
    try:
        settings.write_text(before.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
        weights.digest.cache_clear()
        with pytest.raises(AdapterError, match="include_base"):
            Recommender.load(tmp_path / "model")
    finally:
        settings.write_text(before)
        weights.digest.cache_clear()
