"""All settings: one frozen dataclass per stage. `sealr.config` reads them from YAML files and overrides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sealr.settings.base import frozen
from sealr.settings.data import Columns, ContentConfig, DataConfig, LabelConfig, RemoteFile
from sealr.settings.models import (
    VECTOR_MODELS,
    BSARecSettings,
    Content,
    CooccurrenceSettings,
    EASESettings,
    LoraSettings,
    RerankConfig,
    RetrieveConfig,
    SatisfactionConfig,
    ScoringSettings,
    TransitionSettings,
)

__all__ = [
    "VECTOR_MODELS", "BSARecSettings", "Columns", "Config", "Content", "ContentConfig", "CooccurrenceSettings",
    "DataConfig", "DriftSettings", "EASESettings", "EvaluateConfig", "LabelConfig", "LoraSettings", "RegistryConfig",
    "RemoteFile", "RerankConfig", "RetrieveConfig", "SatisfactionConfig", "ScoringSettings",
    "TransitionSettings", "frozen",
]  # fmt: skip


@frozen
class EvaluateConfig:
    users: int = Field(0, ge=0)  # evaluate this many random users of the evaluation half; 0: all of them
    # At most so many users tune the weights of the fusion, and at most so many gate users judge; 0: no limit
    valid_users: int = Field(0, ge=0)
    # What is held out, in comparisons of retrievers: each user's last two items, or what all did after a moment
    # (docs/protocols.md); jobs hold out the last two
    split: Literal["last", "time"] = "last"
    # Share of the users whose validation item chooses nothing and judges promotions (docs/operate.md)
    gate_share: float = Field(0.25, ge=0, lt=1)
    bootstrap: int = Field(1000, ge=100)  # resamples of the paired bootstrap over users
    seed: int = 0  # draws fine-tuning and evaluation users, independently of the models' seeds


@frozen
class DriftSettings:
    """When new data count as drifted from the champion's."""

    hold: bool = False  # `refresh` promotes no version while the data have drifted
    distribution: float = Field(0.15, gt=0, le=1)  # Jensen-Shannon distance of emotions, sentiments or popularity
    catalogue: float = Field(0.25, gt=0, le=1)  # share of items that are new, or that are gone
    activity: float = Field(0.15, gt=0, le=1)  # Kolmogorov-Smirnov distance of the number of reviews a user writes
    volume: float = Field(3.0, gt=1)  # factor, up or down, in reviews a month


@frozen
class RegistryConfig:
    name: str = "sealr"  # name of the registered model
    include_base: bool = False  # store the base LLM inside the model instead of its name
    # Histories inside the model: plain, under the users' ids; salted, under hashes of them (docs/privacy.md); none:
    # requests bring their histories
    users: Literal["plain", "salted", "none"] = "plain"
    drift: DriftSettings = DriftSettings()


@frozen
class Config:
    data: DataConfig
    label: LabelConfig = LabelConfig()
    retrieve: RetrieveConfig = RetrieveConfig()
    content: ContentConfig = ContentConfig()
    rerank: RerankConfig = RerankConfig()
    satisfaction: SatisfactionConfig = SatisfactionConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    registry: RegistryConfig = RegistryConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        retrieve, rerank = self.retrieve, self.rerank
        if rerank.n_reranked > retrieve.n_retrieved:
            raise ValueError(
                f"rerank.n_reranked ({rerank.n_reranked}) is more than retrieve.n_retrieved ({retrieve.n_retrieved}): "
                "lower the first or raise the second"
            )
        if rerank.user_split == "transductive" and retrieve.tuning_users == "whole":
            raise ValueError(
                "retrieve.tuning_users=whole would train on items that rerank.user_split=transductive evaluates on: "
                "set rerank.user_split=inductive, or retrieve.tuning_users=train"
            )
        if self.evaluate.split == "time" and self.data.source == "sequences":
            raise ValueError(
                "evaluate.split=time needs timestamps, and data.source=sequences has none, only each user's order: "
                "set evaluate.split=last, or compare on data with timestamps, such as amazon-musical-instruments"
            )
        if self.evaluate.split == "time" and rerank.user_split == "inductive":
            raise ValueError(
                "evaluate.split=time evaluates all users: set rerank.user_split=transductive, or evaluate.split=last"
            )
        hard = rerank.ranker == "scoring" and rerank.scoring.negative_source == "hard"
        if hard and retrieve.max_len < rerank.max_history:
            raise ValueError(
                f"rerank.max_history ({rerank.max_history}) is more than retrieve.max_len ({retrieve.max_len}), but "
                "with rerank.scoring.negative_source=hard the retriever reads the LLM's histories"
            )
        return self
