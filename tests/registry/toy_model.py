"""A whole model in toy size: trained, fine-tuned and packed in a second or two. Nothing it says is a result."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd

from sealr.config import Config, DataConfig, LabelConfig, RegistryConfig, RerankConfig, RetrieveConfig
from sealr.data.manifest import PACKAGE
from sealr.data.sequences import Sequences
from sealr.data.tables import write_table
from sealr.registry.composite import pack
from sealr.registry.package import SIGNATURE, example, histories
from sealr.rerank.finetune import Encoder, finetune
from sealr.rerank.llm import load_tokenizer
from sealr.rerank.prompts import Request
from sealr.retrieve.train import train

USERS = [f"u{n}" for n in range(24)]
ITEMS = [f"i{n:02d}" for n in range(12)]


@dataclass(frozen=True)
class Parts:
    """What `pack` takes."""

    base: Path  # the base model, a folder of its own
    config: Config
    sequences: Sequences
    retriever: Path
    finetuned: Path
    items: Path
    histories: pd.DataFrame

    def pack(self, folder: Path, weight: float = 1.0) -> Path:
        pack(folder, self.config, weight, self.retriever, self.finetuned, self.items, self.histories)
        return folder


def toy_parts(folder: Path, llama: Path, labeller: Path) -> Parts:
    base = Path(shutil.copytree(llama, folder / "base"))
    walks = [[(start + step) % len(ITEMS) + 1 for step in range(6)] for start in range(len(USERS))]
    sequences = Sequences(USERS, ITEMS, np.concatenate(walks), np.arange(len(USERS) + 1) * 6)
    retrieve = RetrieveConfig(hidden=8, layers=1, max_len=6, epochs=2, eval_every=1, pool=10)
    rerank = RerankConfig("generative", base=str(base), candidates=10, epochs=1, lr=0.01, batch_size=4, top_k=3)
    config = Config(DataConfig("toy"), LabelConfig(str(labeller)), retrieve, rerank, registry=RegistryConfig(include_base=True))
    train(retrieve, sequences, folder / "retriever")
    prompts = [Request([3, 4], [2, -1], [7, 8, 9], answer=[7]) for _ in range(12)]
    encoder = Encoder(load_tokenizer(rerank.base), rerank, "products")
    finetune(prompts[:8], prompts[8:], rerank, encoder, folder / "adapter")
    items = pd.DataFrame({"item": sequences.items, "title": None, "brand": None, "categories": None})
    write_table(items, folder / "items.parquet", "items")
    nothing = np.zeros(len(sequences.flat), dtype=np.int64)
    known = histories(sequences, nothing, nothing.astype(np.float32))
    return Parts(base, config, sequences, folder / "retriever", folder / "adapter", folder / "items.parquet", known)


def toy_pyfunc(parts: Parts, folder: Path, weight: float = 1.0) -> Path:
    """The model in MLflow's format, as `register_model` logs it."""
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(PACKAGE / "registry" / "pyfunc.py"),
        artifacts={"sealr": str(parts.pack(folder.with_name(folder.name + "-packed"), weight))},
        pip_requirements=[],
        signature=SIGNATURE,
        input_example=(example(parts.sequences), {"top_k": 5, "exclude_seen": True}),
    )
    return folder
