"""A trained retriever: raw item ids in, scores of the whole catalogue out. Loads without the data set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sealr.config import from_dict, to_dict
from sealr.data.tables import atomic_path, read_json, write_json
from sealr.retrieve.index import ApproximateIndex, keep, top
from sealr.retrieve.models import build
from sealr.retrieve.models.popularity import popularity
from sealr.settings import RetrieveConfig

__all__ = ["History", "Retriever", "device", "load", "pad", "popularity", "save"]
History = Sequence[str] | Sequence[int] | np.ndarray  # oldest first: raw ids (unknown ones are skipped) or indices 1..n


@dataclass(frozen=True)
class Retriever:
    config: RetrieveConfig
    items: list[str]  # the item with index i is items[i - 1]
    model: Any  # in evaluation mode; see ``sealr.retrieve.models`` for its interface
    popularity: np.ndarray  # (n_items + 1,) float32: scores for an empty history, -inf at padding
    epochs: tuple[int, ...] = (0,)  # that it, or each part of a fusion, was trained for; 0: counted, not trained

    @cached_property
    def item_to_id(self) -> dict[str, int]:
        """Raw item id -> index from 1."""
        return {item: i for i, item in enumerate(self.items, start=1)}

    def indices(self, history: History) -> np.ndarray:
        """Item indices of a history. Raises ValueError on an index outside 1..n."""
        if len(history) and isinstance(history[0], str):
            return np.array([self.item_to_id[item] for item in history if item in self.item_to_id], dtype=np.int64)
        ids = np.asarray(history, dtype=np.int64)
        if len(ids) and not 1 <= ids.min() <= ids.max() <= len(self.items):
            raise ValueError(f"item indices must be in 1..{len(self.items)}, got {ids.min()}..{ids.max()}")
        return ids

    @torch.inference_mode()
    def score(self, histories: Sequence[History], feelings: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """(N, n_items + 1) float32 logits of the next item, -inf at padding. Popularity where a history is empty.

        feelings: (H, 2) sentiment class and expected sentiment per history, NaN if unknown; drop unknown raw ids first.
        All N rows are in memory at once; ``sealr.retrieve.candidates`` works in blocks.
        """
        ids = [self.indices(history) for history in histories]
        scores = self.model.score(*self._inputs(ids, feelings)).float().cpu().numpy()
        scores[[len(i) == 0 for i in ids]] = self.popularity
        return scores

    @cached_property
    def ann_index(self) -> ApproximateIndex:
        """Approximate nearest-neighbour index of all items, for ``search``. Raises ConfigError without faiss."""
        with torch.inference_mode():
            return ApproximateIndex(self.model.item_weights())

    @torch.inference_mode()
    def search(
        self,
        histories: Sequence[History],
        k: int,
        exclude_seen: bool,
        feelings: Sequence[np.ndarray] | None = None,
        allowed: Sequence[np.ndarray | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Most of the k best items of each history, without scoring the whole catalogue.

        Returns what ``ApproximateIndex.search`` returns, popular items where a history is empty. Only for models in
        ``settings.VECTOR_MODELS``. allowed: as there.
        """
        ids = [self.indices(history) for history in histories]
        queries = self.model.encode_last(*self._inputs(ids, feelings)).float().cpu()  # (N, D)
        found, scores = self.ann_index.search(queries, k, ids if exclude_seen else None, allowed)
        empty = [row for row, history in enumerate(ids) if len(history) == 0]
        if empty and allowed is None:
            found[empty], scores[empty] = top(torch.from_numpy(self.popularity)[None], k)
        elif allowed is not None:
            for row in empty:
                popular = torch.tensor(self.popularity)[None]
                keep(popular[0], allowed[row])
                found[row], scores[row] = (best[0] for best in top(popular, k))
        return found, scores

    def _inputs(self, ids: Sequence[np.ndarray], feelings: Sequence[np.ndarray] | None) -> list[Tensor]:
        inputs = [pad(values, self.config.max_len) for values in (ids, feelings) if values is not None]
        return [i.to(self.device) for i in inputs]

    @property
    def device(self) -> torch.device:
        return next(itertools.chain(self.model.parameters(), self.model.buffers())).device

    @torch.inference_mode()
    def similarity(self, item: int, history: History) -> np.ndarray:
        """(H,) similarity of each history item to the item, as the model measures it."""
        others = torch.from_numpy(self.indices(history)).to(self.device)
        return self.model.similarity(item, others).float().cpu().numpy()


def pad(histories: Sequence[np.ndarray], max_len: int) -> Tensor:
    """(N, L, ...): the newest max_len entries of each history, zeros to the right; L is the longest, at least 1."""
    histories = [h[-max_len:] for h in histories]
    shape, dtype = (histories[0].shape[1:], histories[0].dtype) if histories else ((), np.int64)
    padded = np.zeros((len(histories), max([1, *map(len, histories)]), *shape), dtype=dtype)
    for row, history in zip(padded, histories, strict=True):
        row[: len(history)] = history
    return torch.from_numpy(padded)


def save(retriever: Retriever, folder: Path, notes: dict[str, object]) -> None:
    """Writes weights, items, popularity and ``retriever.json`` (configuration and notes), each atomically."""
    with atomic_path(folder / f"{retriever.config.model}.safetensors") as temporary:
        state = retriever.model.state_dict()
        save_file({name: t.detach().cpu().contiguous() for name, t in state.items()}, temporary)
    write_json(retriever.items, folder / "items.json")
    write_json([int(count) for count in retriever.popularity[1:]], folder / "popularity.json")
    values: dict[str, object] = {"config": to_dict(retriever.config), "n_items": len(retriever.items)}
    values["epochs"] = list(retriever.epochs)
    if appended := getattr(retriever.model, "appended", 0):
        values["appended"] = appended
    write_json(values | notes, folder / "retriever.json")


def load(folder: Path) -> Retriever:
    """Reads what ``save`` wrote. Raises FileNotFoundError or ValueError naming the file."""
    for name in ("retriever.json", "items.json", "popularity.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: not the folder of a trained retriever, or training was interrupted"
            )
    values = read_json(folder / "retriever.json")
    config: RetrieveConfig = from_dict(RetrieveConfig, values["config"])
    items, counts = read_json(folder / "items.json"), read_json(folder / "popularity.json")
    if len(items) != len(counts):
        raise ValueError(f"{folder}: items.json has {len(items)} items, popularity.json {len(counts)}")
    state = load_file(folder / f"{config.model}.safetensors")
    content: Any = state.get("items.content")
    if config.model == "fusion":
        content = [state.get(f"parts.{number}.items.content") for number in range(len(config.parts))]
    with torch.random.fork_rng():  # spares the caller's generator the draws of weights that are overwritten
        model: Any = build(config, len(items), content)
    if hasattr(model, "appended"):
        model.appended = values.get("appended", 0)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{folder / config.model}.safetensors does not fit retriever.json: {error}") from None
    known = np.array([-np.inf, *counts], dtype=np.float32)
    return Retriever(config, items, model.to(device()).eval(), known, tuple(values["epochs"]))


def device() -> str:
    """The current GPU, else the CPU."""
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
