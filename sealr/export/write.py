"""A model as a folder of files that other tools read; docs/export.md says what is in it and what is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sealr.config import from_dict
from sealr.data.tables import read_table, write_json
from sealr.export import pages
from sealr.export.llm import write_llm
from sealr.export.retriever import ExportError, History, write_retriever
from sealr.retrieve.retriever import load
from sealr.serving.packing import HISTORIES, Weights, read_config, read_values
from sealr.settings import Config
from sealr.weights import quiet

__all__ = ["ExportError", "export"]
CARD = "export.json"  # a folder with this file is an export
SAMPLE = 256  # histories that the model and what is written are both asked about
NEEDED = ("onnx", "onnxscript", "onnxruntime")  # torch imports the first two on its own, and says less


def export(source: str, packed: Path, out: Path, llm: bool = True, overwrite: bool = False) -> dict[str, Any]:
    """Writes ``out`` and returns its card, export.json.

    source: the name of the model, for the card. packed: its folder. llm: False leaves the LLM out. overwrite: replaces
    an earlier export. Raises ExportError, FormatError, FileExistsError, and ModuleNotFoundError without the extra
    "export".
    """
    check_free(out, overwrite)
    for module in NEEDED:
        import_module(module)
    values = read_values(packed)
    weights = Weights(**values["weights"])
    config: Config = read_config(packed, values) if llm else from_dict(Config, values["config"])
    retriever = load(packed / "retriever")
    histories, stored = sample(packed, len(retriever.items), config.retrieve.max_len)
    card: dict[str, Any] = {"model": source, "data": config.data.name, "histories_are_stored": stored}
    card["base_is_packed"] = (packed / "base").is_dir()
    card["weights"] = {"llm": weights.llm, "satisfaction": weights.satisfaction}
    with new_folder(out, overwrite) as folder, quiet():
        card["retriever"] = write_retriever(retriever, histories, folder / "retriever")
        if llm and weights.llm:
            items = read_table(packed / "items.parquet", "items")
            card["llm"] = write_llm(packed, config, items, histories, folder / "llm")
            (folder / "llm" / "README.md").write_text(pages.llm(config, card), encoding="utf-8")
        (folder / "README.md").write_text(pages.whole(config, retriever, card), encoding="utf-8")
        write_json(card, folder / CARD)
    return card


def sample(packed: Path, n_items: int, max_len: int) -> tuple[list[History], bool]:
    """Histories to compare with: those of SAMPLE users. False with random ones, where the model stores none."""
    rng = np.random.default_rng(0)
    known = pd.read_parquet(packed / HISTORIES)
    if len(known):
        rows = known.iloc[rng.permutation(len(known))[:SAMPLE]]
        felt = zip(rows["items"], rows["sentiments"], rows["expected"], strict=True)
        return [History(np.asarray(i, np.int64), np.stack([s, e], 1).astype(np.float32)) for i, s, e in felt], True
    made = []
    for _ in range(SAMPLE):
        items = rng.integers(1, n_items + 1, rng.integers(1, max_len + 1))
        feelings = np.stack([rng.integers(-2, 3, len(items)), rng.uniform(-2, 2, len(items))], 1)
        made.append(History(items, feelings.astype(np.float32)))
    return made, False


def check_free(out: Path, overwrite: bool) -> None:
    """Raises FileExistsError unless a folder may be written there."""
    if not out.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{out} exists: name another folder, or add --overwrite")
    if not (out / CARD).is_file():
        raise FileExistsError(f"{out} is not an export (it has no {CARD}), so --overwrite does not replace it")


@contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yields a folder beside ``out`` that takes its name on success and is removed on an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    temporary.mkdir()
    try:
        yield temporary
        check_free(out, overwrite)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
