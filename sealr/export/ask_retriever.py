"""Asks an exported retriever for the next items. Needs numpy and onnxruntime, and nothing of SEALR.

python ask.py ITEM ITEM ITEM        # a history, oldest item first; prints the ten best next items
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


class Retriever:
    """The folder of an exported retriever."""

    def __init__(self, folder: Path) -> None:
        self.card = json.loads((folder / "retriever.json").read_text(encoding="utf-8"))
        self.items = json.loads((folder / "items.json").read_text(encoding="utf-8"))  # index 1 is items[0]
        self.indices = {item: index for index, item in enumerate(self.items, start=1)}
        self.popularity = np.array([-np.inf, *self.card["popularity"]], dtype=np.float32)
        self.session = onnxruntime.InferenceSession(str(folder / "retriever.onnx"), providers=["CPUExecutionProvider"])

    def scores(self, histories: np.ndarray, feelings: np.ndarray | None = None) -> np.ndarray:
        """(B, L) indices, all histories of one length, oldest first -> (B, items + 1) scores; index 0 is padding.

        feelings: (B, L, 2) float32, the sentiment class from -2 to 2 and the expected sentiment, NaN if unknown; not
        read unless the card says "feelings".
        """
        newest = np.asarray(histories, dtype=np.int64)[:, -self.card["max_len"] :]
        if not newest.shape[1]:
            return np.repeat(self.popularity[None], len(newest), axis=0)
        feed = {"items": newest}
        if self.card["feelings"]:
            unknown = np.full((*newest.shape, 2), np.nan, dtype=np.float32)
            feed["feelings"] = unknown if feelings is None else feelings[:, -self.card["max_len"] :].astype(np.float32)
        return self.session.run(["scores"], feed)[0]

    def recommend(self, history: list[str], k: int = 10) -> list[tuple[str, float]]:
        """The k best items and their scores. Unknown items of the history are skipped."""
        known = [self.indices[item] for item in history if item in self.indices]
        scores = self.scores(np.array([known], dtype=np.int64).reshape(1, -1))[0]
        if self.card["exclude_seen"]:
            scores[known] = -np.inf
        best = np.argsort(-scores, kind="stable")[:k]
        return [(self.items[index - 1], float(scores[index])) for index in best if np.isfinite(scores[index])]


if __name__ == "__main__":
    for item, score in Retriever(Path(__file__).parent).recommend(sys.argv[1:]):
        print(f"{item}\t{score:.4f}")
