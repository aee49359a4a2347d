"""Registering a model in MLflow: packed folder, signature, input example, requirements, tags and aliases."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array

from sealr import resources
from sealr import weights as model_weights
from sealr.config import to_dict
from sealr.data.manifest import PACKAGE, Manifest, code_digest, text_digest
from sealr.data.sequences import Sequences
from sealr.data.tables import read_json, write_json
from sealr.registry import card, gate, promote
from sealr.registry.drift import Statistics
from sealr.serving.packing import Weights, pack, served
from sealr.serving.request import LISTS, Filters
from sealr.settings import Config

log = logging.getLogger(__name__)


def signature(exclude_seen: bool) -> ModelSignature:
    """exclude_seen: the default of the parameter with this name.

    ``history`` is a list of {item, text or sentiment}. Like the filters, it is declared as any type: MLflow cannot
    convert a column with missing values. `sealr.serving.request` checks it.
    """
    texts, numbers = Array(DataType.string), Array(DataType.double)
    answer = {"items": texts, "titles": texts, "scores": numbers, "reasons": texts, "warnings": texts}
    user, flag = ColSpec(DataType.string, "user", required=False), DataType.boolean
    params: list[tuple[str, DataType, Any]] = [("top_k", DataType.long, 10), ("exclude_seen", flag, exclude_seen)]
    params += [("explain", flag, False), ("satisfaction_weight", DataType.double, 1.0), ("available_only", flag, None)]
    lists = [ParamSpec(name, DataType.string, [], (-1,)) for name in LISTS]  # MLflow has no null list: empty is none
    names = ["history", *Filters.model_fields]
    return ModelSignature(
        inputs=Schema([user, *(ColSpec(AnyType(), name, required=False) for name in names)]),
        outputs=Schema([user, *(ColSpec(kind, name) for name, kind in answer.items())]),
        params=ParamSchema([*(ParamSpec(*param) for param in params), *lists]),
    )


def register_model(
    config: Config,
    sequences: Sequences,
    feelings: np.ndarray,
    stars: np.ndarray | None,
    known: pd.DataFrame,
    evidence: gate.Evidence,
    statistics: Statistics,
    stages: Mapping[str, Manifest],
    hold: str = "",
) -> promote.Registration:
    """Logs the model to the active run, registers a version unless the same exists, and lets the gate decide.

    feelings (interactions, 2), stars (interactions,): aligned with ``sequences.flat``; with them the gate asks the
    champion. known: `histories` to store. stages: the manifests reviews, labels, satisfaction, candidates (the
    retriever), adapter, rankings, results and those of the refit. evidence, statistics: stored with the model for later
    challengers. hold: why no version may be promoted now.
    """
    packing = [config.registry.include_base, config.registry.users]  # the rest of the section does not change the model
    settings = {"config": to_dict(config) | {"registry": packing}, "code": code_digest((".",))}
    content = text_digest({name: manifest.digest for name, manifest in stages.items()} | settings)
    version = promote.find(config.registry.name, content)
    if version:
        log.info("register: unchanged, reusing version %s", version)
    else:
        fusion, metrics = read_json(stages["rankings"].path("fusion.json")), stages["rankings"].metrics
        weights = Weights(fusion["weight"], fusion["satisfaction_weight"])
        results = stages["results"].path("results.md").read_text(encoding="utf-8")
        figures = read_json(stages["results"].path("results.json"))
        about = card.model_card(config, stages, fusion, results, figures, statistics, len(known), evidence)
        folders = {name: manifest.folder for name, manifest in served(stages).items()}
        with tempfile.TemporaryDirectory() as temporary:
            packed, notes = Path(temporary) / "model", Path(temporary) / gate.NOTES
            pack(packed, config, weights, folders, known)
            kept = evidence if config.registry.users == "plain" else gate.with_salt(evidence)
            write_json(asdict(kept), notes / gate.EVIDENCE)
            write_json(asdict(statistics), notes / gate.STATISTICS)
            (notes / gate.CARD).write_text(about, encoding="utf-8")
            made = {n: {"stage": m.stage, "key": m.key, "digest": m.digest} for n, m in sorted(stages.items())}
            write_json(made, notes / gate.STAGES)
            logged = log_packed(config, packed, notes, fusion["weight"], sequences.items)
        tags = {
            promote.METRIC: str(metrics["valid_ndcg@10"]),
            promote.DATA: config.data.name,
            promote.CONTENT: content,
            "sealr.base": config.rerank.base,
            "sealr.fusion_weight": str(fusion["weight"]),
        }
        tags[promote.STAGES] = " ".join(sorted({manifest.key for manifest in stages.values()}))
        name = config.registry.name
        version = promote.create(name, logged.model_uri, logged.run_id, tags, card.description(about), logged.model_id)
    mlflow.set_tags({"sealr.version": version})
    resamples = config.evaluate.bootstrap
    judge = partial(
        gate.judge, evidence, sequences=sequences, feelings=feelings, stars=stars, resamples=resamples, hold=hold
    )
    return promote.assign_aliases(config.registry.name, version, judge)


def log_packed(config: Config, packed: Path, notes: Path, weight: float, items: list[str]) -> ModelInfo:
    """Logs a packed folder and its notes to the active run. weight: of the LLM. items: for the input example."""
    return mlflow.pyfunc.log_model(
        name="model",
        python_model=str(PACKAGE / "serving" / "pyfunc.py"),
        artifacts={"sealr": str(packed), gate.NOTES: str(notes)},
        code_paths=[str(PACKAGE)],
        pip_requirements=requirements(config, weight),
        signature=signature(config.retrieve.exclude_seen),
        input_example=(example(items), {"top_k": 5}),
        metadata={"data": config.data.name, "base": config.rerank.base},
    )


def example(items: list[str]) -> pd.DataFrame:
    """Two requests that warm a server up and contain no user's data: a new history and an unknown user.

    The first one asks labeller, retriever and LLM.
    """
    history = [{"item": items[0], "text": "I love it!"}, {"item": items[-1], "sentiment": -2}]
    return pd.DataFrame({"user": [None, "unknown user"], "history": [history, None]})


def requirements(config: Config, weight: float) -> list[str]:
    """What loading and asking the model needs, pinned to the installed versions. weight: of the LLM in the fusion."""
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in resources.requirements()]
    if weight and config.rerank.quantization == "nf4":
        names += ["accelerate", "bitsandbytes"]
    if weight and not config.registry.include_base:
        source = model_weights.resolve(config.rerank.base) / "source.json"  # there if a package carried the weights
        names += ["gguf"] if source.is_file() and read_json(source)["file"].endswith(".gguf") else []
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]  # no index has +cpu or +cu130
