"""Settings of models: retrievers, the re-ranking LLM, and the forecast of satisfaction."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from sealr.settings.base import frozen

Content = Literal["none", "metadata", "reviews", "both", "shuffled"]
VECTOR_MODELS = ("gru4rec", "caser", "sasrec", "bert4rec", "bsarec")  # retrievers whose scores are dot products


@frozen
class BSARecSettings:
    alpha: float = Field(0.7, ge=0, le=1)  # share of the frequency filter; attention gets the rest
    cutoff: int = Field(5, ge=1)  # c: the lowest c // 2 + 1 frequencies pass


@frozen
class EASESettings:
    l2: float = Field(200.0, gt=0)  # ridge penalty


@frozen
class CooccurrenceSettings:
    decay: float = Field(0.8, gt=0, le=1)  # an item's weight is this to the power of its distance from the end


@frozen
class TransitionSettings:
    decay: float = Field(0.8, gt=0, le=1)  # an item's value is this to the power of its distance from the end
    l2: float = Field(100.0, gt=0)  # ridge penalty


@frozen
class RetrieveConfig:
    # Neural: gru4rec to bsarec; counted, not trained: popularity to transition; or a fusion of `parts`
    model: Literal[
        "gru4rec", "caser", "sasrec", "bert4rec", "bsarec", "popularity", "cooccurrence", "ease", "transition", "fusion"
    ] = "sasrec"
    # Parts of a fusion: each lists its changes to this section, e.g. [{model: sasrec}, {model: ease}]
    parts: tuple[dict[str, Any], ...] = ()
    # Parts, listed alike, of a fusion that teaches a neural model to order the catalogue (sealr/retrieve/taught.py)
    teacher: tuple[dict[str, Any], ...] = ()
    hidden: int = Field(64, ge=4)  # embedding width d
    layers: int = Field(2, ge=1)  # blocks, or recurrent layers
    heads: int = Field(1, ge=1)  # attention heads; must divide hidden
    max_len: int = Field(50, ge=2)  # most recent items read
    dropout: float = Field(0.5, ge=0, lt=1)
    # softmax: over the catalogue; sampled: over random items shared by a step; bce: binary, with random negatives
    loss: Literal["softmax", "sampled", "bce"] = "softmax"
    n_negatives: int = Field(1024, ge=1)  # random items per step (loss: sampled) or per position (loss: bce)
    # Initial item embeddings: random, or from item co-occurrence (sealr/retrieve/start.py), which saves epochs
    item_init: Literal["random", "cooccurrence"] = "random"
    # What a neural retriever reads about an item: title, brand and categories; its training reviews; both; or the
    # reviews of another item, a placebo
    content: Content = "none"
    content_scale: float = Field(8.0, gt=0)  # length of a content vector; the item's own embedding starts near .2
    sentiment: Literal["none", "class", "shuffled"] = "none"  # add the user's sentiment; shuffled is a placebo
    lr: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"  # learning rate over the epochs; cosine ends at lr / 100
    ema_decay: float = Field(0.0, ge=0, lt=1)  # decay per step of the weights' moving average, which is kept; 0: off
    batch_size: int = Field(256, ge=1)  # rows per step
    epochs: int = Field(200, ge=1)  # maximum; early stopping usually ends training sooner
    patience: int = Field(10, ge=1)  # validations without a better NDCG@10 before stopping
    eval_every: int = Field(2, ge=1)  # epochs between validations
    bsarec: BSARecSettings = BSARecSettings()
    ease: EASESettings = EASESettings()
    cooccurrence: CooccurrenceSettings = CooccurrenceSettings()
    transition: TransitionSettings = TransitionSettings()
    # whole: retrievers also train on the last two items of fine-tuning users, as the LLM does (inductive split)
    tuning_users: Literal["train", "whole"] = "train"
    n_retrieved: int = Field(100, ge=10)  # candidates kept per user and split
    exclude_seen: bool = True  # leave items of the history out of the candidates
    # approximate: search an inverted file instead of all items; for models with one vector per item
    index: Literal["exact", "approximate"] = "exact"
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> RetrieveConfig:
        if self.index == "approximate" and self.model not in VECTOR_MODELS:
            raise ValueError(
                f"retrieve.index=approximate searches vectors, and {self.model} has none; "
                f"set retrieve.model to one of {', '.join(VECTOR_MODELS)}, or retrieve.index=exact"
            )
        if self.hidden % self.heads:
            raise ValueError(f"retrieve.heads={self.heads} does not divide retrieve.hidden={self.hidden}")
        if self.teacher and self.model not in VECTOR_MODELS:
            raise ValueError(
                f"retrieve.teacher teaches a neural retriever, and {self.model} is none; "
                f"set retrieve.model to one of {', '.join(VECTOR_MODELS)}"
            )
        if self.teacher and (self.loss != "softmax" or self.sentiment != "none"):
            raise ValueError("retrieve.teacher needs retrieve.loss=softmax and retrieve.sentiment=none")
        return self


@frozen
class LoraSettings:
    r: int = Field(8, ge=1)  # rank
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@frozen
class ScoringSettings:
    """The scoring ranker: each item and sentiment is one soft token, and one pass scores every item."""

    content: Content = "none"  # what soft tokens and candidates hold of an item's texts, as in retrieve.content
    dropout: float = Field(0.2, ge=0, lt=1)  # on soft tokens and on the state that scores the items
    negative_source: Literal["full", "hard"] = "full"  # softmax over the catalogue, or over the retriever's best items
    n_hard_negatives: int = Field(100, ge=1)  # items in the softmax of a position, for negative_source: hard


@frozen
class RerankConfig:
    # scoring: soft tokens, one pass; generative: the paper's template and generated list; palr: names and a preference
    ranker: Literal["scoring", "generative", "palr"] = "scoring"
    # inductive, as in the paper: fine-tune on all items of some users, evaluate on the other users;
    # transductive: fine-tune on all users without their last two items, evaluate on all (scoring only)
    user_split: Literal["inductive", "transductive"] = "inductive"
    scoring: ScoringSettings = ScoringSettings()
    base: str = "HuggingFaceTB/SmolLM2-135M-Instruct"  # a model name that sealr/weights.py resolves, or a folder
    layers: int = Field(0, ge=0)  # use only the first n decoder layers; 0: all
    init: Literal["pretrained", "random"] = "pretrained"  # random: the same shape without what it learned, a control
    quantization: Literal["none", "nf4"] = "none"  # nf4: 4-bit base weights (bitsandbytes)
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LoraSettings = LoraSettings()
    finetune_share: float = Field(0.2, gt=0, le=0.5)  # share of users to fine-tune on (paper: .1, .2, .5)
    valid_share: float = Field(0.05, gt=0, lt=1)  # share of those kept for validation (paper: .05)
    n_reranked: int = Field(50, ge=10)  # candidates C that the LLM ranks (paper: 20, 50, 100)
    sentiment: Literal["class", "none", "shuffled"] = "class"  # none and shuffled are placebos
    max_history: int = Field(20, ge=1)  # most recent items in the prompt
    # What a ranker that writes lists sees when it ranks; paper: not the newest item, the second to last of all
    eval_history: Literal["whole", "paper"] = "whole"
    lr: float = Field(2e-4, gt=0)
    batch_size: int = Field(4, ge=1)  # prompts per step, over all processes
    processes: int = Field(1, ge=1)  # fine-tuning processes, one per GPU (docs/team.md)
    epochs: int = Field(3, ge=1)  # maximum
    max_users: int = Field(0, ge=0)  # cap on fine-tuning users, for small budgets; 0: no cap
    patience: int = Field(2, ge=1)  # validations without improvement before stopping
    decode_batch: int = Field(16, ge=1)  # users decoded together
    top_k: int = Field(10, ge=1)  # items generated per list
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> RerankConfig:
        if self.user_split == "transductive" and self.ranker != "scoring":
            raise ValueError(
                f"rerank.user_split=transductive needs rerank.ranker=scoring; {self.ranker} prompts are answered with "
                "users' last two items, so it can only be evaluated on other users: set rerank.user_split=inductive"
            )
        hard = self.ranker == "scoring" and self.scoring.negative_source == "hard"
        if hard and self.scoring.n_hard_negatives < self.n_reranked:
            raise ValueError(
                f"rerank.scoring.n_hard_negatives ({self.scoring.n_hard_negatives}) is less than rerank.n_reranked "
                f"({self.n_reranked}): the LLM would learn nothing about the other candidates"
            )
        if self.eval_history == "paper" and self.ranker == "scoring":
            raise ValueError(
                "rerank.eval_history=paper is for rankers that learn a user's last two items together: set "
                "rerank.ranker=generative or palr, or rerank.eval_history=whole"
            )
        if self.init == "random" and (self.quantization != "none" or self.ranker != "scoring"):
            raise ValueError("rerank.init=random is a control for rerank.ranker=scoring without quantization")
        if self.processes > 1 and self.ranker == "palr":
            raise ValueError("rerank.processes needs rerank.ranker=scoring or generative; palr trains in one process")
        if self.processes > self.batch_size:
            raise ValueError(
                f"rerank.processes ({self.processes}) is more than rerank.batch_size ({self.batch_size}), "
                "which the processes share"
            )
        return self


@frozen
class SatisfactionConfig:
    """The forecast of how glad a user will be of an item (`sealr.satisfaction`)."""

    # effects: shrunken means of items and users; ridge: also how an item's reviews fit a user's; none: no forecast
    model: Literal["none", "effects", "ridge"] = "ridge"
    # What past reviews say about gladness: auto: stars, and what texts suggest, calibrated to stars; stars; or labels
    learn_from: Literal["auto", "stars", "labels"] = "auto"
    shuffled: bool = False  # a placebo: every item is judged by the feelings about another item
    seed: int = 0
