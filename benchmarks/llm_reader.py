"""Does it pay to tune a reading LLM on the task? Text towers with each reader, tuned and frozen. Prints Markdown.

``python -m benchmarks.llm_reader REVIEWS.parquet FOLDER [--readers MiniLM,SmolLM2,random] [--seeds 0] [--steps 100]
[--fusions DIR,DIR]``

REVIEWS.parquet is the table that ``sealr ingest`` writes. FOLDER keeps every result, so a second call goes on. Each
reader is measured as a retriever of its own (`benchmarks/text_towers.py`), as the source of SASRec's item content, and
as one more part of trained fusions (folders of stage ``retriever``). Weights are found on validation.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from benchmarks.text_towers import (
    READERS,
    SPLITS,
    Data,
    Reader,
    Shape,
    answers,
    lower_states,
    pooled,
    train_towers,
    tuned_states,
)
from sealr.data.tables import atomic_path, read_table
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import paired_bootstrap, shown
from sealr.retrieve.candidates import ranks_among
from sealr.retrieve.fusion import PASSES, WEIGHTS
from sealr.retrieve.models.fusion import part_configs, standardise, standardise_items
from sealr.retrieve.retriever import load, pad
from sealr.retrieve.train import train
from sealr.settings import RetrieveConfig

MASKED = torch.tensor(-torch.inf)
METRICS = {"NDCG@10": lambda r: ndcg(r, 10), "HR@10": lambda r: hit_rate(r, 10), "HR@100": lambda r: hit_rate(r, 100)}


def ranks(data: Data, scores: Tensor, split: str) -> np.ndarray:
    """Rank of each user's target among the items that the user has not had."""
    part = data.sequences.split(split)
    rows = np.repeat(np.arange(len(part)), part.ends - part.starts)
    scores = scores.index_put(
        (torch.from_numpy(rows), torch.from_numpy(np.concatenate(list(part.histories())))), MASKED
    )
    scores[:, 0] = MASKED
    return ranks_among(scores, torch.from_numpy(part.targets)).numpy()


def all_scores(data: Data, model: Any, max_len: int, split: str) -> Tensor:
    """(users, items + 1) z-scores of a retriever's network."""
    with torch.inference_mode():
        return standardise_items(model.score(pad(list(data.sequences.split(split).histories()), max_len)))


def sasrec(data: Data, content: Tensor, seed: int) -> dict[str, Tensor]:
    """Scores of SASRec that reads content (items + 1, C), standardised per dimension and of length 8."""
    has, table = data.count > 0, torch.zeros_like(content)
    config = RetrieveConfig(content="reviews", seed=seed)
    table[has] = config.content_scale * F.normalize(standardise(content[has].T).T, dim=1)
    with tempfile.TemporaryDirectory() as folder:
        train(config, data.sequences, Path(folder), content=table)
        model = load(Path(folder)).model
    return {split: all_scores(data, model, config.max_len, split) for split in SPLITS}


