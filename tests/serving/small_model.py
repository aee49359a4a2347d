"""A recommender of a tiny retriever, a ranker whose scores are known, and a forecast made of chosen numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from sealr.data.tables import EMOTIONS
from sealr.rerank.rankers import Scored
from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever
from sealr.satisfaction.calibration import Calibration
from sealr.satisfaction.linear import Ridge
from sealr.satisfaction.model import Satisfaction
from sealr.serving.packing import Weights
from sealr.serving.recommender import Recommender
from sealr.settings import Config, DataConfig, LabelConfig, RerankConfig, RetrieveConfig, SatisfactionConfig

ITEMS = [f"i{n:02d}" for n in range(1, 31)]
# Ten items each; the last ten have none
CATEGORIES = ["Beauty > Hair"] * 5 + ["Beauty > Hair > Shampoo"] * 5 + ["Home > Kitchen"] * 10 + [None] * 10


class LikesLargeIds:
    """Scores a candidate by its index, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def score(self, requests):
        self.asked += requests
        return [Scored(np.asarray(r.pool, dtype=np.float32)) for r in requests]


class OnlyAnger:
    """A labeller that finds every text angry."""

    def __init__(self):
        self.config = LabelConfig()

    def clean(self, texts):
        return np.arange(len(texts)), texts

    def predict_texts(self, texts):
        p = np.full((len(texts), 28), 0.01, np.float32)
        p[:, EMOTIONS.index("anger")] = 0.9
        return p


def small_config(sentiment: str = "class", **retrieve) -> Config:
    """sentiment: what the LLM reads."""
    settings = RetrieveConfig(**({"hidden": 8, "layers": 1, "max_len": 10, "n_retrieved": 12} | retrieve))
    return Config(data=DataConfig("toy"), retrieve=settings, rerank=RerankConfig(n_reranked=12, sentiment=sentiment))


def small_recommender(
    weights: Weights, forecast: Satisfaction | None = None, llm: bool = True, config: Config | None = None
) -> Recommender:
    """`Labeller.from_config` must be replaced before. llm: whether it has the ranker."""
    config = config or small_config()
    torch.manual_seed(0)
    popularity = np.array([-np.inf, *range(30, 0, -1)], dtype=np.float32)  # i01 is the most popular
    retriever = Retriever(config.retrieve, ITEMS, build(config.retrieve, 30).eval(), popularity)
    items = pd.DataFrame({"item": ITEMS, "title": ["First thing", *[None] * 29], "categories": CATEGORIES})
    histories = pd.DataFrame(
        {
            "user": ["ann", "all"],
            "items": [[1, 2, 3], list(range(1, 31))],
            "sentiments": [[2, -1, math.nan], [0] * 30],  # the third has no label
            "expected": [[1.5, -0.5, math.nan], [0.0] * 30],
            "stars": [[5.0, 2.0, math.nan], [3.0] * 30],
        }
    )
    felt = None if forecast is None else others()
    return Recommender(config, weights, retriever, LikesLargeIds() if llm else None, items, histories, forecast, felt)


def others() -> pd.DataFrame:
    """What others felt about each item: admiration, and some anger about items of even number."""
    shares = [0.25 if n % 2 == 0 else 0.05 for n in range(1, 31)]
    return pd.DataFrame(
        {
            "item": ITEMS,
            "reviews": 8,
            "emotion": "admiration",
            "share": 0.75,
            "but_emotion": "anger",
            "but_share": shares,
            "mean_stars": 4.25,
        }
    )


def calibration() -> Calibration:
    """From labels to stars: 3 - 2 * anger + joy by the probabilities, else 3 + expected / 2."""
    weights = np.zeros(28)
    weights[EMOTIONS.index("anger")], weights[EMOTIONS.index("joy")] = -2, 1
    return Calibration("auto", emotions=Ridge(weights, 3.0, 0.0), sentiment=Ridge(np.array([0.5]), 3.0, 0.0))


def effects() -> Satisfaction:
    """The forecast is an effect of the item for every user alike: odd items please, even ones do not."""
    table = np.zeros((31, 1), np.float32)
    table[1:, 0] = [np.cos(np.pi * (n - 1)) * (1 + n / 30) for n in range(1, 31)]
    return Satisfaction(SatisfactionConfig("effects"), 3.0, 1.0, table, calibration=calibration())


def personal() -> Satisfaction:
    """The forecast depends on the user: 0.5 * effect + 2 * interest * content, with one number of content."""
    table = np.zeros((31, 2), np.float32)
    table[1:, 0] = np.sin(np.arange(30))
    table[1:, 1] = np.cos(np.arange(30) ** 2)
    return replace(effects(), table=table, ridge=Ridge(np.array([0.5, 1.0, 2.0]), 0.0, 0.0))
