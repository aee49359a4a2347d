"""Retrievers by name, all with one interface.

Every model has ``score(sequences (B, L), feelings (B, L, 2) or None) -> (B, n_items + 1)`` and ``similarity``. A
trained model also has ``training_pairs`` and ``item_weights`` (see ``SequenceModel``); a closed form has ``fit``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sealr.retrieve.models.bert4rec import BERT4Rec
from sealr.retrieve.models.bsarec import BSARec
from sealr.retrieve.models.caser import Caser
from sealr.retrieve.models.cooccurrence import Cooccurrence
from sealr.retrieve.models.ease import EASE
from sealr.retrieve.models.fusion import Fusion, part_configs
from sealr.retrieve.models.gru4rec import GRU4Rec
from sealr.retrieve.models.popularity import Popularity
from sealr.retrieve.models.sasrec import SASRec
from sealr.settings import RetrieveConfig


def _fusion(n_items: int, config: RetrieveConfig, content: Tensor | None = None) -> Fusion:
    # One copy per part: tensors that share memory cannot be written to one file
    copies = (None if content is None else content.clone() for _ in config.parts)
    return Fusion(config, [build(part, n_items, copy) for part, copy in zip(part_configs(config), copies, strict=True)])


MODELS: dict[str, Callable[[int, RetrieveConfig, Tensor | None], nn.Module]] = {
    "gru4rec": GRU4Rec,
    "caser": Caser,
    "sasrec": SASRec,
    "bert4rec": BERT4Rec,
    "bsarec": BSARec,
    "popularity": Popularity,
    "cooccurrence": Cooccurrence,
    "ease": EASE,
    "fusion": _fusion,
}


def build(config: RetrieveConfig, n_items: int, content: Tensor | None = None) -> nn.Module:
    """A model with fresh weights from torch's global generator, for items 1..n_items."""
    return MODELS[config.model](n_items, config, content)
