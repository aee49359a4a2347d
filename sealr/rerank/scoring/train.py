"""Fine-tuning the scoring ranker: next item at every position of a history, against the whole catalogue or hard negatives.

Inductive: all items of the fine-tuning users, the last two included, and a loss over all positions of the validation users.
Transductive: the histories of all users without their last two items; validated on the last but one item of a sample of users.
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
from sealr.data.tables import write_json
from sealr.evaluate.metrics import ndcg
from sealr.rerank import parallel
from sealr.rerank.generative.finetune import ADAPTER, adapter_state, check_users, count_parameters, save_adapter, set_adapter_state, sizes
from sealr.rerank.fit import OnEpoch, fit, shuffled
from sealr.rerank.scoring.model import ScoringModel, build, save_tokens
from sealr.rerank.llm import add_lora
from sealr.retrieve.candidates import ranks_among
from sealr.retrieve.loss import softmax_loss
from sealr.retrieve.models.base import Packed, SequenceModel
from sealr.retrieve.retriever import Retriever
from sealr.retrieve.start import cooccurrence_embeddings
from sealr.settings import RerankConfig

log = logging.getLogger(__name__)
VALID_USERS = 2000  # of the transductive setting, at most
FEW = 50  # validation items by which no epoch can be told from the next


@dataclass(frozen=True)
class Windows:
    """Stretches of ``Sequences.flat``: row i reads flat[starts[i] : ends[i] - 1] and learns or predicts what comes after each item."""

    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> np.ndarray:
        return self.ends - self.starts - 1


def training_rows(sequences: Sequences, train: list[int], valid: list[int], config: RerankConfig) -> tuple[Windows, Windows]:
    """Windows to train on and to validate on. train, valid: rows of ``sequences.users``, not used in the transductive setting."""
    if config.user_split == "inductive":
        return tuple(_rows(sequences.offsets[u], sequences.offsets[np.array(u) + 1], config) for u in (train, valid))
    split = sequences.split("train")
    held_out = sequences.split("valid")
    drawn = np.sort(np.random.default_rng(config.seed).permutation(len(held_out))[:VALID_USERS])
    return (_rows(split.starts, split.ends, config), _rows(held_out.starts[drawn], held_out.ends[drawn] + 1, config))


def _rows(starts: np.ndarray, ends: np.ndarray, config: RerankConfig) -> Windows:
    long = ends - starts >= 2
    starts, ends = starts[long], ends[long]
    return Windows(np.maximum(starts, ends - config.max_history - 1), ends)


def train_scoring(
    config: RerankConfig,
    category: str,
    sequences: Sequences,
    feelings: np.ndarray | None,
    users: tuple[list[int], list[int]],
    retriever: Retriever,
    content: Tensor | None,
    folder: Path,
    on_epoch: OnEpoch | None = None,
) -> StageResult:
    """Trains and writes adapter and soft tokens of the best epoch to ``folder/adapter``.

    feelings: (interactions, 2) class and expected sentiment, aligned with ``sequences.flat``, None without sentiment. users: rows
    of ``sequences.users`` to train and to validate on in the inductive setting. content: (n_items + 1, C) where configured.
    Raises ValueError when there is nothing to train or to validate on.
    """
    train, valid = training_rows(sequences, *users, config)
    check_users(len(train), len(valid))
    judged = len(valid) if config.user_split == "transductive" else 2 * len(valid)
    if judged < FEW:
        more = "these data have too few users" if config.user_split == "transductive" else "raise rerank.valid_share"
        log.warning("the epoch to keep is chosen by %d validation items, which is nearly by chance: %s", judged, more)
    torch.manual_seed(config.seed)
    model = build(config, add_lora(config), category, item_table(retriever, sequences), content)
    task = NextItems(model, config, sequences, feelings, train, valid, hard_model(retriever), retriever.config.exclude_seen)
    rows = {"train_users": len(train), "valid_users": len(valid), "positions": int(train.lengths.sum())} | count_parameters(model)
    log.info("fine-tuning %s of %s parameters on %d positions, seed %d", *sizes(rows), rows["positions"], config.seed)
    done = fit(task, config, folder, on_epoch)
    if parallel.rank() == 0:
        save_adapter(model.llm, folder / ADAPTER)
        save_tokens(model.tokens, folder / ADAPTER)
        write_json(done.history, folder / "history.json")
    return StageResult(rows, done.metrics("valid_loss", "valid_ndcg@10"))


def sequence_model(retriever: Retriever) -> SequenceModel | None:
    """The neural retriever, or the first neural part of a fusion."""
    return next(_neural(retriever), None)


def hard_model(retriever: Retriever) -> SequenceModel | None:
    """The same where hard negatives come from it: it must not see, at a position, what comes later."""
    return next((part for part in _neural(retriever) if part.causal), None)


def _neural(retriever: Retriever) -> Iterator[SequenceModel]:
    parts = getattr(retriever.model, "parts", [retriever.model])
    return (part for part in parts if isinstance(part, SequenceModel))


@torch.inference_mode()
def item_table(retriever: Retriever, sequences: Sequences) -> Tensor:
    """(n_items + 1, D) item embeddings of the retriever; from co-occurrence where it has none."""
    model = sequence_model(retriever)
    if model is None:
        return cooccurrence_embeddings(sequences, retriever.config.hidden)
    table = model.item_weights().detach().float().cpu().clone()
    table[0] = 0
    return table


class NextItems:
    """The task of ``fit``: at every position, the item after it."""

    def __init__(
        self,
        model: ScoringModel,
        config: RerankConfig,
        sequences: Sequences,
        feelings: np.ndarray | None,
        train: Windows,
        valid: Windows,
        retriever: SequenceModel | None,
        exclude_seen: bool = False,
    ) -> None:
        if config.scoring.negative_source == "hard" and retriever is None:
            raise ValueError(
                "rerank.scoring.negative_source: hard needs a neural retriever, or a fusion with one, that only reads the past: not bert4rec, "
                "nor bsarec with retrieve.objective=last"
            )
        self.model, self.config, self.feelings = model, config, feelings
        self.flat, self.offsets = sequences.flat, sequences.offsets
        self.train, self.valid, self.retriever, self.exclude_seen = train, valid, retriever, exclude_seen
        self.weight_decay = config.scoring.weight_decay

    def batches(self, epoch: int) -> list[np.ndarray]:
        return shuffled(len(self.train), self.config.batch_size, self.config.seed, epoch, self.train.lengths)

    def loss(self, rows: Sequence[int], batch: np.ndarray, epoch: int) -> Tensor:
        items, targets, felt = self._batch(self.train, np.asarray(rows))
        real = targets > 0  # (B, T)
        query, wanted = self.model(items, felt[..., 0, :])[real], targets[real]  # (N, D), (N,)
        value = felt[..., 1, :][real]  # (N, 2) how the user felt about the target
        mode = self.config.scoring.target_feeling
        bad = value[:, 0] < 0 if mode == "negative" else torch.zeros_like(wanted, dtype=torch.bool)
        weights = 1 + value[:, 1].nan_to_num(0.0) / 2 if mode == "weight" else torch.ones_like(query[:, 0])
        table = self.model.tokens.table()
        losses = torch.zeros((), device=query.device)
        if (~bad).any():
            losses = losses + self._likely(query[~bad], table, wanted[~bad], weights[~bad], items, felt, targets, ~bad)
        if bad.any():
            share = (query[bad] @ table[1:].T).log_softmax(1).gather(1, wanted[bad, None] - 1)  # (n, 1) log p
            losses = losses - torch.log1p(-share.exp().clamp(max=1 - 1e-4)).sum()
        return losses / int(self.train.lengths[batch].sum())

    def _likely(
        self,
        query: Tensor,
        table: Tensor,
        wanted: Tensor,
        weights: Tensor,
        items: Tensor,
        felt: Tensor,
        targets: Tensor,
        kept: Tensor,
    ) -> Tensor:
        """Sum of weighted -log softmax of the targets, over the catalogue or over the retriever's best items there."""
        if self.config.scoring.negative_source == "full":
            if self.config.scoring.target_feeling != "weight":
                return softmax_loss(query, table[1:], wanted - 1) * len(wanted)
            return (F.cross_entropy(query @ table[1:].T, wanted - 1, reduction="none") * weights).sum()
        against = self._hard(items, felt[..., 0, :])[targets > 0][kept]  # (N, K)
        chosen = torch.cat([wanted[:, None], against], 1)  # (N, K + 1), the target first
        logits = torch.einsum("nd,nkd->nk", query, table[chosen])
        logits = logits.masked_fill(F.pad(against == wanted[:, None], (1, 0)), -torch.inf)
        return (F.cross_entropy(logits, torch.zeros_like(wanted), reduction="none") * weights).sum()

    @torch.no_grad()
    def _hard(self, items: Tensor, felt: Tensor) -> Tensor:
        """(B, T), (B, T, 2) -> (B, T, K) the items that the retriever ranks highest after each position; zeros at padding.

        Without those of the row so far where ``retrieve.exclude_seen``. felt: what the LLM knows of the feelings.
        """
        count = min(self.config.scoring.n_hard_negatives, len(self.model.tokens.items.weight) - 1)
        packed = Packed(items)
        scores = self.retriever(packed, felt) @ self.retriever.item_weights().T  # (N, items + 1)
        scores[:, 0] = -torch.inf
        if self.exclude_seen:
            _mask_seen(scores, items, packed.row, packed.column)
        best = scores.topk(count, dim=1).indices
        out = items.new_zeros((*items.shape, count))
        out[packed.row, packed.column] = best
        return out

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Loss and NDCG@10 in the whole catalogue, of the positions that no retriever has learned: a row's last two (inductive), or one.

        As in the evaluation, items before a position are not ranked there where ``retrieve.exclude_seen``, those that a long history has
        before the row's start included.
        """
        table, losses, ranks = self.model.tokens.table(), [], []
        by_length, size = np.argsort(self.valid.lengths, kind="stable"), 4 * self.config.batch_size
        for start in range(0, len(self.valid), size):
            chosen = by_length[start : start + size]
            items, targets, felt = self._batch(self.valid, chosen)
            real = targets > 0
            real &= real.flip(1).cumsum(1).flip(1) <= (1 if self.config.user_split == "transductive" else 2)
            logits = F.pad(self.model(items, felt[..., 0, :])[real] @ table[1:].T, (1, 0), value=-torch.inf)  # (N, items + 1)
            losses.append(F.cross_entropy(logits, targets[real], reduction="none"))
            if self.exclude_seen:
                row, column = real.nonzero(as_tuple=True)
                _mask_seen(logits, items, row, column)
                logits.scatter_(1, self._older(self.valid.starts[chosen]).to(items.device)[row], -torch.inf)
            ranks.append(ranks_among(logits, targets[real]))
        return {
            "valid_loss": torch.cat(losses).mean().item(),
            "valid_ndcg@10": float(ndcg(torch.cat(ranks).cpu().numpy(), 10).mean()),
        }

    def _batch(self, rows: Windows, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Items and targets, (B, T) with zeros to the right, and feelings (B, T, 2, 2): of the item and of the target."""
        starts, ends = rows.starts[chosen], rows.ends[chosen]
        where = starts[:, None] + np.arange((ends - starts).max())  # (B, T + 1)
        real = where < ends[:, None]
        where = np.minimum(where, len(self.flat) - 1)
        items = np.where(real, self.flat[where], 0)
        felt = np.full((*where.shape, 2), np.nan, np.float32) if self.feelings is None else self.feelings[where]
        targets = items[:, 1:]
        inputs = np.where(targets > 0, items[:, :-1], 0)
        device = self.model.prefix.device
        both = np.stack([felt[:, :-1], felt[:, 1:]], axis=2).astype(np.float32)
        return tuple(torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (inputs, targets, both))

    def _older(self, starts: np.ndarray) -> Tensor:
        """(B, W) items of each row's user that lie before its start in ``flat``, zeros to the right."""
        begins = self.offsets[np.searchsorted(self.offsets, starts, side="right") - 1]
        where = begins[:, None] + np.arange((starts - begins).max())  # (B, W)
        items = self.flat[np.minimum(where, len(self.flat) - 1)]  # what is beyond is not before a start
        return torch.from_numpy(np.where(where < starts[:, None], items, 0))

    def judge(self, scores: dict[str, float]) -> float:
        """By NDCG: the order still gets better when the loss, which also wants honest probabilities, has begun to rise."""
        return -scores["valid_ndcg@10"]

    def state(self) -> dict[str, Tensor]:
        soft = {f"tokens.{n}": p.detach().cpu().clone() for n, p in self.model.tokens.named_parameters() if p.requires_grad}
        return adapter_state(self.model.llm) | soft

    def load(self, state: dict[str, Tensor]) -> None:
        soft = {n.removeprefix("tokens."): t for n, t in state.items() if n.startswith("tokens.")}
        self.model.tokens.load_state_dict(soft, strict=False)  # frozen embeddings and texts are there already
        set_adapter_state(self.model.llm, {n: t for n, t in state.items() if not n.startswith("tokens.")})


def _mask_seen(scores: Tensor, items: Tensor, row: Tensor, column: Tensor) -> None:
    """Puts what a row of items (B, T) has up to a column at -inf, in place. scores (N, items + 1) of the positions row, column (N,)."""
    so_far = torch.arange(items.shape[1], device=items.device) <= column[:, None]  # (N, T)
    scores.scatter_(1, items[row] * so_far, -torch.inf)  # what is later lands on padding, which is at -inf already
