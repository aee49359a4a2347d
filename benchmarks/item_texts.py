"""A bi-encoder over titles, brands and categories: alone, and as one more part of trained fusions. Prints Markdown.

    python -m benchmarks.item_texts REVIEWS.parquet ITEMS.parquet FOLDER --fusions DIR,DIR

REVIEWS.parquet and ITEMS.parquet are tables that ``sealr ingest`` writes. FOLDER keeps every result, so a second call
goes on. The towers are those of `benchmarks/text_towers.py`, with one text for each item, read by MiniLM: frozen, tuned
with LoRA, and tuned on the texts of other items (the placebo). The fusions are folders of stage ``retriever``; their
weights stay, and the towers' weight is the one with the best NDCG@10 on validation users.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor

from benchmarks.llm_reader import once
from benchmarks.text_towers import (
    READERS,
    Data,
    Reader,
    Towers,
    lower_states,
    newest_first,
    pooled,
    train_towers,
    tuned_states,
)
from sealr.data.tables import read_table
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import paired_bootstrap, shown
from sealr.retrieve.candidates import ranks_among, score_blocks
from sealr.retrieve.models.fusion import standardise_items
from sealr.retrieve.retriever import Retriever, load

WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)
WAYS = ("frozen", "tuned", "tuned, texts of other items")
COLUMNS = ("title", "brand", "categories")


def texts_of(items: pd.DataFrame, data: Data) -> list[str]:
    """One text for each item, in order of the ids."""
    known = items.set_index("item").reindex(data.sequences.items)
    parts = known[list(COLUMNS)].fillna("").astype(str)
    return [". ".join(part for part in row if part) for row in parts.itertuples(index=False)]


def item_vectors(data: Data, texts: list[str], way: str, steps: int, seed: int, folder: Path) -> dict[str, Tensor]:
    """Item vectors (items + 1, WIDTH) and the weights of the towers."""
    if way.endswith("other items"):
        texts = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]
    shape, name = READERS["MiniLM"], "texts of other items" if way.endswith("other items") else "texts"
    data.with_item_texts(texts)
    states, mask = once(folder / f"{name}.pt", lambda: lower_states(shape, data.texts))
    if way == "frozen":
        bank = pooled(Reader(shape, upper=True), states, mask)
    else:
        bank = tuned_states(data, shape, states, mask, steps, seed)
    towers = train_towers(data, bank, seed)
    with torch.no_grad():
        return {"vectors": towers.catalogue(data, bank), "profiles": data.means(bank)} | towers.state_dict()


def user_scores(data: Data, kept: dict[str, Tensor], histories: list[np.ndarray]) -> Tensor:
    """(B, items + 1) z-scores of the towers."""
    state = {name: value for name, value in kept.items() if name not in ("vectors", "profiles")}
    towers = Towers(kept["profiles"][1:]).eval()
    towers.load_state_dict(state)
    with torch.no_grad():
        return standardise_items(towers.users(kept["vectors"], newest_first(histories)) @ kept["vectors"].T)


def blocks(data: Data, fusion: Retriever | None, split: str) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Users of a split and scores (B, items + 1), -inf at their histories: of a fusion, or 0."""
    part = data.sequences.split(split)
    if fusion is not None:
        yield from score_blocks(fusion, data.sequences, part, True, None, f"ranks ({split})")
        return
    for start in range(0, len(part), 512):
        users = np.arange(start, min(start + 512, len(part)))
        scores = torch.zeros(len(users), data.sequences.n_items + 1)
        for row, user in enumerate(users):
            scores[row, torch.from_numpy(part.history(user))] = -torch.inf
        yield users, scores


def ranks(data: Data, fusion: Retriever | None, kept: list[dict[str, Tensor]], split: str) -> np.ndarray:
    """(ways, weights, users) rank of each target with each weight of the towers; without a fusion, of towers alone."""
    part, weights = data.sequences.split(split), WEIGHTS if fusion is not None else (1.0,)
    found = np.zeros((len(kept), len(weights), len(part)), dtype=np.int64)
    for users, scores in blocks(data, fusion, split):
        scores[:, 0] = -torch.inf
        targets, histories = torch.from_numpy(part.targets[users]), [part.history(user) for user in users]
        for way, towers in enumerate(user_scores(data, one, histories) for one in kept):
            for number, weight in enumerate(weights):
                found[way, number, users] = ranks_among(scores + weight * towers, targets).numpy()
    return found


def row(name: str, weight: str, valid: list[np.ndarray], test: list[np.ndarray], base: list[np.ndarray] | None) -> dict:
    """Means over fusions, and gains in HR@10 and NDCG@10 over the fusions alone, whose users are the same."""
    made = {"system": name, "weight": weight, "validation NDCG@10": np.mean([ndcg(r, 10).mean() for r in valid])}
    made |= {"test HR@10": np.mean([hit_rate(r, 10).mean() for r in test])}
    made |= {"test NDCG@10": np.mean([ndcg(r, 10).mean() for r in test])}
    for title, metric in (("HR@10", hit_rate), ("NDCG@10", ndcg)):
        if base is not None:
            mine, theirs = (np.mean([metric(r, 10) for r in found], axis=0) for found in (test, base))
            made[f"gain in {title}"] = shown(*paired_bootstrap(mine, theirs))
    return made


def main(
    reviews: Path,
    items: Path,
    folder: Path,
    fusions: Annotated[str, typer.Option(help="folders of trained fusions, separated by commas")] = "",
    steps: Annotated[int, typer.Option(help="of tuning")] = 1000,
    seed: int = 0,
) -> None:
    """Trains what is not in FOLDER yet and prints the table."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    data = Data(read_table(reviews, "reviews"))
    texts = texts_of(read_table(items, "items"), data)
    trained = [load(Path(f)) for f in fusions.split(",") if f]
    kept = [
        once(folder / f"{way}-{seed}.pt", lambda way=way: item_vectors(data, texts, way, steps, seed, folder))
        for way in WAYS
    ]
    alone = {split: ranks(data, None, kept, split)[:, 0] for split in ("valid", "test")}
    rows = [
        row(f"towers, {way}", "-", [valid], [test], None)
        for way, valid, test in zip(WAYS, alone["valid"], alone["test"], strict=True)
    ]
    if trained:
        found = {split: [ranks(data, fusion, kept, split) for fusion in trained] for split in ("valid", "test")}
        base = {split: [made[0, 0] for made in found[split]] for split in found}
        rows.append(row("fusion", "0", base["valid"], base["test"], None))
        for number, way in enumerate(WAYS):
            best = [int(np.argmax([ndcg(r, 10).mean() for r in made[number]])) for made in found["valid"]]
            chosen = {s: [made[number, n] for made, n in zip(found[s], best, strict=True)] for s in found}
            weight = ", ".join(f"{WEIGHTS[n]:g}" for n in best)
            rows.append(row(f"fusion + towers, {way}", weight, chosen["valid"], chosen["test"], base["test"]))
    print(markdown_table(pd.DataFrame(rows)))


if __name__ == "__main__":
    typer.run(main)
