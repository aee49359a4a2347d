"""Training the scoring ranker to predict the next item at every position of a history.

With q the query after t items of a user and e_j the embedding of item j (see `sealr.rerank.scoring.model`):

    loss = -1/N * sum over users and positions t of log( exp(q . e_target) / sum over j of exp(q . e_j) )

N is the number of positions in the batch, and the target is item t + 1. j runs over the whole catalogue (``full``), or
over the target and the items that the retriever ranks highest at that position (``hard``).

Inductive: trains on all items of the fine-tuning users and validates on the last two items of other users.
Transductive: trains on everyone's items except the last two and validates on the second-to-last item of some users.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sealr.data.manifest import StageResult
from sealr.data.sequences import Sequences
from sealr.evaluate.metrics import ndcg
from sealr.rerank.llm import add_lora, save_adapter
from sealr.rerank.requests import check_users
from sealr.rerank.scoring.model import ScoringModel, build, save_tokens
from sealr.rerank.training import shuffled
from sealr.rerank.training import train as run_training
from sealr.retrieve.candidates import ranks_among
from sealr.retrieve.loss import softmax_loss
from sealr.retrieve.models.base import Packed, SequenceModel
from sealr.retrieve.retriever import Retriever, load
from sealr.retrieve.start import cooccurrence_embeddings
from sealr.settings import RerankConfig
from sealr.trainer import OnEpoch, SingleProcess

log = logging.getLogger(__name__)
VALID_USERS = 2000  # maximum in the transductive setting
FEW = 50  # with fewer validation items, differences between epochs are mostly chance
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Windows:
    """Slices of ``Sequences.flat``. Window i reads flat[starts[i] : ends[i] - 1]; positions predict the next item."""

    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> np.ndarray:
        """Positions of each window."""
        return self.ends - self.starts - 1


def training_windows(
    sequences: Sequences, train: Sequence[int], valid: Sequence[int], config: RerankConfig
) -> tuple[Windows, Windows]:
    """Windows to train and to validate on. train, valid: rows of ``sequences.users``, only used if inductive."""

    def newest(starts: np.ndarray, ends: np.ndarray) -> Windows:
        long = ends - starts >= 2
        starts, ends = starts[long], ends[long]
        return Windows(np.maximum(starts, ends - config.max_history - 1), ends)

    if config.user_split == "inductive":
        parts = (np.asarray(rows, dtype=np.int64) for rows in (train, valid))
        train_part, valid_part = (newest(sequences.offsets[rows], sequences.offsets[rows + 1]) for rows in parts)
        return train_part, valid_part
    split, held_out = sequences.split("train"), sequences.split("valid")
    drawn = np.sort(np.random.default_rng(config.seed).permutation(len(held_out))[:VALID_USERS])
    return newest(split.starts, split.ends), newest(held_out.starts[drawn], held_out.ends[drawn] + 1)


def train_scoring(
    config: RerankConfig,
    category: str,
    sequences: Sequences,
    feelings: np.ndarray | None,
    users: tuple[Sequence[int], Sequence[int]],
    retriever: Path,
    content: np.ndarray | None,
    folder: Path,
    on_epoch: OnEpoch | None = None,
    processes: SingleProcess | None = None,
    stop: int | None = None,
) -> StageResult:
    """Trains and writes adapter and soft tokens of the best epoch to ``folder/adapter``.

    feelings: (interactions, 2) aligned with ``sequences.flat``, None without sentiment. users: rows of
    ``sequences.users`` to train and to validate on, if inductive. retriever: folder of a trained one. content:
    (n_items + 1, C) content vectors, if configured. stop: train for so many epochs, without validation. Raises
    ValueError when there is nothing to train or validate on.
    """
    train, valid = training_windows(sequences, *users, config)
    check_users(len(train), len(valid), stop)
    transductive = config.user_split == "transductive"
    judged = len(valid) if transductive else 2 * len(valid)
    if stop is None and judged < FEW:
        remedy = "these data have too few users" if transductive else "raise rerank.valid_share"
        log.warning("the best epoch is chosen by %d validation items, which is close to chance: %s", judged, remedy)
    first_stage, texts = load(retriever), None if content is None else torch.from_numpy(content)
    torch.manual_seed(config.seed)
    model = build(config, add_lora(config), category, item_table(first_stage, sequences), texts)
    hard, exclude_seen = hard_model(first_stage), first_stage.config.exclude_seen
    task = NextItems(model, config, sequences, feelings, train, valid, hard, exclude_seen)
    rows = {"train_users": len(train), "valid_users": len(valid), "positions": int(train.lengths.sum())}
    scores = ["valid_loss", "valid_ndcg@10"]
    return run_training(task, config, folder, rows, scores, on_epoch, processes, WEIGHT_DECAY, stop)


def hard_model(retriever: Retriever) -> SequenceModel | None:
    """The neural retriever or part that supplies hard negatives: one that reads only the items before a position."""
    return next((part for part in _neural(retriever) if part.causal), None)


def _neural(retriever: Retriever) -> Iterator[SequenceModel]:
    """The neural retriever, or the neural parts of a fusion."""
    parts = getattr(retriever.model, "parts", [retriever.model])
    return (part for part in parts if isinstance(part, SequenceModel))


@torch.inference_mode()
def item_table(retriever: Retriever, sequences: Sequences) -> Tensor:
    """(n_items + 1, D) item embeddings of the retriever, or from co-occurrence if it has none."""
    model = next(_neural(retriever), None)
    if model is None:
        return cooccurrence_embeddings(sequences, retriever.config.hidden)
    table = model.item_weights().detach().float().cpu().clone()
    table[0] = 0
    return table


@dataclass
class NextItems:
    """Task of `sealr.trainer`: the next item at every position of the windows."""

    model: ScoringModel
    config: RerankConfig
    sequences: Sequences
    feelings: np.ndarray | None
    train: Windows
    valid: Windows
    retriever: SequenceModel | None
    exclude_seen: bool = False

    def __post_init__(self) -> None:
        self.flat, self.offsets = self.sequences.flat, self.sequences.offsets
        if self.config.scoring.negative_source == "hard" and self.retriever is None:
            raise ValueError(
                "rerank.scoring.negative_source=hard needs a neural retriever, or a fusion with one, that reads only "
                "past items: bert4rec reads both directions"
            )

    def batches(self, epoch: int) -> list[np.ndarray]:
        return shuffled(len(self.train), self.config.batch_size, self.config.seed, epoch, self.train.lengths)

    def loss(self, shard: np.ndarray, batch: np.ndarray, epoch: int) -> tuple[Tensor, float]:
        items, targets, feelings = self.tensors(self.train, shard)
        real = targets > 0  # (B, T)
        query, wanted = self.model(items, feelings)[real], targets[real]  # (N, D), (N,)
        hard = self.hard_negatives(items, feelings)[real] if self.config.scoring.negative_source == "hard" else None
        total = softmax_term(query, wanted, self.model.tokens.table(), hard)
        return total / int(self.train.lengths[batch].sum()), 1.0

    @torch.no_grad()
    def hard_negatives(self, items: Tensor, feelings: Tensor) -> Tensor:
        """(B, T), (B, T, 2) -> (B, T, K) items that the retriever ranks highest after each position, 0 at padding.

        With ``retrieve.exclude_seen``, items of the window so far are left out.
        """
        count = min(self.config.scoring.n_hard_negatives, len(self.model.tokens.items.weight) - 1)
        packed = Packed(items)
        assert self.retriever is not None  # the constructor checks it
        scores = self.retriever(packed, feelings) @ self.retriever.item_weights().T  # (N, n_items + 1)
        scores[:, 0] = -torch.inf
        if self.exclude_seen:
            mask_seen(scores, items, packed.row, packed.column)
        best = scores.topk(count, dim=1).indices  # (N, K)
        out = items.new_zeros((*items.shape, count))
        out[packed.row, packed.column] = best
        return out

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Loss and NDCG@10 over the catalogue at held-out positions: a window's last two (inductive) or its last one.

        Only these were not trained on by a retriever. As in the evaluation, with ``retrieve.exclude_seen`` items of the
        history are not ranked, even if they lie before the window.
        """
        table, losses, ranks = self.model.tokens.table(), [], []
        held_out = 1 if self.config.user_split == "transductive" else 2
        by_length, size = np.argsort(self.valid.lengths, kind="stable"), 4 * self.config.batch_size
        for start in range(0, len(self.valid), size):
            chosen = by_length[start : start + size]
            items, targets, feelings = self.tensors(self.valid, chosen)
            real = targets > 0  # (B, T)
            real &= real.flip(1).cumsum(1).flip(1) <= held_out
            logits = self.model(items, feelings)[real] @ table[1:].T  # (N, n_items)
            logits = F.pad(logits, (1, 0), value=-torch.inf)  # (N, n_items + 1)
            losses.append(F.cross_entropy(logits, targets[real], reduction="none"))
            if self.exclude_seen:
                row, column = real.nonzero(as_tuple=True)
                mask_seen(logits, items, row, column)
                logits.scatter_(1, self.older(self.valid.starts[chosen]).to(items.device)[row], -torch.inf)
            ranks.append(ranks_among(logits, targets[real]))
        return {
            "valid_loss": torch.cat(losses).mean().item(),
            "valid_ndcg@10": float(ndcg(torch.cat(ranks).cpu().numpy(), 10).mean()),
        }

    def tensors(self, windows: Windows, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Items and targets (B, T), feelings about the items (B, T, 2).

        Padding on the right has item 0 and arbitrary feelings.
        """
        starts, ends = windows.starts[chosen], windows.ends[chosen]
        places = starts[:, None] + np.arange((ends - starts).max())  # (B, T + 1) indices into flat
        real = places < ends[:, None]
        places = np.minimum(places, len(self.flat) - 1)
        items = np.where(real, self.flat[places], 0)
        inputs, targets = np.where(real[:, 1:], items[:, :-1], 0), items[:, 1:].copy()
        feelings = np.full((*inputs.shape, 2), np.nan, np.float32)
        if self.feelings is not None:
            feelings = self.feelings[places[:, :-1]].astype(np.float32)
        device = self.model.prefix.device
        on_device = [torch.from_numpy(values).to(device) for values in (inputs, targets, feelings)]
        return on_device[0], on_device[1], on_device[2]

    def older(self, starts: np.ndarray) -> Tensor:
        """(B, W) items of each window's user that lie before the window, zeros on the right."""
        begins = self.offsets[np.searchsorted(self.offsets, starts, side="right") - 1]
        places = begins[:, None] + np.arange((starts - begins).max())  # (B, W)
        items = self.flat[np.minimum(places, len(self.flat) - 1)]
        return torch.from_numpy(np.where(places < starts[:, None], items, 0))

    def judge(self, scores: dict[str, float]) -> float:
        """NDCG, because the order still improves after the loss has begun to rise from overconfidence."""
        return -scores["valid_ndcg@10"]

    def save(self, folder: Path) -> None:
        save_adapter(self.model.llm, folder)
        save_tokens(self.model.tokens, folder)


def softmax_term(query: Tensor, wanted: Tensor, table: Tensor, hard: Tensor | None) -> Tensor:
    """Sum of -log softmax of the targets. query (N, D), wanted (N,), table (n_items + 1, D) with padding in row 0.

    hard: (N, K) items that each target is compared with; None: the whole catalogue.
    """
    if hard is None:
        return softmax_loss(query, table[1:], wanted - 1) * len(wanted)
    candidates = torch.cat([wanted[:, None], hard], 1)  # (N, K + 1), the target first
    logits = torch.einsum("nd,nkd->nk", query, table[candidates])
    logits = logits.masked_fill(
        F.pad(hard == wanted[:, None], (1, 0)), -torch.inf
    )  # the target is not its own negative
    return F.cross_entropy(logits, torch.zeros_like(wanted), reduction="none").sum()


def mask_seen(scores: Tensor, items: Tensor, row: Tensor, column: Tensor) -> None:
    """Sets the scores of items up to each position to -inf, in place.

    scores (N, n_items + 1) of the positions (row, column), both (N,), of items (B, T).
    """
    so_far = torch.arange(items.shape[1], device=items.device) <= column[:, None]  # (N, T)
    scores.scatter_(1, items[row] * so_far, -torch.inf)  # later items become padding, which is -inf already
