"""Recommends items that training has not seen, known by their texts alone, and judges it on users who took them.

    python -m benchmarks.cold_items STATE/amazon-musical-instruments/ingest/KEY --out cold

The folder holds reviews.parquet and items.parquet. Each seed holds out other items (`sealr.retrieve.cold`), trains on
what is left, and appends them. The placebo is trained and asked with the texts of other items. A last table has other
embeddings for the ids of new items, on validation targets. Prints Markdown. Finished trainings in --out are used again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from sealr.content.profiles import Parts, Profiles, build_profiles, newest_training_rows
from sealr.content.readers import Reader
from sealr.content.vectors import vector_parts
from sealr.data.manifest import state_dir
from sealr.data.sequences import Sequences, Split, build
from sealr.data.tables import read_table
from sealr.evaluate.metrics import chance, hit_rate, ndcg
from sealr.evaluate.statistics import bootstrap_mean, paired_bootstrap, shown
from sealr.retrieve.cold import append_items, hold_out_items, ranks_of
from sealr.retrieve.train import load, train
from sealr.settings import Content, ContentConfig, RetrieveConfig

METRICS = {"HR@10": partial(hit_rate, k=10), "HR@50": partial(hit_rate, k=50), "NDCG@10": partial(ndcg, k=10)}
WHOLE, AMONG = "cold targets, whole catalogue", "cold targets, among the cold items"
BEFORE, AFTER = "other targets, before new items came", "other targets, after"
GROUPS = (WHOLE, AMONG, BEFORE, AFTER)
Ranks = dict[str, np.ndarray]


def main(
    folder: Annotated[Path, typer.Argument(help="Stage folder of ingest.")],
    out: Annotated[Path, typer.Option(help="Folder for trained retrievers.")],
    own: Annotated[str, typer.Option(help="Content to judge: reviews, metadata or both.")] = "reviews",
    share: Annotated[float, typer.Option(help="Share of the items to hold out.")] = 0.1,
    seeds: Annotated[str, typer.Option(help="Of draws and trainings.")] = "0,1,2",
    only: Annotated[str, typer.Option(help="Train only this content, for a second process.")] = "",
) -> None:
    table = read_table(folder / "reviews.parquet", "reviews")
    sequences, reading = build(table), ContentConfig()
    read = partial(vector_parts, reader=Reader(reading), cache=state_dir() / "vector-cache")
    texts, times = (sequences.values(table, name) for name in ("text", "timestamp"))
    items = read_table(folder / "items.parquet", "items")
    profiles = build_profiles(items, texts, times, sequences, reading.max_reviews, read)
    numbers = [int(seed) for seed in seeds.split(",")]
    choices: tuple[Content, ...] = (own, "shuffled")  # type: ignore[assignment]
    found: dict[str, list[Ranks]] = {}
    for choice in choices:
        if not only or choice == only:
            found[choice] = [judged(sequences, profiles, choice, share, seed, out) for seed in numbers]
    if only:
        return
    held = [hold_out_items(sequences, share, seed) for seed in numbers]
    parts, sizes = [h.targets("test", True) for h in held], [(len(h.names), h.sequences.n_items) for h in held]
    print(f"{len(held)} draws of {sizes[0][0]} of {sequences.n_items} items; {sum(map(len, parts))} cold targets\n")
    report(found, own, chances(parts, sizes))
    few = {most: newest_profiles(sequences, texts, times, most, profiles, read) for most in (3, 1) if own == "reviews"}
    trials([tried(sequences, profiles, few, choices[0], share, seed, out) for seed in numbers])


def judged(sequences: Sequences, profiles: Profiles, choice: Content, share: float, seed: int, out: Path) -> Ranks:
    """Ranks of the test targets by group. Trains unless it was done before."""
    config = RetrieveConfig(content=choice, seed=seed)
    held, content = hold_out_items(sequences, share, seed), profiles.table(choice, config.content_scale, seed)
    folder = out / f"{choice}-{share:g}-{seed}"
    if not (folder / "retriever.json").is_file():
        train(config, held.sequences, folder, content=held.learned(content))
    before = load(folder)
    after = append_items(before, held.names, [held.new(content)])
    cold, warm = (held.targets("test", held_out) for held_out in (True, False))
    first = held.sequences.n_items + 1
    made = (ranks_of(after, cold), ranks_of(after, cold, first), ranks_of(before, warm), ranks_of(after, warm))
    return dict(zip(GROUPS, made, strict=True))


def chances(parts: list[Split], sizes: list[tuple[int, int]]) -> dict[str, dict[str, float]]:
    """Expected figures of a random order of the items that are candidates, mean over the cold targets."""
    found: dict[str, dict[str, float]] = {}
    for group in (WHOLE, AMONG):
        counts = np.concatenate(
            [
                [cold + (group == WHOLE) * (warm - len(set(history.tolist()))) for history in part.histories()]
                for part, (cold, warm) in zip(parts, sizes, strict=True)
            ]
        )
        found[group] = {f"HR@{k}": float(chance(counts, k)[0].mean()) for k in (10, 50)}
        found[group]["NDCG@10"] = float(chance(counts, 10)[1].mean())
    return found


def report(found: dict[str, list[Ranks]], own: str, by_chance: dict[str, dict[str, float]]) -> None:
    for group in GROUPS:
        print(f"**{group}**\n\n| | targets | {' | '.join(METRICS)} |\n|---|---:|{'---:|' * len(METRICS)}")
        values = {c: {name: m(_all(found[c], group)) for name, m in METRICS.items()} for c in found}
        for choice, figures in values.items():
            cells = [shown(*bootstrap_mean(v), sign="") for v in figures.values()]
            name = "placebo: texts of other items" if choice == "shuffled" else f"content: {choice}"
            print(f"| {name} | {len(figures['HR@10'])} | {' | '.join(cells)} |")
        if len(values) > 1:
            gains = [shown(*paired_bootstrap(values[own][m], values["shuffled"][m])) for m in METRICS]
            print(f"| difference | | {' | '.join(gains)} |")
        if group in by_chance:
            print(f"| chance | | {' | '.join(f'{by_chance[group][m]:.4f}' for m in METRICS)} |")
        if group == AFTER:
            for name, cold in (("after minus before", False), ("the same with the cold targets", True)):
                pairs = [_pair(found[own], metric, cold) for metric in METRICS.values()]
                print(f"| {name} | {len(pairs[0][0])} | {' | '.join(shown(*paired_bootstrap(*p)) for p in pairs)} |")
        print()


def _pair(seeds: list[Ranks], metric: Callable[[np.ndarray], np.ndarray], cold: bool) -> tuple[np.ndarray, np.ndarray]:
    """A metric after and before the new items came, when no cold target could be a hit."""
    after, before = metric(_all(seeds, AFTER)), metric(_all(seeds, BEFORE))
    values = metric(_all(seeds, WHOLE)) if cold else np.zeros(0)
    return np.append(after, values), np.append(before, np.zeros(len(values)))


def newest_profiles(
    sequences: Sequences, texts: np.ndarray, times: np.ndarray, most: int, profiles: Profiles, read: Parts
) -> Tensor:
    """(n_items + 1, C) profiles of the newest ``most`` training reviews of each item."""
    rows = newest_training_rows(sequences, times, most)
    vectors, owners = np.concatenate([part for _, part in read(texts[rows].tolist())]), sequences.flat[rows]
    sums = np.zeros((sequences.n_items + 1, vectors.shape[1]))
    np.add.at(sums, owners, vectors)
    counts = np.maximum(np.bincount(owners, minlength=len(sums)), 1)[:, None]
    return profiles.standardised("reviews", torch.from_numpy(sums / counts).float())


def tried(
    sequences: Sequences,
    profiles: Profiles,
    few: dict[int, Tensor],
    choice: Content,
    share: float,
    seed: int,
    out: Path,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ranks of cold and of other validation targets, with other id embeddings or fewer reviews of the new items.

    few: number of reviews -> profiles of the whole catalogue.
    """
    held = hold_out_items(sequences, share, seed)
    before = load(out / f"{choice}-{share:g}-{seed}")
    after = append_items(before, held.names, [held.new(profiles.table(choice, before.config.content_scale, seed))])
    count, cold, warm = held.sequences.n_items, held.targets("valid", True), held.targets("valid", False)
    ids, content = after.model.items.ids.weight.data, F.normalize(after.model.items.content, dim=1)
    nearest = (content[count + 1 :] @ content[1 : count + 1].T).sort(dim=1, descending=True).indices + 1
    old = ids.clone()
    ways = {"zero": 0.0 * old[nearest[:, 0]], "mean of all items": old[1 : count + 1].mean(0)}
    ways |= {f"mean of the nearest {k}": old[nearest[:, :k]].mean(1) for k in (20, 5, 1)}
    found = {"no new items": (np.zeros(len(cold)), ranks_of(before, warm))}
    for name, rows in ways.items():
        ids[count + 1 :] = rows
        found[name] = ranks_of(after, cold), ranks_of(after, warm)
    ids[count + 1 :] = 0
    for most, rows in few.items():
        after.model.items.content[count + 1 :] = before.config.content_scale * held.new(rows)
        found[f"zero, profile of {most} review{'s' if most > 1 else ''}"] = ranks_of(after, cold), ranks_of(after, warm)
    return found


def trials(seeds: list[dict[str, tuple[np.ndarray, np.ndarray]]]) -> None:
    """Prints the table of `tried`."""
    groups = ("cold", "other", "all")
    print(f"| a new item's id embedding | {' | '.join(f'{g}: {m}' for g in groups for m in METRICS)} |")
    print(f"|---|{'---:|' * len(groups) * len(METRICS)}")
    for name in seeds[0]:
        cold, warm = (np.concatenate([seed[name][place] for seed in seeds]) for place in (0, 1))
        cells = [f"{m(r).mean():.4f}" for r in (cold, warm, np.append(cold, warm)) for m in METRICS.values()]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{len(cold)} cold and {len(warm)} other validation targets")


def _all(seeds: list[Ranks], group: str) -> np.ndarray:
    """Ranks of all draws together: a draw has its own targets."""
    return np.concatenate([ranks[group] for ranks in seeds])


if __name__ == "__main__":
    typer.run(main)
