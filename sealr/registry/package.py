"""Logging the composite to MLflow: packed folder, signature, input example, pinned requirements, registration."""

from __future__ import annotations

import logging
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array

from sealr.config import to_dict
from sealr.data.manifest import PACKAGE, Manifest, code_digest, text_digest
from sealr.data.sequences import Sequences
from sealr.data.tables import read_json, write_json
from sealr.registry import card, gate, promote
from sealr.serving.recommender import pack
from sealr.registry.drift import Statistics
from sealr.settings import Config

log = logging.getLogger(__name__)


def signature(exclude_seen: bool) -> ModelSignature:
    """Of a model whose answers leave out the items of a history, or do not, unless a call says otherwise.

    history is a list of {item, text or sentiment}. Its type is left open, because MLflow cannot convert a list column in which
    some rows have none; composite.py checks it and says what is wrong in a sentence.
    """
    texts = Array(DataType.string)
    answer = {"items": texts, "titles": texts, "scores": Array(DataType.double), "reasons": texts, "warnings": texts}
    params = [("top_k", DataType.long, 10), ("exclude_seen", DataType.boolean, exclude_seen), ("explain", DataType.boolean, False)]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "user", required=False), ColSpec(AnyType(), "history", required=False)]),
        outputs=Schema([ColSpec(DataType.string, "user", required=False), *(ColSpec(t, name) for name, t in answer.items())]),
        params=ParamSchema([ParamSpec(*param) for param in params]),
    )


def register_model(
    config: Config,
    sequences: Sequences,
    sentiments: np.ndarray,
    expected: np.ndarray,
    evidence: gate.Evidence,
    statistics: Statistics,
    stages: Mapping[str, Manifest],
    hold: str = "",
) -> promote.Registration:
    """Packs the parts, logs them as one model of the active run, registers a version, unless the same one is there, and lets
    the gate decide who is champion.

    stages: manifests named reviews, labels, candidates (the retriever), adapter, rankings and results.
    sentiments, expected (interactions,): class and expected sentiment, aligned with ``sequences.flat``.
    evidence, statistics: kept beside the model for later challengers. hold: why nobody may be promoted now.
    """
    name = config.registry.name
    made_of = {name: manifest.digest for name, manifest in stages.items()} | {
        "config": to_dict(config) | {"registry": config.registry.include_base},  # the rest of it says how to register, not what
        "code": code_digest((".",)),
    }
    content = text_digest(made_of)
    version = promote.find(name, content)
    if version:
        log.info("register: unchanged, reusing version %s", version)
    else:
        version = _log_and_create(config, sequences, sentiments, expected, evidence, statistics, stages, content)
    mlflow.set_tags({"sealr.version": version})
    judge = partial(
        gate.judge,
        evidence,
        sequences=sequences,
        sentiments=sentiments,
        expected=expected,
        resamples=config.evaluate.bootstrap,
        hold=hold,
    )
    return promote.assign_aliases(name, version, judge)


def _log_and_create(
    config: Config,
    sequences: Sequences,
    sentiments: np.ndarray,
    expected: np.ndarray,
    evidence: gate.Evidence,
    statistics: Statistics,
    stages: Mapping[str, Manifest],
    content: str,
) -> str:
    fusion, metrics = read_json(stages["rankings"].path("fusion.json")), stages["rankings"].metrics
    results = stages["results"].path("results.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:  # its own: another job may be packing at the same time
        packed, notes = Path(temporary) / "model", Path(temporary) / gate.NOTES
        items = stages["reviews"].path("items.parquet")
        known = histories(sequences, sentiments, expected)
        pack(packed, config, fusion["weight"], stages["candidates"].folder, stages["adapter"].folder, items, known)
        described = card.model_card(config, stages, fusion, results, statistics, len(known))
        write_json(asdict(evidence), notes / gate.EVIDENCE)
        write_json(asdict(statistics), notes / gate.STATISTICS)
        (notes / gate.CARD).write_text(described, encoding="utf-8")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PACKAGE / "serving" / "pyfunc.py"),
            artifacts={"sealr": str(packed), gate.NOTES: str(notes)},
            code_paths=[str(PACKAGE)],
            pip_requirements=requirements(),
            signature=signature(config.retrieve.exclude_seen),
            input_example=(example(sequences), {"top_k": 5}),
            metadata={"data": config.data.name, "base": config.rerank.base},
        )
    tags = {
        promote.METRIC: str(metrics["valid_ndcg@10"]),
        promote.DATA: config.data.name,
        promote.CONTENT: content,
        "sealr.base": config.rerank.base,
        "sealr.fusion_weight": str(fusion["weight"]),
    }
    tags |= {promote.DIGEST + made: manifest.digest[:16] for made, manifest in stages.items()}
    tags |= {promote.STAGE + manifest.stage: manifest.key for manifest in stages.values()}
    run_id = mlflow.active_run().info.run_id
    return promote.create(config.registry.name, info.model_uri, run_id, tags, card.description(described), info.model_id)


def example(sequences: Sequences) -> pd.DataFrame:
    """Two requests: a user the model knows, and somebody new with a history."""
    new = [{"item": sequences.items[0], "text": "I love it!"}, {"item": sequences.items[-1], "sentiment": -2}]
    return pd.DataFrame({"user": [sequences.users[0], None], "history": [None, new]})


def histories(sequences: Sequences, sentiments: np.ndarray, expected: np.ndarray) -> pd.DataFrame:
    """Every user's whole history: user, items (indices, oldest first), sentiments (classes), expected (NaN without a label)."""
    columns = {"items": sequences.flat, "sentiments": sentiments, "expected": expected}
    stops = sequences.offsets[1:-1]
    return pd.DataFrame({"user": sequences.users} | {name: np.split(values, stops) for name, values in columns.items()})


def requirements() -> list[str]:
    """The project's pinned dependencies, as a served model needs them."""
    project: dict[str, Any] = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    return list(project["project"]["dependencies"])
