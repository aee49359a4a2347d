"""A world in which stars follow from items, users and how they fit; retriever and LLM know nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sealr.data.manifest import StageResult
from sealr.data.sequences import Sequences
from sealr.rerank.rankers import Scored
from sealr.rerank.requests import Pools, RerankInput
from sealr.rerank.rerank import rerank
from sealr.retrieve.candidates import write_candidates
from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever
from sealr.satisfaction.fit import fit
from sealr.satisfaction.learn import Forecast
from sealr.settings import RetrieveConfig, SatisfactionConfig
from tests.satisfaction.worlds import reviews

POOL = 20  # more than a user has not seen, so that every target is in it


class Numbered:
    """A ranker whose scores follow from an item's number, and from nothing else."""

    name = "numbered"

    def score(self, requests: list[RerankInput]) -> list[Scored]:
        return [Scored(np.sin(np.asarray(r.pool, dtype=np.float64))) for r in requests]


@dataclass(frozen=True)
class World:
    sequences: Sequences
    forecast: Forecast
    liked: np.ndarray  # (interactions,)
    retriever: Retriever
    folder: Path

    @property
    def feelings(self) -> np.ndarray:
        return np.full((len(self.liked), 2), np.nan, np.float32)

    def rerank(self, forecast: Forecast | None, users: int = 120, gate: bool = False) -> StageResult:
        """gate: whether the validation users also judge, so that both lists can be compared."""
        table = pd.read_parquet(self.folder / "candidates.parquet")
        table = pd.concat([table, table[table["split"] == "valid"].assign(split="gate")])
        pools = Pools(table, self.sequences, POOL)
        rows = range(users)
        liked = None if forecast is None else self.liked
        tables = self.sequences, self.feelings, pools
        judges = rows if gate else ()
        return rerank(Numbered(), rows, rows, *tables, 64, self.folder, forecast, liked, gate_rows=judges)


def make_world(folder: Path) -> World:
    """Sequences of 120 users and 25 items, whose stars a forecast has learned, with candidates in ``folder``."""
    sequences, stars, vectors = reviews()
    torch.manual_seed(0)
    config = RetrieveConfig(hidden=8, layers=1, max_len=14, n_retrieved=POOL)
    popularity = np.array([-np.inf, *np.bincount(sequences.flat)[1:]], dtype=np.float32)
    retriever = Retriever(config, sequences.items, build(config, sequences.n_items).eval(), popularity)
    write_candidates(retriever, sequences, config, folder)
    forecast = Forecast(fit(SatisfactionConfig(), sequences, stars, vectors), stars)
    liked = (stars >= np.median(stars)).astype(np.float32)
    return World(sequences, forecast, liked, retriever, folder)
