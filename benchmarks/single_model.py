"""What known ways to train a better SASRec give, each alone, on validation items.

    python -m benchmarks.single_model --reviews R.parquet --folder FOLDER [--seeds 3] [--only "wider" ...] [--teacher T]

``sealr retrieve --data s3rec-beauty`` writes the reviews table of stage ``ingest``. Each try changes one thing of the
settings that `sealr benchmark --data s3rec-beauty` trains SASRec with, but for 20 epochs. FOLDER keeps the ranks of
each, so that a second run adds what is missing. Test items are not looked at. T is the folder of a trained retriever,
stage ``retriever``, that teaches the tries called taught. Prints Markdown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from sealr.data.sequences import Sequences, build
from sealr.data.tables import read_table
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import paired_bootstrap, shown
from sealr.retrieve.candidates import target_ranks
from sealr.retrieve.loss import softmax_loss
from sealr.retrieve.models.base import Packed, SequenceModel
from sealr.retrieve.models.bsarec import BSARec
from sealr.retrieve.models.layers import Block
from sealr.retrieve.models.sasrec import SASRec
from sealr.retrieve.retriever import Retriever, load, popularity
from sealr.retrieve.taught import Teacher, find_sharpness
from sealr.retrieve.train import NextItem, trainer_options
from sealr.settings import RetrieveConfig
from sealr.trainer import Trainer

PLAIN = RetrieveConfig(
    item_init="cooccurrence", schedule="cosine", lr=2e-3, batch_size=128, epochs=20, eval_every=5
)  # of configs/comparisons/retrievers.yaml
BASE, TAUGHT = "SASRec", "taught"
Batch = tuple[Tensor, ...]


class Smoothed(NextItem):
    """Label smoothing (Szegedy et al. 2016): a tenth of the target's probability goes to all items."""

    def loss(self, shard: Batch, batch: Any, epoch: int) -> tuple[Tensor, float]:
        hidden, targets = self.model.training_pairs(*shard[:2])
        logits = hidden @ self.model.item_weights()[1:].T  # (M, items)
        return F.cross_entropy(logits, targets - 1, label_smoothing=0.1), len(targets)


class Corrected(NextItem):
    """Logit adjustment (Menon et al. 2021): training adds 0.1 log popularity to the logits, ranking does not."""

    def loss(self, shard: Batch, batch: Any, epoch: int) -> tuple[Tensor, float]:
        hidden, targets = self.model.training_pairs(*shard[:2])
        counts = torch.from_numpy(self.retriever.popularity[1:]).clamp(min=0.5)
        logits = hidden @ self.model.item_weights()[1:].T + 0.1 * (counts / counts.sum()).log()
        return F.cross_entropy(logits, targets - 1), len(targets)


class RDrop(NextItem):
    """R-Drop (Liang et al. 2021): two readings differ by dropout; their distributions' divergence is a loss, too."""

    def loss(self, shard: Batch, batch: Any, epoch: int) -> tuple[Tensor, float]:
        weights = self.model.item_weights()[1:]
        (first, targets), (second, _) = (self.model.training_pairs(*shard[:2]) for _ in range(2))  # (M, D), (M,)
        p, q = ((hidden @ weights.T).log_softmax(1) for hidden in (first, second))  # (M, items)
        entropy = (F.nll_loss(p, targets - 1) + F.nll_loss(q, targets - 1)) / 2
        return entropy + ((p.exp() - q.exp()) * (p - q)).sum(1).mean() / 2, len(targets)


class Contrast(NextItem):
    """DuoRec's unsupervised part (Qiu et al. 2022): the other reading of a position among those of other targets."""

    def loss(self, shard: Batch, batch: Any, epoch: int) -> tuple[Tensor, float]:
        weights = self.model.item_weights()[1:]
        (first, targets), (second, _) = (self.model.training_pairs(*shard[:2]) for _ in range(2))  # (M, D), (M,)
        entropy = (softmax_loss(first, weights, targets - 1) + softmax_loss(second, weights, targets - 1)) / 2
        return entropy + 0.1 * contrast(first, second, targets), len(targets)


def contrast(first: Tensor, second: Tensor, targets: Tensor) -> Tensor:
    """InfoNCE of (M, D) pairs at a temperature of .1; rows with the same target are no negatives of each other."""
    alike = F.normalize(first) @ F.normalize(second).T / 0.1  # (M, M)
    same = (targets[:, None] == targets) & ~torch.eye(len(targets), dtype=torch.bool)
    return F.cross_entropy(alike.masked_fill(same, -torch.inf), torch.arange(len(targets)))


