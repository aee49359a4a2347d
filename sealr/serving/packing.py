"""The folder of a packed model: safetensors, JSON and Parquet files that load without the data set."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr import weights
from sealr.config import to_dict
from sealr.data.sequences import Sequences
from sealr.data.tables import write_json
from sealr.emotion.backends import pinned_name
from sealr.emotion.labeller import labeller_id
from sealr.redact import redacted
from sealr.rerank.llm import ADAPTER
from sealr.settings import Config


def pack(
    folder: Path,
    config: Config,
    weight: float,
    retriever: Path,
    finetuned: Path | None,
    items: Path,
    histories: pd.DataFrame,
) -> None:
    """Writes a folder that `Recommender.load` reads.

    weight: of the LLM in the fusion. retriever, finetuned: stage folders; without the second, ``weight`` must be 0.
    items: the items table. histories: see the function of that name.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    unused = shutil.ignore_patterns("*.parquet", "*.npy", "history.json", "manifest.json", ".*")
    shutil.copytree(retriever, folder / "retriever", ignore=unused)
    shutil.copy(items, folder / "items.parquet")
    histories.to_parquet(folder / "histories.parquet", index=False)
    values: dict[str, Any] = {"fusion_weight": weight, "labeller": labeller_id(config.label)}
    if finetuned:
        shutil.copytree(finetuned / ADAPTER, folder / ADAPTER)
        values["base_digest"] = weights.digest(config.rerank.base)
        if config.registry.include_base:
            shutil.copytree(weights.resolve(config.rerank.base), folder / "base")
    config = replace(config, label=replace(config.label, model=pinned_name(config.label.model)))
    write_json({"config": redacted(to_dict(config))} | values, folder / "model.json")


def histories(sequences: Sequences, feelings: np.ndarray) -> pd.DataFrame:
    """Each user's whole history: user, items (indices, oldest first), sentiments and expected (floats, NaN unknown)."""
    columns = {"items": sequences.flat, "sentiments": feelings[:, 0], "expected": feelings[:, 1]}
    stops = sequences.offsets[1:-1]
    return pd.DataFrame({"user": sequences.users} | {name: np.split(v, stops) for name, v in columns.items()})
