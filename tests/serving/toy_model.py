"""A whole model in toy size: trained, fine-tuned and packed in a second or two. Nothing it says is a result."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd

from sealr.data.manifest import PACKAGE, Manifest, StageResult, run_stage
from sealr.data.sequences import Sequences
from sealr.data.tables import write_json, write_table
from sealr.registry import drift, gate
from sealr.registry.package import example, register_model, signature
from sealr.registry.promote import Registration
from sealr.rerank.generative.finetune import Encoder, finetune
from sealr.rerank.llm import load_tokenizer
from sealr.rerank.requests import RerankInput
from sealr.retrieve.train import train
from sealr.serving.packing import histories, pack
from sealr.settings import Config, DataConfig, LabelConfig, RegistryConfig, RerankConfig, RetrieveConfig

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
    retrieve = RetrieveConfig(hidden=8, layers=1, max_len=6, epochs=2, eval_every=1, n_retrieved=10)
    rerank = RerankConfig("generative", base=str(base), n_reranked=10, epochs=1, lr=0.01, batch_size=4, top_k=3)
    config = Config(
        DataConfig("toy"), LabelConfig(str(labeller)), retrieve, rerank, registry=RegistryConfig(include_base=True)
    )
    train(retrieve, sequences, folder / "retriever")
    prompts = [RerankInput([3, 4], [[2, 1.5], [-1, -0.5]], [7, 8, 9], answer=[7]) for _ in range(12)]
    encoder = Encoder(load_tokenizer(rerank.base), rerank, "products")
    finetune(prompts[:8], prompts[8:], rerank, encoder, folder / "adapter")
    items = pd.DataFrame({"item": sequences.items, "title": None, "brand": None, "categories": None})
    write_table(items, folder / "items.parquet", "items")
    known = histories(sequences, neutral(sequences))
    return Parts(base, config, sequences, folder / "retriever", folder / "adapter", folder / "items.parquet", known)


def neutral(sequences: Sequences) -> np.ndarray:
    """Feelings: every review is neutral."""
    return np.zeros((len(sequences.flat), 2), dtype=np.float32)


def toy_pyfunc(parts: Parts, folder: Path, weight: float = 1.0) -> Path:
    """The model in MLflow's format, as `register_model` logs it."""
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(PACKAGE / "serving" / "pyfunc.py"),
        artifacts={"sealr": str(parts.pack(folder.with_name(folder.name + "-packed"), weight))},
        pip_requirements=[],
        signature=signature(exclude_seen=True),
        input_example=(example(parts.sequences.items), {"top_k": 5}),
    )
    return folder


def toy_registration(parts: Parts, state: Path, weight: float = 1.0) -> Registration:
    """Registers the toy as a job does: from stage folders, in the active MLflow run, through the gate."""

    def stage(
        name: str, files: Mapping[str, Path | dict | str], rows: Mapping[str, int] = {}, **metrics: float
    ) -> Manifest:
        def work(folder: Path) -> StageResult:
            for target, content in files.items():
                if isinstance(content, dict):
                    write_json(content, folder / target)
                elif isinstance(content, str):
                    (folder / target).write_text(content)
                else:
                    (shutil.copytree if content.is_dir() else shutil.copyfile)(content, folder / target)
            return StageResult(dict(rows), metrics)

        return run_stage(name, "toy", {"weight": weight}, {}, ("registry",), work, state)

    count = len(USERS)
    fusion = {"weight": weight, "validation_users": USERS}
    stages = {
        "reviews": stage("ingest", {"items.parquet": parts.items}),
        "labels": stage("label", {}),
        "candidates": stage("retrieve", {path.name: path for path in parts.retriever.iterdir()}),
        "adapter": stage("finetune", {"adapter": parts.finetuned / "adapter"}, {"train_users": 8}),
        "rankings": stage("rerank", {"fusion.json": fusion}, **{"valid_ndcg@10": 0.5, "valid_ndcg@10_retriever": 0.4}),
        "results": stage("evaluate", {"results.md": "| system | NDCG@10 |"}),
    }
    statistics = drift.Statistics(
        {"joy": count}, {"2": count}, dict.fromkeys(ITEMS, 12), {"6": count}, {"2014-01": count}
    )
    evidence = gate.Evidence("the same", USERS, [2] * count, [])
    return register_model(parts.config, parts.sequences, neutral(parts.sequences), evidence, statistics, stages)
