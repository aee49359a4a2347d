"""Does it pay if the weights of a fusion know the length of the history, or the popularity of the items?

``python -m benchmarks.fusion_by_user --reviews R.parquet --parts FOLDER,FOLDER [--parts ...] [--test]``

``sealr retrieve`` and ``sealr benchmark`` write both: the reviews table of stage ``ingest``, and folders of stage
``retriever``. Each ``--parts`` is one training seed: trained parts or a fusion. Co-occurrence and transition are added
if they are missing. Prints Markdown. Every rule finds weights on a random half of the validation users and is judged on
the other. ``--test`` reads test items, only for the rule that is best beside one weight, with weights from all
validation users.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from benchmarks.fusion_pools import Pool, drawn, pool_of
from benchmarks.transition import NEAR, NEXT, counted
from sealr.data.sequences import Sequences, Split, build
from sealr.data.tables import read_table
from sealr.evaluate.crossfit import best, held_out_gain
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import paired_bootstrap, shown
from sealr.progress import progress_bar
from sealr.retrieve.fusion import PASSES, WEIGHTS, Shortlist, choose_weights
from sealr.retrieve.models.fusion import part_configs
from sealr.retrieve.retriever import Retriever, load

THIRDS = (1 / 3, 2 / 3)
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)  # of the stacker, chosen within the users that it learns from
BASE = "one weight"


Rule = Callable[[Pool], Callable[[Pool], Tensor]]  # learns from the targets of a pool; then a pool -> (M, K) scores


def one_weight(learn: Pool) -> Callable[[Pool], Tensor]:
    """The fusion of today."""
    weights = torch.tensor(choose_weights(learn.near, learn.models))
    return lambda pool: torch.einsum("p,pmk->mk", weights, pool.near.scores)


def by_group(learn: Pool, knows: str, clear: bool) -> Callable[[Pool], Tensor]:
    """Weights of each group of users or items; a third of the targets is in each. The search starts from one weight.

    knows: "length" or "popularity". clear: a weight changes only if its cross-fitted gain is clear of 0, as in SEALR.
    """
    at_targets = getattr(learn, knows).expand(learn.items.shape).gather(1, learn.near.targets[:, None])
    borders = torch.quantile(at_targets, torch.tensor(THIRDS)).unique()

    def grouped(pool: Pool) -> Tensor:
        """(groups * P, M, K): the scores within a group, 0 elsewhere."""
        group = torch.bucketize(getattr(pool, knows), borders, right=True)  # a value at a border is above it
        return torch.cat([pool.near.scores * (group == number) for number in range(len(borders) + 1)])

    near, parts = replace(learn.near, scores=grouped(learn)), len(learn.models)
    weights = choose_weights(learn.near, learn.models) * (len(borders) + 1)
    for number in [*range(len(weights))] * PASSES:
        if knows == "length" and number % parts == 0:
            continue  # a common factor of a user's scores changes no order
        tried, now = near.try_weights(weights, number).T, WEIGHTS.index(weights[number])
        if not clear or held_out_gain(tried, now)[1] > 0:
            weights[number] = WEIGHTS[best(tried)]
    return lambda pool: torch.einsum("p,pmk->mk", torch.tensor(weights), grouped(pool))


def stacker(learn: Pool, knows: tuple[str, ...] = ()) -> Callable[[Pool], Tensor]:
    """Softmax regression of the target against its pool, which corrects the one-weight fusion.

    Columns are the scores, their products with what it ``knows`` ("length", "popularity") and popularity itself. Half
    of the users choose the penalty.
    """
    base = one_weight(learn)
    scale = {name: (getattr(learn, name).mean(), getattr(learn, name).std().clamp(min=1e-6)) for name in knows}

    def columns(pool: Pool) -> Tensor:
        """(M, K, features), first the one-weight fusion."""
        known = [(getattr(pool, name) - mean) / spread for name, (mean, spread) in scale.items()]
        made = [base(pool), *pool.near.scores, *(part * value for value in known for part in pool.near.scores)]
        if "popularity" in knows:  # the last; of length alone a softmax over items cannot learn
            made += [known[-1], *(known[-1] * value for value in known[:-1])]
        return torch.stack(made, dim=-1)

    unit = columns(learn)[learn.near.real].std(0).clamp(min=1e-6)
    order = np.random.default_rng(0).permutation(learn.users)
    first, second = learn.take(order[::2]), learn.take(order[1::2])
    x, judge = columns(first) / unit, columns(second) / unit
    reached = [second.near.ndcg(judge @ softmax_regression(x, first.near, penalty)).mean() for penalty in PENALTIES]
    penalty = PENALTIES[int(np.argmax(reached))]
    weights = softmax_regression(columns(learn) / unit, learn.near, penalty) / unit
    return lambda pool: columns(pool) @ weights


def softmax_regression(x: Tensor, near: Shortlist, penalty: float) -> Tensor:
    """(features,) weights with the least cross-entropy plus penalty * squares, the first free. x (M, K, features)."""
    weights = torch.zeros(x.shape[-1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = (x @ weights).masked_fill(~near.real, -torch.inf)
        value = F.cross_entropy(logits, near.targets) + penalty * weights[1:].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weights.detach()


RULES: dict[str, Rule] = {
    BASE: one_weight,
    "by length": partial(by_group, knows="length", clear=False),
    "by length, if clear": partial(by_group, knows="length", clear=True),
    "by popularity": partial(by_group, knows="popularity", clear=False),
    "by popularity, if clear": partial(by_group, knows="popularity", clear=True),
    "stacker": stacker,
    "stacker with length": partial(stacker, knows=("length",)),
    "stacker with popularity": partial(stacker, knows=("popularity",)),
    "stacker with length and popularity": partial(stacker, knows=("length", "popularity")),
}
PLACEBOS = {
    name: name.split()[-1] for name in RULES if name.split()[-1] in ("length", "popularity") and "and" not in name
}
CONTROLS = {name: f"{name}, shuffled" for name in PLACEBOS} | {"stacker with length and popularity": "stacker"}


def cross_fitted(pool: Pool, rule: Rule, users: int, splits: int, shuffle: str = "") -> np.ndarray:
    """(users,) NDCG@10, each with weights that the other half finds; mean over splits, 0 outside the pool."""
    total = np.zeros(users)
    for split in range(splits):
        order, given = np.random.default_rng(split).permutation(users), pool.shuffled(shuffle, split)
        for learned, others in ((order[::2], order[1::2]), (order[1::2], order[::2])):
            judge = given.take(others)
            total[judge.users] += judge.near.ndcg(rule(given.take(learned))(judge)) / splits
    return total


def compared(pools: list[Pool], users: int, splits: int) -> tuple[pd.DataFrame, str]:
    """Every rule and placebo on validation items, its differences, and the rule that is best beside one weight."""
    values, rows = dict[str, np.ndarray](), []
    tasks = [(name, name, "") for name in RULES] + [(f"{n}, shuffled", n, what) for n, what in PLACEBOS.items()]
    for label, name, what in progress_bar(tasks, label="rules", unit="rules"):
        values[label] = np.array([cross_fitted(pool, RULES[name], users, splits, what) for pool in pools])
    for label, found in values.items():
        row = {"rule": label, "NDCG@10": found.mean()}
        for column, other in ((f"minus {BASE}", BASE), ("minus control", CONTROLS.get(label, label))):
            row[column] = shown(*paired_bootstrap(found, values[other])) if other != label else ""
        rows.append(row)
    return pd.DataFrame(rows), max([*RULES][1:], key=lambda name: float(values[name].mean()))


def tested(rule: str, learned: list[Pool], pools: list[Pool], users: int) -> pd.DataFrame:
    """Test figures of a rule and of one weight, found on all validation users, and their differences."""
    ranks = {name: np.zeros((len(pools), users), dtype=np.int64) for name in (rule, BASE)}
    for name, made in ranks.items():
        for row, learn, pool in zip(made, learned, pools, strict=True):
            row[pool.users] = pool.ranks(RULES[name](learn)(pool))
    metrics = {"HR@10": hit_rate, "NDCG@10": ndcg}
    rows = [{"rule": n} | {m: f"{f(made, 10).mean():.4f}" for m, f in metrics.items()} for n, made in ranks.items()]
    gains = {m: shown(*paired_bootstrap(f(ranks[rule], 10), f(ranks[BASE], 10))) for m, f in metrics.items()}
    return pd.DataFrame([*rows, {"rule": f"{rule} minus {BASE}"} | gains])


def alone(pools: list[Pool], part: Split) -> pd.DataFrame:
    """Validation NDCG@10 of each part alone, in thirds of the users by length of the history."""
    values = part.ends - part.starts
    group = np.searchsorted(np.quantile(values, THIRDS), values, side="right")
    rows: list[dict[str, object]] = [{"part": model} for model in pools[0].models]
    for third in [group == number for number in np.unique(group)]:
        name = f"{values[third].min()} to {values[third].max()} items, {third.sum():,} users"
        for number, row in enumerate(rows):
            found = [pool.near.ndcg(pool.near.scores[number])[third[pool.users]].sum() for pool in pools]
            row[name] = np.mean(found) / third.sum()
    return pd.DataFrame(rows)


def parts_in(folders: str, sequences: Sequences) -> list[Retriever]:
    """The retrievers of folders, separated by commas, and co-occurrence and transition if they are missing."""
    parts: list[Retriever] = []
    for made in [load(Path(folder)) for folder in folders.split(",")]:
        inner = zip(part_configs(made.config), made.model.parts, strict=True) if made.config.parts else ()
        parts += [Retriever(config, made.items, model, made.popularity) for config, model in inner] or [made]
    missing = [config for config in (NEAR, NEXT) if config.model not in [part.config.model for part in parts]]
    return parts + [counted(config, sequences) for config in missing]


def main(
    reviews: Annotated[Path, typer.Option(help="Reviews table (Parquet) of a job.")],
    parts: Annotated[list[str], typer.Option(help="Folders of trained retrievers of a seed; repeat for more seeds.")],
    splits: Annotated[int, typer.Option(help="Random halvings of the validation users, with seeds from 0.")] = 5,
    users: Annotated[int, typer.Option(help="At most so many users of each split, drawn with seed 0.")] = 30_000,
    gate_share: Annotated[float, typer.Option(help="Of users whom nothing is chosen on, as in the job.")] = 0.25,
    test: Annotated[bool, typer.Option("--test", help="Judge the best rule, and no other, on test items.")] = False,
) -> None:
    """Print what each rule adds to a fusion with one weight for each part."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("sealr.progress").setLevel(logging.INFO)
    started, table = time.process_time(), read_table(reviews, "reviews", ("user", "item", "position"))
    sequences = build(table).with_gate(gate_share)
    valid, last = (drawn(sequences.split(name), users) for name in ("valid", "test"))
    seeds = [parts_in(folders, sequences) for folders in parts]
    pools = [pool_of(each, sequences, valid) for each in seeds]
    print(markdown_table(alone(pools, valid)))
    rules, chosen = compared(pools, len(valid), splits)
    print(markdown_table(rules), flush=True)
    if test:
        tests = [pool_of(each, sequences, last) for each in seeds]
        print(markdown_table(tested(chosen, pools, tests, len(last))))
    share, width = np.mean([len(pool.users) for pool in pools]) / len(valid), pools[0].items.shape[1]
    print(f"{len(valid):,} validation users; {share:.3f} of their targets are in the pools of up to {width} items.")
    print(f"{len(last):,} test users. {len(seeds)} seeds of the parts, {splits} splits and shuffles from seed 0.")
    print(f"{time.process_time() - started:.0f} s of CPU time, {torch.get_num_threads()} threads.")


if __name__ == "__main__":
    typer.run(main)
