"""Retrievers by name, all with one interface.

Every model has ``score(sequences (B, L), feelings (B, L, 2) or None) -> (B, n_items + 1)`` and ``similarity``. A
trained model also has ``training_pairs`` and ``item_weights`` (see ``SequenceModel``); a closed form has ``fit``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
from sealr.retrieve.models.transition import Transition
from sealr.settings import RetrieveConfig


def _fusion(n_items: int, config: RetrieveConfig, content: Sequence[Tensor | None] | None = None) -> Fusion:
    parts = part_configs(config)
    # One copy per part: tensors that share memory cannot be written to one file
    copies = [None if c is None else c.clone() for c in content or [None] * len(parts)]
    return Fusion(config, [build(part, n_items, copy) for part, copy in zip(parts, copies, strict=True)])


MODELS: dict[str, Callable[[int, RetrieveConfig, Any], nn.Module]] = {
    "gru4rec": GRU4Rec,
    "caser": Caser,
    "sasrec": SASRec,
    "bert4rec": BERT4Rec,
    "bsarec": BSARec,
    "popularity": Popularity,
    "cooccurrence": Cooccurrence,
    "ease": EASE,
    "transition": Transition,
    "fusion": _fusion,
}


def build(config: RetrieveConfig, n_items: int, content: Tensor | Sequence[Tensor | None] | None = None) -> nn.Module:
    """A model with fresh weights from torch's global generator, for items 1..n_items.

    content: (n_items + 1, C) content vectors for a model that reads them; for a fusion, one entry per part.
    """
    return MODELS[config.model](n_items, config, content)
