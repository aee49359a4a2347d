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
from sealr.data.sequences import build as build_sequences
from sealr.data.tables import EMOTIONS, write_json, write_table
from sealr.registry import drift, gate
from sealr.registry.package import example, register_model, signature
from sealr.registry.promote import Registration
from sealr.rerank.generative.finetune import Encoder, finetune
from sealr.rerank.llm import load_tokenizer
from sealr.rerank.requests import RerankInput
from sealr.retrieve.train import train
from sealr.satisfaction.learn import Forecast, learn
from sealr.serving.packing import Weights, histories, pack
from sealr.settings import (
    Config,
    DataConfig,
    LabelConfig,
    RegistryConfig,
    RerankConfig,
    RetrieveConfig,
    SatisfactionConfig,
)

USERS = sorted(f"u{n}" for n in range(24))
ITEMS = [f"i{n:02d}" for n in range(12)]
CATEGORIES = ["Tools"] * 4 + ["Tools, Garden"] * 4 + ["Home"] * 4  # of the items, in the order of ITEMS


@dataclass(frozen=True)
class Parts:
    """What `pack` takes."""

    base: Path  # the base model, a folder of its own
    config: Config
    sequences: Sequences
    stages: Mapping[str, Path]  # folders of reviews, candidates, adapter and satisfaction
    stars: np.ndarray  # (interactions,) of all reviews, as the forecast reads them
    histories: pd.DataFrame

    @property
    def retriever(self) -> Path:
        return self.stages["candidates"]

    def pack(self, folder: Path, weight: float = 1.0, satisfaction: float = 0.0) -> Path:
        """weight: of the LLM."""
        pack(folder, self.config, Weights(weight, satisfaction), self.stages, self.histories)
        return folder


def toy_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reviews and labels: each user walks six items on. Items of even number please; every fifth review has no stars.

    Who is pleased feels joy, and who is not, anger.
    """
    steps = [(user, start + step, step) for start, user in enumerate(USERS) for step in range(6)]
    reviews = pd.DataFrame(steps, columns=["user", "number", "position"])
    number = reviews.pop("number")
    pleased = (number % len(ITEMS) % 2 == 0).to_numpy()
    reviews["item"] = [ITEMS[n % len(ITEMS)] for n in number]
    reviews["rating"] = np.where(reviews.index % 5 == 4, np.nan, np.where(pleased, 5, 2) - reviews.index % 2)
    labels = reviews[["user", "position"]].assign(
        emotion=np.where(pleased, "joy", "anger"), sentiment=np.where(pleased, 2, -2)
    )
    labels["expected"] = labels["sentiment"] * np.float32(0.8)
    named = {f"p_{emotion}": np.where(labels["emotion"] == emotion, 0.8, 0.01) for emotion in EMOTIONS}
    return reviews, labels.assign(**named)


def toy_parts(folder: Path, llama: Path, labeller: Path) -> Parts:
    base = Path(shutil.copytree(llama, folder / "base"))
    reviews, labels = toy_tables()
    sequences = build_sequences(reviews)
    retrieve = RetrieveConfig(hidden=8, layers=1, max_len=6, epochs=2, eval_every=1, n_retrieved=10)
    rerank = RerankConfig("generative", base=str(base), n_reranked=10, epochs=1, lr=0.01, batch_size=4, top_k=3)
    config = Config(
        data=DataConfig("toy"),
        label=LabelConfig(str(labeller)),
        retrieve=retrieve,
        rerank=rerank,
        registry=RegistryConfig(include_base=True),
    )
    stages = {name: folder / name for name in ("reviews", "candidates", "adapter", "satisfaction")}
    stages["satisfaction"].mkdir()
    train(retrieve, sequences, stages["candidates"])
    prompts = [RerankInput([3, 4], [[2, 1.5], [-1, -0.5]], [7, 8, 9], answer=[7]) for _ in range(12)]
    encoder = Encoder(load_tokenizer(rerank.base), rerank, "products")
    finetune(prompts[:8], prompts[8:], rerank, encoder, stages["adapter"])
    items = pd.DataFrame({"item": sequences.items, "title": None, "brand": None, "categories": CATEGORIES})
    write_table(items, stages["reviews"] / "items.parquet", "items")
    learn(reviews, labels, SatisfactionConfig(), None, stages["satisfaction"])
    stars = Forecast.load(stages["satisfaction"]).stars
    known = histories(sequences, neutral(sequences), stars)
    return Parts(base, config, sequences, stages, stars, known)


def neutral(sequences: Sequences) -> np.ndarray:
    """Feelings: every review is neutral."""
    return np.zeros((len(sequences.flat), 2), dtype=np.float32)


def toy_pyfunc(parts: Parts, folder: Path, weight: float = 1.0, satisfaction: float = 0.5) -> Path:
    """The model in MLflow's format, as `register_model` logs it."""
    packed = parts.pack(folder.with_name(folder.name + "-packed"), weight, satisfaction)
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(PACKAGE / "serving" / "pyfunc.py"),
        artifacts={"sealr": str(packed)},
        pip_requirements=[],
        signature=signature(exclude_seen=True),
        input_example=(example(parts.sequences.items), {"top_k": 5}),
    )
    return folder


def toy_registration(parts: Parts, state: Path, weight: float = 1.0, satisfaction: float = 0.5) -> Registration:
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

        return run_stage(name, "toy", {"weight": [weight, satisfaction]}, {}, ("registry",), work, state)

    def files(name: str) -> dict[str, Path]:
        return {path.name: path for path in parts.stages[name].iterdir() if path.name != "manifest.json"}

    count = len(USERS)
    row = {"protocol": "full", "users": count, "HR@10": 0.5, "NDCG@10": 0.25}
    results = {"rows": [row | {"system": system} for system in ("retriever", "fused")], "differences": {}}
    fusion = {"weight": weight, "satisfaction_weight": satisfaction, "validation_users": USERS, "gate_users": USERS}
    stages = {
        "reviews": stage("ingest", files("reviews")),
        "labels": stage("label", {}),
        "satisfaction": stage("satisfaction", files("satisfaction"), {"reviews": int(np.isfinite(parts.stars).sum())}),
        "candidates": stage("retrieve", files("candidates")),
        "adapter": stage("finetune", {"adapter": parts.stages["adapter"] / "adapter"}, {"train_users": 8}),
        "rankings": stage("rerank", {"fusion.json": fusion}, **{"valid_ndcg@10": 0.5, "valid_ndcg@10_retriever": 0.4}),
        "results": stage("evaluate", {"results.md": "| system | NDCG@10 |", "results.json": results}),
    }
    statistics = drift.Statistics(
        {"joy": count}, {"2": count}, dict.fromkeys(ITEMS, 12), {"6": count}, {"2014-01": count}
    )
    judges = [f"judge {n}" for n in range(gate.FEWEST)]
    evidence = gate.Evidence("the same", 0.25, judges, [2] * len(judges), [0] * len(judges), {})
    felt = neutral(parts.sequences)
    given = (parts.stars, parts.histories, evidence, statistics, stages)
    return register_model(parts.config, parts.sequences, felt, *given)
