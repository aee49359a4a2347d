"""New items for a packed model, which knows them by their texts. Nothing is trained.

Every part of the folder gets the new items at the end, so the ids of the others stay. What nobody can know of them is
neutral: the embedding of the id is 0, item-item models give no neighbours, nobody has taken them, and the forecast of
satisfaction is that of an average item. Their places come from content alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sealr.config import from_dict
from sealr.content.profiles import FILE as PROFILES
from sealr.content.profiles import Profiles, item_texts, kinds
from sealr.content.readers import Reader
from sealr.data.tables import SCHEMAS, atomic_path, read_json, read_table, write_table
from sealr.rerank.llm import ADAPTER
from sealr.rerank.scoring.model import SOFT_TOKENS
from sealr.retrieve.cold import append_items, embeddings, reads_content
from sealr.retrieve.models.fusion import parts_of
from sealr.retrieve.retriever import Retriever, load, save
from sealr.satisfaction.model import Satisfaction
from sealr.serving.packing import SATISFACTION, read_values, reader
from sealr.serving.request import MAX_ID
from sealr.settings import Config, Content

COLUMNS = (*SCHEMAS["items"], "text")


class ItemsError(ValueError):
    """The new items, or the model that they are for, cannot be used; the message says what to do."""


def read_items(path: Path) -> pd.DataFrame:
    """Rows of a CSV, JSON lines or Parquet file with COLUMNS, all texts, "" where a value or column is missing.

    An item has one row, or one for each of its reviews (``text``), the oldest first. Raises ItemsError and OSError.
    """
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif any(suffix in (".json", ".jsonl") for suffix in path.suffixes):
            frame = pd.read_json(path, lines=True, dtype=False)
        else:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise ItemsError(f"{path} cannot be read as CSV, JSON lines or Parquet: {error}") from None
    names = [str(name) for name in frame.columns]
    if unknown := [name for name in names if name not in COLUMNS]:
        raise ItemsError(f"{path} has a column {unknown[0]!r}; its columns may be {', '.join(COLUMNS)}")
    if "item" not in names or frame.empty:
        raise ItemsError(f"{path} needs a column item and at least one row; it has {', '.join(names) or 'no column'}")
    frame = frame.reindex(columns=list(COLUMNS)).astype(object)
    frame = frame.where(frame.notna(), "").astype(str).apply(lambda column: column.str.strip())
    if bad := [number for number, item in enumerate(frame["item"], start=1) if not 0 < len(item) <= MAX_ID]:
        raise ItemsError(f"{path}: row {bad[0]} has no item id of 1 to {MAX_ID} characters")
    silent = frame["item"][frame["text"] == ""]
    if (again := silent[silent.duplicated()]).size:
        raise ItemsError(f"{path}: item {again.iloc[0]!r} has several rows without a text: keep one")
    for name in COLUMNS[1:-1]:
        told = frame[frame[name] != ""].groupby("item")[name].nunique()
        if (told > 1).any():
            raise ItemsError(f"{path}: item {told.idxmax()!r} has several values in column {name}: keep one")
    return frame


def extend(folder: Path, rows: pd.DataFrame, target: Path) -> list[str]:
    """Writes the packed model in ``folder`` with the items of ``rows`` (`read_items`) to ``target``; returns their ids.

    Raises ItemsError, FormatError, and weights.WeightsError when the model that read the texts is not available.
    """
    values, names = read_values(folder), list(dict.fromkeys(rows["item"]))
    config: Config = from_dict(Config, values["config"])
    retriever = load(folder / "retriever")
    readers = reads_content(retriever.config)
    _check(folder, values, config, retriever, names)
    profiles = _profiles(Profiles.load(folder), config, rows, names)
    _check_texts(profiles, {kind for part in readers for kind in kinds(part.content)}, names)

    shutil.copytree(folder, target)
    parts = parts_of(retriever.config) or [retriever.config]
    scale = config.retrieve.content_scale
    grown = append_items(retriever, names, [_table(profiles, part.content, part.content_scale) for part in parts])
    notes = read_json(folder / "retriever" / "retriever.json")
    save(grown, target / "retriever", {k: v for k, v in notes.items() if k not in ("config", "n_items", "appended")})
    table = pd.concat([read_table(folder / "items.parquet", "items"), _items(rows)], ignore_index=True)
    write_table(table, target / "items.parquet", "items")
    if (target / ADAPTER / SOFT_TOKENS).is_file():
        with torch.inference_mode():  # as fine-tuning starts from the retriever's embeddings
            fresh = embeddings(grown)[0].table()[-len(names) :].float().cpu()
        rows_read = _table(profiles, config.rerank.scoring.content, scale)
        append_tokens(target / ADAPTER, fresh, rows_read)
    if (target / SATISFACTION).is_dir():
        Satisfaction.load(target / SATISFACTION).append(len(names)).save(target / SATISFACTION)
    return names


def _check(folder: Path, values: dict[str, Any], config: Config, retriever: Retriever, names: list[str]) -> None:
    """Raises ItemsError where the model cannot get new items, or not these."""
    if not reads_content(retriever.config):
        raise ItemsError(
            "the model's retriever reads no texts of items, so it could never recommend new ones: train it with "
            "retrieve.content=reviews, metadata or both, which a job keeps if texts help on validation"
        )
    if known := [name for name in names if name in retriever.item_to_id]:
        more = f" and {len(known) - 1} more" if len(known) > 1 else ""
        raise ItemsError(f"item {known[0]!r}{more}: the model has it already; remove it from the file")
    if values["weights"]["llm"] and config.rerank.ranker == "palr":
        raise ItemsError(
            "the model's LLM (palr) tells items by their names in the order of ids: train it again instead"
        )
    if not (folder / PROFILES).is_file():
        raise ItemsError("the model does not hold what profiles of new items are made with: register it again")
    if values["reader"] != reader(config):
        raise ItemsError(
            f"{config.content.reader} is here not the model that read the texts of the other items, so new vectors "
            "would mean something else"
        )


def _profiles(known: Profiles, config: Config, rows: pd.DataFrame, names: list[str]) -> dict[str, Tensor]:
    """Kind -> (N, C) profiles of the new items, zeros without a text; only kinds that other items have."""
    model, found = Reader(config.content), {}
    groups = rows.groupby("item", sort=False)["text"]
    texts = {
        "metadata": [[text] if text else [] for text in item_texts(_items(rows), names)],
        "reviews": [[text for text in groups.get_group(n) if text][-config.content.max_reviews :] for n in names],
    }
    for kind in known.mean:
        vectors = model.vectors([text for each in texts[kind] for text in each]).astype(
            np.float16
        )  # as they are cached
        parts = np.split(vectors, np.cumsum([len(each) for each in texts[kind]])[:-1])
        nothing = torch.zeros_like(known.mean[kind])
        found[kind] = torch.stack([known.of_texts(kind, part) if len(part) else nothing for part in parts])
    return found


def _check_texts(profiles: dict[str, Tensor], wanted: set[str], names: list[str]) -> None:
    told = torch.stack([profiles[kind].any(1) for kind in profiles if kind in wanted]).any(0)  # (N,)
    if not told.all():
        columns = {"metadata": "title, brand or categories", "reviews": "text"}
        needed = " or ".join(columns[kind] for kind in sorted(wanted))
        raise ItemsError(
            f"item {names[int(told.int().argmin())]!r} has nothing that the model reads: it needs a {needed}"
        )


def _table(profiles: dict[str, Tensor], choice: Content, scale: float) -> Tensor | None:
    """(N, C) content vectors of length ``scale``, as `Profiles.table` makes them for the other items."""
    chosen = [profiles[kind] for kind in kinds(choice) if kind in profiles]
    return scale * torch.cat(chosen, dim=1) if chosen else None


def _items(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an item, of the items table."""
    table = rows[list(SCHEMAS["items"])].astype(object)
    return table.where(table != "", None).groupby("item", sort=False).first().reset_index()


def append_tokens(adapter: Path, table: Tensor, content: Tensor | None) -> None:
    """Appends soft tokens of new items. table (N, D): their embeddings; content (N, C): where tokens hold texts."""
    state = load_file(adapter / SOFT_TOKENS)
    state["items.weight"] = torch.cat([state["items.weight"], table])
    if "content" in state:
        assert content is not None
        state["content"] = torch.cat([state["content"], content])
    with atomic_path(adapter / SOFT_TOKENS) as temporary:
        save_file(state, temporary)
