"""A retriever as ONNX, beside the ids of its items, and proof that it answers as the model does."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sealr.data.tables import write_json
from sealr.export import ask_retriever
from sealr.export.graph import Graph
from sealr.retrieve.models.fusion import parts_of
from sealr.retrieve.retriever import Retriever
from sealr.settings import VECTOR_MODELS

TOLERANCE = 1e-4  # of the standard deviation of a history's scores
TOP = 10  # places that must agree
LIBRARIES = ("torch.onnx", "onnxscript", "onnx_ir")  # their loggers tell every step


class ExportError(ValueError):
    """What was written does not answer as the model does; nothing is left of it."""


@dataclass(frozen=True)
class History:
    """What a user has done: item indices (H,) and feelings (H, 2), sentiment class and expected, NaN if unknown."""

    items: np.ndarray
    feelings: np.ndarray


def write_retriever(retriever: Retriever, histories: Sequence[History], folder: Path) -> dict[str, Any]:
    """Writes retriever.onnx, items.json, retriever.json and ask.py; returns what `compare` found.

    Raises ExportError where the graph does not agree with the model on the histories.
    """
    folder.mkdir(parents=True)
    graph = Graph(retriever).cpu().eval()
    example = [torch.ones(2, min(3, graph.max_len), dtype=torch.int64)]
    if graph.reads_feelings:
        example.append(torch.zeros(*example[0].shape, 2))
    rows, length = torch.export.Dim("histories"), torch.export.Dim("length", max=max(2, graph.max_len))
    with _quiet():
        torch.onnx.export(
            graph,
            tuple(example),
            folder / "retriever.onnx",
            dynamo=True,
            dynamic_shapes={"items": {0: rows, 1: length}}
            | ({"feelings": {0: rows, 1: length}} if graph.reads_feelings else {}),
            input_names=["items", "feelings"][: len(example)],
            output_names=["scores"],
            external_data=True,  # a protocol buffer holds 2 GB at most
            verbose=False,
        )
    write_json(retriever.items, folder / "items.json")
    write_json(card(retriever), folder / "retriever.json")
    shutil.copyfile(ask_retriever.__file__, folder / "ask.py")
    return compare(retriever, ask_retriever.Retriever(folder), histories)


def card(retriever: Retriever) -> dict[str, Any]:
    """What a reader of the graph has to know; ``parts`` says what each part is and its weight in the sum."""
    config, fused = retriever.config, parts_of(retriever.config)
    weights = retriever.model.weights.tolist() if fused else [1.0]
    parts = [
        {"model": part.model, "weight": weight, "trained": part.model in VECTOR_MODELS, "max_len": part.max_len}
        for part, weight in zip(fused or [config], weights, strict=True)
    ]
    return {
        "max_len": config.max_len,
        "feelings": Graph(retriever).reads_feelings,
        "exclude_seen": config.exclude_seen,
        "parts": parts,
        "popularity": [int(count) for count in retriever.popularity[1:]],
    }


def compare(retriever: Retriever, written: ask_retriever.Retriever, histories: Sequence[History]) -> dict[str, Any]:
    """Holds the written graph against the model: the scores of all items, and the TOP best ones, for each history.

    Two items may only change places if their scores differ by no more than the tolerance. Raises ExportError.
    """
    longest, worst = retriever.config.max_len, 0.0
    newest = [History(h.items[-longest:], h.feelings[-longest:]) for h in histories if len(h.items)]
    newest.sort(key=lambda h: len(h.items))
    for length, group in groupby(newest, key=lambda h: len(h.items)):
        rows = list(group)
        items, feelings = np.stack([h.items for h in rows]), np.stack([h.feelings for h in rows]).astype(np.float32)
        wanted = retriever.score(list(items), list(feelings))[:, 1:]  # (B, n_items)
        found = written.scores(items, feelings)[:, 1:]
        spread = np.maximum(wanted.std(axis=1), 1e-6)
        worst = float(np.maximum(worst, (np.abs(found - wanted).max(axis=1) / spread).max()))  # max() would drop NaN
        if not worst <= TOLERANCE:
            raise ExportError(
                f"the exported retriever differs from the model by {worst:.2g} standard deviations at a history of "
                f"{length} items, more than {TOLERANCE:g}; nothing was written"
            )
        for ours, theirs, unit in zip(wanted, found, spread, strict=True):
            best, other = (np.argsort(-scores, kind="stable")[:TOP] for scores in (ours, theirs))
            if (np.abs(ours[best] - ours[other]) > 2 * TOLERANCE * unit).any():
                raise ExportError("the exported retriever ranks other items first; nothing was written")
    return {"histories": len(newest), "largest_difference": worst, "tolerance": TOLERANCE, "top": TOP}


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
