"""How to find the weights of a fusion: which to start from, and when a gain is large enough to change one.

``python -m benchmarks.fusion_weights --reviews R.parquet --fusion FOLDER [--users 300,700] [--splits 20]``

``sealr retrieve`` writes both: the reviews table, and a folder of stage ``retriever`` with a fusion. Prints Markdown.
Only validation items are used. Weights are found on some users, drawn at random, and judged by NDCG@10 on the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from sealr.data.sequences import build
from sealr.data.tables import read_table
from sealr.evaluate.crossfit import held_out_gain
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import bootstrap_mean, shown
from sealr.retrieve.fusion import PASSES, WEIGHTS, Shortlist, shortlist
from sealr.retrieve.models.fusion import part_configs
from sealr.retrieve.retriever import Retriever, load
from sealr.settings import VECTOR_MODELS

STARTS = {"nothing": 0.0, "alike": 1.0}  # the first weight of neural parts; closed forms start at 0
# A gain must exceed this many standard errors; or its cross-fitted interval must be above 0
RULES = {"clear": 1.96, "one error": 1.0, "best": 0.0, "cross-fitted": None}
CURRENT = "alike, best"  # as in sealr/retrieve/fusion.py


def find(values: Shortlist, users: np.ndarray, neural: list[bool], start: float, errors: float | None) -> list[float]:
    """Weights found on ``users`` (N,), indices into the shortlist. neural: of each part."""
    weights = [1.0] + [start if part else 0.0 for part in neural[1:]]
    near = Shortlist(values.scores[:, users], values.real[users], values.targets[users])
    for number in [*range(1, len(neural))] * PASSES:
        tried = near.try_weights(weights, number)  # (N, len(WEIGHTS))
        best, now = int(tried.mean(0).argmax()), WEIGHTS.index(weights[number])
        gain = tried[:, best] - tried[:, now]
        if errors is None:
            clear = held_out_gain(tried.T, now)[1] > 0
        else:
            clear = gain.mean() > errors * gain.std() / np.sqrt(len(users))
        if clear:
            weights[number] = WEIGHTS[best]
    return weights


def judged(values: Shortlist, weights: list[float]) -> np.ndarray:
    """(N,) NDCG@10 of the sum with these weights."""
    return values.ndcg(sum(weight * scores for weight, scores in zip(weights, values.scores, strict=True)))


def main(
    reviews: Annotated[Path, typer.Option(help="Reviews table (Parquet) of a job.")],
    fusion: Annotated[Path, typer.Option(help="Folder of a trained fusion.")],
    users: Annotated[
        str, typer.Option(help="Numbers of users to find weights on, separated by commas.")
    ] = "150,300,700",
    splits: Annotated[int, typer.Option(help="Random splits of the users.")] = 20,
    seed: int = 0,
) -> None:
    """Print the NDCG@10 of each rule on users that it did not see, and its difference from the current rule."""
    fused: Retriever = load(fusion)
    configs = part_configs(fused.config)
    parts = [
        Retriever(config, fused.items, model, fused.popularity)
        for config, model in zip(configs, fused.model.parts, strict=True)
    ]
    neural = [config.model in VECTOR_MODELS for config in configs]
    values = shortlist(parts, build(read_table(reviews, "reviews")), fused.config.exclude_seen)
    singles = [judged(values, [float(n == m) for m in range(len(parts))]) for n in range(len(parts))]
    draw, rows, differences = np.random.default_rng(seed), [], dict[str, list[float]]()
    for size in [int(text) for text in users.split(",")]:
        found: dict[str, list[float]] = {"best single": []}
        for _ in range(splits):
            order = draw.permutation(len(values.targets))
            chosen, others = order[:size], order[size:]
            best = max(range(len(parts)), key=lambda n, on=chosen: singles[n][on].mean())
            found["best single"].append(singles[best][others].mean())
            for start, weight in STARTS.items():
                for rule, errors in RULES.items():
                    weights = find(values, chosen, neural, weight, errors)
                    found.setdefault(f"{start}, {rule}", []).append(judged(values, weights)[others].mean())
        rows.append({"users": size} | {name: np.mean(each) for name, each in found.items()})
        for name, each in found.items():
            differences.setdefault(name, []).extend(np.subtract(each, found[CURRENT]))
    print(markdown_table(pd.DataFrame(rows)))
    spread = [{"rule": n, f"minus {CURRENT}": shown(*bootstrap_mean(np.array(d)))} for n, d in differences.items()]
    print(markdown_table(pd.DataFrame(spread)))
    print(f"{len(parts)} parts, {len(values.targets)} users, {splits} splits of each size, seed {seed}.")
    print("Intervals are over splits. These share users, so the intervals are too narrow.")


if __name__ == "__main__":
    typer.run(main)
