"""A trained retriever: raw item ids in, scores of the whole catalogue out. Loads with no data set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sealr.config import from_dict, to_dict
from sealr.data.tables import atomic_path, read_json, write_json
from sealr.retrieve.index import ApproximateIndex, top
from sealr.retrieve.models import build
from sealr.retrieve.models.popularity import popularity
from sealr.settings import RetrieveConfig

__all__ = ["History", "Retriever", "device", "load", "pad", "popularity", "save"]
History = Sequence[str] | Sequence[int] | np.ndarray  # raw item ids (unknown ones are skipped) or item indices 1..n, oldest first


@dataclass(frozen=True)
class Retriever:
    config: RetrieveConfig
    items: list[str]  # the item with index i is items[i - 1]
    model: nn.Module  # in eval mode; see ``sealr.retrieve.models`` for its interface
    popularity: np.ndarray  # (n_items + 1,) float32: scores for an empty history, -inf at padding

    @cached_property
    def index(self) -> dict[str, int]:
        """Raw item id -> index from 1."""
        return {item: i for i, item in enumerate(self.items, start=1)}

    def indices(self, history: History) -> np.ndarray:
        """Item indices of a history. Raises ValueError on an index outside 1..n."""
        if len(history) and isinstance(history[0], str):
            return np.array([self.index[item] for item in history if item in self.index], dtype=np.int64)
        ids = np.asarray(history, dtype=np.int64)
        if len(ids) and not 1 <= ids.min() <= ids.max() <= len(self.items):
            raise ValueError(f"item indices must be in 1..{len(self.items)}, got {ids.min()}..{ids.max()}")
        return ids

    @torch.inference_mode()
    def score(self, histories: Sequence[History], feelings: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """(N, n_items + 1) float32 logits of each item being next, -inf at padding. Popularity where a history is empty.

        feelings: for each history (H, 2) sentiment class and expected sentiment, NaN where not known; raw ids that
        the catalogue lacks must have been dropped before. All N rows are held at once: for many users use
        ``candidates``, which works in blocks.
        """
        ids = [self.indices(history) for history in histories]
        scores = self.model.score(*self._inputs(ids, feelings)).float().cpu().numpy()
        scores[[len(i) == 0 for i in ids]] = self.popularity
        return scores

    @cached_property
    def finder(self) -> ApproximateIndex:
        """Of all items, for ``search``. Raises ConfigError without faiss."""
        with torch.inference_mode():
            return ApproximateIndex(self.model.item_weights(), self.config.probe)

    @torch.inference_mode()
    def search(
        self, histories: Sequence[History], k: int, exclude_seen: bool, feelings: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of each history, nearly all of them, without scoring the whole catalogue.

        Returns item indices int64 and exact scores float32, both (N, min(k, items)), best first; index 0 at -inf fills a
        row that ends early. Popular items where a history is empty. Only for models of ``config.VECTOR_MODELS``.
        """
        ids = [self.indices(history) for history in histories]
        found, scores = self.finder.search(self.queries(ids, feelings), k, ids if exclude_seen else None)
        empty = [len(i) == 0 for i in ids]
        if any(empty):
            found[empty], scores[empty] = top(torch.from_numpy(self.popularity)[None], k)
        return found, scores

    @torch.inference_mode()
    def queries(self, histories: Sequence[History], feelings: Sequence[np.ndarray] | None = None) -> Tensor:
        """(N, D) on the CPU: the vectors whose products with the items' are the scores."""
        ids = [self.indices(history) for history in histories]
        return self.model.encode_last(*self._inputs(ids, feelings)).float().cpu()

    def _inputs(self, ids: Sequence[np.ndarray], feelings: Sequence[np.ndarray] | None) -> list[Tensor]:
        inputs = [pad(values, self.config.max_len) for values in (ids, feelings) if values is not None]
        return [i.to(self.device) for i in inputs]

    @property
    def device(self) -> torch.device:
        return next(itertools.chain(self.model.parameters(), self.model.buffers())).device

    @torch.inference_mode()
    def similarity(self, item: int, history: History) -> np.ndarray:
        """(H,) how close each history item is to the item, in the model's own terms."""
        return self.model.similarity(item, torch.from_numpy(self.indices(history)).to(self.device)).float().cpu().numpy()


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
        save_file({name: t.detach().cpu().contiguous() for name, t in retriever.model.state_dict().items()}, temporary)
    write_json(retriever.items, folder / "items.json")
    write_json([int(count) for count in retriever.popularity[1:]], folder / "popularity.json")
    write_json({"config": to_dict(retriever.config), "n_items": len(retriever.items)} | notes, folder / "retriever.json")


def load(folder: Path) -> Retriever:
    """Reads what ``train`` wrote. Raises FileNotFoundError or ValueError naming the file."""
    for name in ("retriever.json", "items.json", "popularity.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: not the folder of a trained retriever, or training was cut off")
    config: RetrieveConfig = from_dict(RetrieveConfig, read_json(folder / "retriever.json")["config"])
    items, counts = read_json(folder / "items.json"), read_json(folder / "popularity.json")
    if len(items) != len(counts):
        raise ValueError(f"{folder}: items.json has {len(items)} items, popularity.json {len(counts)}")
    state = load_file(folder / f"{config.model}.safetensors")
    with torch.random.fork_rng():  # the fresh weights are overwritten; the caller's generator should not notice them
        model = build(config, len(items), next((t for name, t in state.items() if name.split(".")[-1] == "content"), None))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{folder / config.model}.safetensors does not fit retriever.json: {error}") from None
    return Retriever(config, items, model.to(device()).eval(), np.array([-np.inf, *counts], dtype=np.float32))


def device() -> torch.device:
    """A CUDA GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
