"""Logging the composite to MLflow: packed folder, signature, input example, pinned requirements, registration."""

from __future__ import annotations

import logging
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array

from sealr.config import Config, to_dict
from sealr.data.manifest import PACKAGE, Manifest, code_digest, text_digest
from sealr.data.sequences import Sequences
from sealr.data.tables import read_json
from sealr.registry import promote
from sealr.registry.composite import pack

log = logging.getLogger(__name__)

# history is a list of {item, text or sentiment}. Its type is left open, because MLflow cannot convert a list column in
# which some rows have none; composite.py checks it and says what is wrong in a sentence.
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "user", required=False), ColSpec(AnyType(), "history", required=False)]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "user", required=False),
            ColSpec(Array(DataType.string), "items"),
            ColSpec(Array(DataType.string), "titles"),
            ColSpec(Array(DataType.double), "scores"),
            ColSpec(Array(DataType.string), "reasons"),
            ColSpec(Array(DataType.string), "warnings"),
        ]
    ),
    params=ParamSchema([ParamSpec("top_k", DataType.long, 10), ParamSpec("exclude_seen", DataType.boolean, True)]),
)


def register_model(
    config: Config, sequences: Sequences, sentiments: np.ndarray, stages: Mapping[str, Manifest]
) -> promote.Registration:
    """Packs the parts, logs them as one model of the active run, and registers a version, unless the same one is there.

    stages: manifests named candidates (the retriever), adapter, rankings and reviews.
    """
    made_of = {name: manifest.digest for name, manifest in stages.items()} | {
        "config": to_dict(config),
        "code": code_digest((".",)),
    }
    content = text_digest(made_of)
    version = promote.find(config.registry.name, content)
    if version:
        log.info("register: unchanged, reusing version %s", version)
    else:
        version = _log_and_create(config, sequences, sentiments, stages, content)
    mlflow.set_tags({"sealr.version": version})
    return promote.settle(config.registry.name, version)


def _log_and_create(
    config: Config, sequences: Sequences, sentiments: np.ndarray, stages: Mapping[str, Manifest], content: str
) -> str:
    fusion, metrics = read_json(stages["rankings"].path("fusion.json")), stages["rankings"].metrics
    with tempfile.TemporaryDirectory() as temporary:  # its own: another job may be packing at the same time
        packed = Path(temporary) / "model"
        items = stages["reviews"].path("items.parquet")
        pack(
            packed,
            config,
            fusion["weight"],
            stages["candidates"].folder,
            stages["adapter"].folder,
            items,
            histories(sequences, sentiments),
        )
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PACKAGE / "registry" / "pyfunc.py"),
            artifacts={"sealr": str(packed)},
            code_paths=[str(PACKAGE)],
            pip_requirements=requirements(),
            signature=SIGNATURE,
            input_example=(example(sequences), {"top_k": 5, "exclude_seen": True}),
            metadata={"data": config.data.name, "base": config.rerank.base},
        )
    tags = {
        promote.METRIC: str(metrics["valid_ndcg@10"]),
        promote.DATA: config.data.name,
        promote.VALIDATION: text_digest([stages["reviews"].digest, fusion["validation_users"]])[:16],
        promote.CONTENT: content,
        "sealr.base": config.rerank.base,
        "sealr.fusion_weight": str(fusion["weight"]),
    }
    description = (
        f"{config.data.name}, {config.rerank.base}: validation NDCG@10 {metrics['valid_ndcg@10']:.4f} "
        f"(retriever alone {metrics['valid_ndcg@10_retriever']:.4f}), fusion weight {fusion['weight']:g}"
    )
    return promote.create(config.registry.name, info.model_uri, mlflow.active_run().info.run_id, tags, description)


def example(sequences: Sequences) -> pd.DataFrame:
    """Two requests: a user the model knows, and somebody new with a history."""
    new = [{"item": sequences.items[0], "text": "I love it!"}, {"item": sequences.items[-1], "sentiment": -2}]
    return pd.DataFrame({"user": [sequences.users[0], None], "history": [None, new]})


def histories(sequences: Sequences, sentiments: np.ndarray) -> pd.DataFrame:
    """Every user's whole history: user, items (indices, oldest first), sentiments (classes)."""
    stops = sequences.offsets[1:-1]
    return pd.DataFrame(
        {"user": sequences.users, "items": np.split(sequences.flat, stops), "sentiments": np.split(sentiments, stops)}
    )


def requirements() -> list[str]:
    """The project's pinned dependencies, as a served model needs them."""
    project: dict[str, Any] = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    return list(project["project"]["dependencies"])