class SameTarget(NextItem):
    """DuoRec's supervised part: another user's prefix with the same next item, among those of other items."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        starts, ends = self.training.starts, self.training.ends
        spans = np.concatenate(
            [np.stack([np.full(e - s - 1, s), np.arange(s + 1, e)], 1) for s, e in zip(starts, ends, strict=True)]
        )  # (positions, 2) first item of a prefix, and its target
        wanted = self.training.flat[spans[:, 1]]
        self.spans = spans[np.argsort(wanted, kind="stable")]
        self.bounds = np.searchsorted(np.sort(wanted), np.arange(self.sequences.n_items + 2))  # by target

    def loss(self, shard: Batch, batch: Any, epoch: int) -> tuple[Tensor, float]:
        entropy, n = super().loss(shard, batch, epoch)
        inputs, targets = shard[:2]
        last = targets.gather(1, (targets > 0).sum(1, keepdim=True) - 1)[:, 0]  # (B,)
        low, high = (torch.from_numpy(self.bounds)[last + k] for k in (0, 1))
        drawn = self.spans[(low + (torch.rand(len(last)) * (high - low)).long()).numpy()]  # (B, 2)
        others = [torch.from_numpy(self.training.flat[max(s, e - self.config.max_len) : e]) for s, e in drawn]
        first = self.model.encode_last(inputs)
        second = self.model.encode_last(nn.utils.rnn.pad_sequence(others, batch_first=True))
        return entropy + 0.1 * contrast(first, second, last), n


class LeftOut(NextItem):
    """A fifth of the items that are read are left out, with their positions' predictions (CL4SRec's mask)."""

    def loss(self, shard: Batch, batch: Any, epoch: int) -> tuple[Tensor, float]:
        inputs, targets = shard[:2]
        kept = torch.rand(inputs.shape) >= 0.2
        return super().loss((inputs * kept, targets * kept, None), batch, epoch)


class Windows(NextItem):
    """Every item of a long history is predicted once, in windows of ``max_len``, and not only the newest ones."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        part, length = self.sequences.split("train"), self.config.max_len
        windows = np.maximum(-(-(part.ends - part.starts - 1) // length), 0)  # (users,)
        number = np.arange(windows.sum()) - np.repeat(windows.cumsum() - windows, windows)  # from the newest
        ends = np.repeat(part.ends, windows) - number * length
        starts = np.maximum(np.repeat(part.starts, windows), ends - length - 1)
        self.training.starts, self.training.ends = starts, ends
        self.training.positions = int((ends - starts - 1).sum())


class Reversed(NextItem):
    """At first half of the rows are read backwards, and ever fewer of them until the last epoch has none."""

    def batches(self, epoch: int) -> Any:
        return Backwards(self.training, (1 - epoch / (self.config.epochs - 1)) / 2)


class Backwards:
    def __init__(self, batches: Any, share: float) -> None:
        self.batches, self.share = batches, share

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for inputs, targets, feelings in self.batches:
            rows = torch.cat([inputs[:, :1], targets], 1)  # (B, L + 1), zeros to the right
            lengths = (rows > 0).sum(1, keepdim=True)
            places = (lengths - 1 - torch.arange(rows.shape[1])) % rows.shape[1]
            turned = rows.gather(1, places) * (torch.arange(rows.shape[1]) < lengths)
            rows = torch.where(torch.rand(len(rows), 1) < self.share, turned, rows)
            yield torch.where(rows[:, 1:] > 0, rows[:, :-1], 0), rows[:, 1:], feelings


class GatedBlock(Block):
    """LiGR (Borisyuk et al. 2025), as in eSASRec: a gate, computed from the block's input, multiplies what is added."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__(hidden, heads, dropout)
        self.gates = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), packed) * self.gates[0](x).sigmoid())
        return x + self.dropout(self.feed(self.feed_norm(x)) * self.gates[1](x).sigmoid())


class Gated(SASRec):
    def __init__(self, n_items: int, config: RetrieveConfig) -> None:
        super().__init__(n_items, config)
        self.blocks = nn.ModuleList(GatedBlock(config.hidden, config.heads, config.dropout) for _ in self.blocks)


class SeparateDropout(SASRec):
    """Dropout of .5 on the embeddings as before, and of .2 within the blocks."""

    def __init__(self, n_items: int, config: RetrieveConfig) -> None:
        super().__init__(n_items, config)
        self.blocks = nn.ModuleList(Block(config.hidden, config.heads, 0.2) for _ in self.blocks)


TRIES: dict[str, tuple[dict[str, Any], Callable[..., NextItem], Callable[..., SequenceModel]]] = {
    BASE: ({}, NextItem, SASRec),
    "moving average of weights, .999": ({"ema_decay": 0.999}, NextItem, SASRec),
    "label smoothing, .1": ({}, Smoothed, SASRec),
    "popularity-corrected logits": ({}, Corrected, SASRec),
    "wider: 128, dropout .6": ({"hidden": 128, "dropout": 0.6}, NextItem, SASRec),
    "deeper: 4 blocks": ({"layers": 4}, NextItem, SASRec),
    "two heads": ({"heads": 2}, NextItem, SASRec),
    "gated blocks": ({}, NextItem, Gated),
    "less dropout in the blocks": ({}, NextItem, SeparateDropout),
    "items left out": ({}, LeftOut, SASRec),
    "windows over the whole history": ({}, Windows, SASRec),
    "rows read backwards at first": ({}, Reversed, SASRec),
    "contrast of two readings": ({}, Contrast, SASRec),
    "contrast of users with the same target": ({}, SameTarget, SASRec),
    "R-Drop": ({}, RDrop, SASRec),
    "taught": ({}, NextItem, SASRec),
    "BSARec": ({"model": "bsarec"}, NextItem, BSARec),
    "BSARec, taught": ({"model": "bsarec"}, NextItem, BSARec),
}


def attempt(name: str, sequences: Sequences, folder: Path, seed: int, teacher: Path | None) -> tuple[np.ndarray, float]:
    """(users,) ranks of the validation items by the best epoch, and CPU seconds. Trains unless FOLDER has them."""
    taught_by = f"-{teacher.name}" if teacher and name.endswith(TAUGHT) else ""
    kept = folder / f"{''.join(c if c.isalnum() else '-' for c in name)}{taught_by}-{seed}.npz"
    if not kept.exists():
        settings, task, network = TRIES[name]
        config, started = replace(PLAIN, seed=seed, **settings), time.process_time()
        torch.manual_seed(seed)
        model = network(sequences.n_items, config)
        retriever = Retriever(config, sequences.items, model, popularity(sequences))
        lessons = None
        if teacher and taught_by:
            fusion = load(teacher)
            lessons = Teacher(fusion, find_sharpness(fusion, sequences))
        training = task(retriever, sequences, None, lessons)
        options = replace(trainer_options(config, len(training.training)), name=name)
        Trainer(training, options, kept.with_suffix(".pt"), {"try": name, "seed": seed}).fit()
        ranks = target_ranks(retriever, sequences, "valid", True)
        np.savez(kept, ranks=ranks, seconds=time.process_time() - started)
        kept.with_suffix(".pt").unlink(missing_ok=True)
    found = np.load(kept)
    return found["ranks"], float(found["seconds"])


def main(
    reviews: Annotated[Path, typer.Option(help="the reviews table of stage ingest")],
    folder: Annotated[Path, typer.Option(help="keeps the ranks")],
    seeds: int = 1,
    only: Annotated[list[str] | None, typer.Option(help="tries, by name; repeat it for several")] = None,
    teacher: Annotated[Path | None, typer.Option(help="a trained retriever; without it no try is taught")] = None,
) -> None:
    """What known ways to train a better SASRec give, each alone, on validation items."""
    if not teacher and any(name.endswith(TAUGHT) for name in only or ()):
        raise typer.BadParameter("a taught try needs --teacher, the folder of a trained retriever")
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    sequences = build(read_table(reviews, "reviews"))
    rows: list[dict[str, Any]] = []
    names = only or [name for name in TRIES if name != BASE and (teacher or not name.endswith(TAUGHT))]
    for name in [BASE, *names]:
        ranks, seconds = zip(*(attempt(name, sequences, folder, seed, teacher) for seed in range(seeds)), strict=True)
        hits, gains = (np.stack([metric(r, 10) for r in ranks]) for metric in (hit_rate, ndcg))  # (seeds, users)
        if name == BASE:
            base = hits, gains
        differences = [shown(*paired_bootstrap(*pair)) for pair in zip((hits, gains), base, strict=True)]
        row = {"try": name, "HR@10": f"{hits.mean():.4f}", "NDCG@10": f"{gains.mean():.4f}"}
        row |= {} if name == BASE else {"HR@10 minus SASRec": differences[0], "NDCG@10 minus SASRec": differences[1]}
        rows.append(row | {"CPU s": f"{np.mean(seconds):,.0f}"})
        print(markdown_table(pd.DataFrame(rows).fillna("")), flush=True)


if __name__ == "__main__":
    typer.run(main)