def fused(data: Data, folder: Path, more: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Scores of a trained fusion whose weights are found again, by its own rule, with these parts beside its own."""
    fusion = load(folder)
    lengths = [part.max_len for part in part_configs(fusion.config)]
    parts = [
        {split: all_scores(data, model, length, split) for split in SPLITS}
        for model, length in zip(fusion.model.parts, lengths, strict=True)
    ] + more
    closed = [hasattr(model, "fit") for model in fusion.model.parts] + [False] * len(more)
    found = [0.0 if c else 1.0 for c in closed]
    for number in [*range(1, len(parts))] * PASSES:
        rest = sum(w * p["valid"] for n, (w, p) in enumerate(zip(found, parts, strict=True)) if n != number)
        tried = [ndcg(ranks(data, rest + w * parts[number]["valid"], "valid"), 10).mean() for w in WEIGHTS]
        found[number] = WEIGHTS[int(np.argmax(tried))]
    print(f"weights of {folder.name} and {len(more)} more: {found}")
    return {split: sum(w * p[split] for w, p in zip(found, parts, strict=True)) for split in SPLITS}


def read(data: Data, shape: Shape, below: tuple[Tensor, Tensor], way: str, steps: int, seed: int) -> dict[str, Any]:
    """What `answers` returns for a reader. below: from ``lower_states``."""
    if way == "tuned":
        bank = tuned_states(data, shape, *below, steps, seed)
    else:
        bank = pooled(Reader(shape, upper=True), *below)
    return answers(data, train_towers(data, bank, seed), bank)


def once(path: Path, make: Any) -> Any:
    """What ``make()`` returns, kept in a file."""
    if not path.exists():
        made = make()
        with atomic_path(path) as temporary:
            torch.save(made, temporary)
    return torch.load(path, weights_only=True)


def main(
    reviews: Path,
    folder: Path,
    readers: Annotated[str, typer.Option(help="of MiniLM, SmolLM2 and random")] = "MiniLM,SmolLM2,random",
    seeds: Annotated[str, typer.Option(help="separated by commas")] = "0",
    steps: Annotated[int, typer.Option(help="of the encoder")] = 100,
    fusions: Annotated[str, typer.Option(help="folders of trained fusions, separated by commas")] = "",
) -> None:
    """Trains what is not in FOLDER yet and prints the table."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    data, systems = Data(read_table(reviews, "reviews")), dict[str, list[dict[str, Tensor]]]()
    numbers, trained = [int(seed) for seed in seeds.split(",")], [Path(f) for f in fusions.split(",") if f]
    if trained:
        systems["fusion"] = [fused(data, fusion, []) for fusion in trained]
    for name in readers.split(","):
        shape, kept = READERS[name], folder / f"{name}.pt"
        states, mask = once(kept, lambda shape=shape: lower_states(shape, data.texts))
        for way in ("frozen", "tuned"):
            label = f"{name}, {way}"
            make = partial(read, data, shape, (states, mask), way, steps)
            systems[label] = [once(folder / f"{label}, {seed}.pt", partial(make, seed)) for seed in numbers]
            systems[f"SASRec + {label}"] = [
                once(folder / f"SASRec, {label}, {seed}.pt", partial(sasrec, data, run["profiles"], seed))
                for seed, run in zip(numbers, systems[label], strict=True)
            ]
            if trained:
                systems[f"fusion + {label}"] = [fused(data, fusion, systems[label][:1]) for fusion in trained]
    print(markdown_table(table(data, systems)))


def table(data: Data, systems: dict[str, list[dict[str, Tensor]]]) -> pd.DataFrame:
    """Means over seeds, and gains in NDCG@10: over frozen MiniLM or the fusion alone, and of SmolLM2 over random."""
    values = {
        name: {split: [ranks(data, run[split], split) for run in runs] for split in SPLITS}
        for name, runs in systems.items()
    }
    rows = []
    for name in systems:
        row: dict[str, Any] = {"system": name}
        kind = name.split(" + ")[0] + " + " if " + " in name else ""
        against = "fusion" if kind == "fusion + " else f"{kind}MiniLM, frozen"
        for split in SPLITS:
            row |= {f"{split} {m}": np.mean([f(r) for r in values[name][split]]) for m, f in METRICS.items()}
            if name != against and against in values:
                mine, theirs = (np.mean([ndcg(r, 10) for r in values[n][split]], axis=0) for n in (name, against))
                row[f"{split} gain"] = shown(*paired_bootstrap(mine, theirs))
            if "SmolLM2" in name and (control := name.replace("SmolLM2", "random")) in values:
                mine, theirs = (np.mean([ndcg(r, 10) for r in values[n][split]], axis=0) for n in (name, control))
                row[f"{split} over random"] = shown(*paired_bootstrap(mine, theirs))
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    typer.run(main)
