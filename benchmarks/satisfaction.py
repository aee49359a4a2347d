"""How well satisfaction is foretold, what its settings are worth, and what its weight in the ranking does.

``python -m benchmarks.satisfaction --reviews R.parquet --labels L.parquet [--liked M.parquet] [--choices]
[--reader NAME --layers N] [--candidates C.parquet --plot P.png]``

The tables are those that ``sealr evaluate`` wrote (reviews, labels, candidates). ``--liked`` names a second reviews
table with the same reviews, whose ratings are the truth: 4 and 5 are liked. By default the truth is the ratings of
``--reviews``. Prints Markdown. Choices show validation targets only, because they are what was chosen on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from sealr.content.vectors import text_vectors
from sealr.data.manifest import state_dir
from sealr.data.sequences import Sequences, build
from sealr.data.tables import EMOTIONS, read_table
from sealr.evaluate.metrics import hit_rate
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import bootstrap_mean, shown
from sealr.satisfaction import calibration, content
from sealr.satisfaction.effects import training_mask
from sealr.satisfaction.evaluate import forecasts, judged
from sealr.satisfaction.fit import fit
from sealr.satisfaction.model import Satisfaction
from sealr.satisfaction.ranking import frontier, frontier_plot, ranks, tune
from sealr.settings import ContentConfig, SatisfactionConfig

ORDER = "ridge, items of one user"  # the part of the forecast that orders items
ABOUT = "feelings about the item"
PLACEBOS = 6


class Data:
    """Everything that forecasts read, aligned with ``sequences.flat``."""

    def __init__(self, reviews: Path, labels: Path, liked: Path | None, config: ContentConfig) -> None:
        table, labelled = read_table(reviews, "reviews"), read_table(labels, "labels")
        self.sequences: Sequences = build(table)
        self.rating = self.sequences.values(table, "rating").astype(np.float32)
        self.expected = self.sequences.values(labelled, "expected").astype(np.float32)
        named = [self.sequences.values(labelled, f"p_{emotion}") for emotion in EMOTIONS]
        self.probabilities = np.stack(named, axis=1).astype(np.float32)
        self.vectors = text_vectors(list(self.sequences.values(table, "text")), config, state_dir() / "vector-cache")
        truth = self.rating
        if liked:
            keys = ["user", "item", "text"]  # a user may review an item twice
            marks = read_table(liked, "reviews").drop_duplicates(keys)[[*keys, "rating"]]
            marked = table.drop(columns="rating").merge(marks, "left", on=keys)
            truth = self.sequences.values(marked, "rating")
        self.liked = np.where(np.isnan(truth), np.nan, truth >= 4)

    def learn(self, learn_from: str = "auto", model: str = "ridge") -> tuple[Satisfaction, np.ndarray]:
        """A forecast and the stars of past reviews that it was learned from."""
        inputs = (self.expected, self.probabilities, self.vectors)
        found = calibration.calibrate(self.rating, *inputs, training_mask(self.sequences), learn_from)
        stars = found.stars(self.rating, *inputs)
        config = SatisfactionConfig(model=model, learn_from=learn_from)  # type: ignore[arg-type]
        return fit(config, self.sequences, stars, self.vectors, found), stars

    def judge(self, model: Satisfaction, stars: np.ndarray, split: str) -> pd.DataFrame:
        """`judged`, with a row for the order of the items of one user."""
        part = self.sequences.split(split)
        found = forecasts(model, self.sequences, split, stars)
        histories, given = list(part.histories()), list(part.histories(stars))
        found.insert(len(found.columns) - 1, ORDER, model.standardised(histories, given, part.targets[:, None])[:, 0])
        result = judged(found, self.liked[part.ends], self.rating[part.ends])
        if result is None:
            sys.exit(f"{split}: fewer than 30 liked or disliked targets: there is nothing to measure")
        return result.set_index("forecast")


def foretelling(data: Data) -> None:
    rows = []
    for learn_from in calibration.LEARN_FROM:
        model, stars = data.learn(learn_from)
        valid, test = (data.judge(model, stars, split) for split in ("valid", "test"))
        for name in valid.index:
            areas = {
                f"{split} AUC": shown(*table.loc[name, ["AUC", "low", "high"]], sign="")
                for split, table in (("validation", valid), ("test", test))
            }
            correlations = {f"test {c}": test.loc[name, c] for c in ("Pearson", "Spearman")}
            rows.append({"learned from": learn_from, "forecast": name} | areas | correlations)
    counts = ", ".join(f"{s}: {t['targets'].iloc[0]} targets, {t['disliked'].iloc[0]} disliked"
                       for s, t in (("validation", valid), ("test", test)))  # fmt: skip
    print(f"\n## Liked or disliked ({counts})\n\n{markdown_table(pd.DataFrame(rows))}")


def choices(data: Data) -> None:
    rows = []
    chosen = (calibration.TEXT_SHARE, content.WIDTH)
    for share, width in [*((s, 64) for s in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)), (0.3, 16), (0.3, 384)]:
        calibration.TEXT_SHARE, content.WIDTH = share, width
        found = data.judge(*data.learn(), "valid")["AUC"]
        rows.append({"text's share": share, "width": width} | {n: found[n] for n in ("item + user", "ridge", ORDER)})
    calibration.TEXT_SHARE, content.WIDTH = chosen
    print(f"\n## Choices (validation AUC)\n\n{markdown_table(pd.DataFrame(rows))}")


def ranking(data: Data, candidates: Path, plot: Path | None) -> None:
    table = read_table(candidates, "candidates")
    table["id"] = table["item"].map(data.sequences.item_ids())
    model, stars = data.learn()
    rows, drawn = [], {}
    systems = {ABOUT: model} | {f"placebo {n}": model.placebo(n) for n in range(PLACEBOS)}
    for name, system in systems.items():
        valid, test = (_pools(data, system, stars, table, split) for split in ("valid", "test"))
        choice = tune(*valid)
        drawn[name] = frontier(*test)
        before, after = hit_rate(ranks(*test[:4], (0.0, choice.weight)), 10)  # (N,) each
        liked = test[4]
        groups = {"all": slice(None), "liked": liked == 1, "disliked": liked == 0}
        moved = {
            f"test HR@10 {group}": f"{before[rows_of].mean():.4f} {shown(*bootstrap_mean((after - before)[rows_of]))}"
            for group, rows_of in groups.items()
        }
        proof = {
            "gain in HR@10 liked minus disliked": shown(*choice.gain),
            "liked rise further by": shown(*choice.rise),
        }
        rows.append({"satisfaction": name, "weight": choice.weight} | proof | moved)
    print(f"\n## Ranking\n\n{markdown_table(pd.DataFrame(rows))}")
    real = drawn[ABOUT]
    print(markdown_table(real[[c for c in real if c.startswith(("weight", "HR"))]]))
    if plot:
        frontier_plot({n: drawn[n] for n in (ABOUT, "placebo 0")}, plot, "Test targets")


def _pools(data: Data, model: Satisfaction, stars: np.ndarray, table: pd.DataFrame, split: str) -> tuple:
    """Arguments of `tune` and `frontier` for the candidates of a split."""
    part = data.sequences.split(split)
    by_user = dict(iter(table[table["split"] == split].groupby("user")))
    base, pools, glad = [], [], []
    for user, history, given in zip(part.users, part.histories(), part.histories(stars), strict=True):
        mine = by_user[data.sequences.users[user]]
        scores, pool = mine["score"].to_numpy(np.float64), mine["id"].to_numpy()
        base.append((scores - scores.mean()) / max(scores.std(), 1e-9))
        pools.append(pool)
        glad.append(model.standardised([history], [given], pool[None])[0])
    return base, pools, glad, part.targets, data.liked[part.ends]


def main(
    reviews: Annotated[Path, typer.Option(help="Reviews table (Parquet) of a job.")],
    labels: Annotated[Path, typer.Option(help="Labels table of the same job.")],
    liked: Annotated[Path | None, typer.Option(help="Reviews table whose ratings say who liked what.")] = None,
    reader: Annotated[str, typer.Option(help="Reads the texts: an encoder or a base LLM.")] = ContentConfig().reader,
    layers: Annotated[int, typer.Option(help="Only the reader's first layers; 0: all.")] = 0,
    show_choices: Annotated[bool, typer.Option("--choices", help="Also show what validation chose.")] = False,
    candidates: Annotated[Path | None, typer.Option(help="Candidates table: also tune the weight.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG for the frontier of the test targets.")] = None,
) -> None:
    data = Data(reviews, labels, liked, ContentConfig(reader=reader, layers=layers))
    foretelling(data)
    if show_choices:
        choices(data)
    if candidates:
        ranking(data, candidates, plot)


if __name__ == "__main__":
    typer.run(main)
