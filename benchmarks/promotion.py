"""How often the gate promotes a version that is no better, and how often one that is: before gate users, and with them.

``python -m benchmarks.promotion [--reviews REVIEWS.parquet]``

A version is a fusion of four retrievers. It chooses its weights on validation users with the code of a job
(`sealr.retrieve.fusion.choose_weights`). Champion and challenger are equally good: they differ by the users on whom
they chose, and by what retraining changes.

* Before: the challenger is judged on the very users who chose its weights, and the champion chose on others, as when
  the data have changed since. It was promoted when the 95 % interval of its gain was above 0.
* Now: a share of the same users (`gate_draw`) judges and chooses nothing, and `sealr.registry.rule.compare` decides.

Users are drawn from a made-up population: 13 % have a hit among ten, as on Musical Instruments. With ``--reviews``
four retrievers are trained on real reviews, and users are drawn from theirs. Prints Markdown.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from sealr.data.sequences import build, gate_draw
from sealr.data.tables import read_table
from sealr.evaluate.metrics import hit_rate
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import paired_bootstrap
from sealr.registry.rule import FEWEST, compare
from sealr.retrieve.candidates import ranks_among
from sealr.retrieve.fusion import Shortlist, choose_weights, shortlist
from sealr.retrieve.train import load, train
from sealr.settings import EvaluateConfig, RetrieveConfig

MODELS = ["sasrec", "bsarec", "ease", "cooccurrence"]
SIZES = (160, 300, 714, 1429)  # half of the demo, 300, half of Musical Instruments and all of it
NIGHTS, GAIN = 50, 0.01
BEFORE, NOW = RULES = "before", "now"
# The made-up population: items near the top of each user, and the share of users whose target is among them
POPULATION, COLUMNS, FOUND = 40_000, 60, 0.27
SHARED, OWN = 0.8, 0.6  # deviations of other items' z-scores: in all retrievers, in one
LEAD, SPREAD = 1.2, 0.8  # of a target that is near the top, over other items
RETRAINED = 0.2  # standard deviation that another training adds to a z-score
RESAMPLES = 1000
SHARE = EvaluateConfig().gate_share


def main(
    reviews: Annotated[Path | None, typer.Option(help="reviews.parquet of an ingested data set.")] = None,
    users: Annotated[list[int], typer.Option(help="Users of each row.")] = list(SIZES),  # noqa: B006
    repetitions: Annotated[int, typer.Option(min=0, help="Champions for each row of the first table.")] = 1000,
    series: Annotated[int, typer.Option(min=0, help="Champions for each row of the second, made-up users only.")] = 200,
    seed: Annotated[int, typer.Option(help="Draws the users.")] = 0,
) -> None:
    """Show how often the gate promotes an equal version, and a better one."""
    rng = np.random.default_rng(seed)
    near = trained(reviews) if reviews else made_up(rng)
    print(f"Population: {describe(near)}.\n")
    sizes = [n for n in users if 2 * n <= len(near.targets)]
    if repetitions:
        print(f"One challenger for each of {repetitions:,} champions:\n")
        print(markdown_table(first_table(near, rng, sizes, repetitions)))
    if series and not reviews:
        print(f"{NIGHTS} equal challengers, one a night, for each of {series:,} champions. Promoted in any night:\n")
        rows = []
        for size in sizes:
            nights = [many_nights(near, rng, size) for _ in range(series)]
            rows.append({"users": size} | {rule: share([won[rule] for won in nights]) for rule in RULES})
        print(markdown_table(pd.DataFrame(rows)))


def first_table(near: Shortlist, rng: np.random.Generator, sizes: list[int], repetitions: int) -> pd.DataFrame:
    """One row a number of users: how often an equal and a better challenger are promoted, and the equal one's gain."""
    stronger, rows = gain_of(near, GAIN), []
    for size in sizes:
        made = [one_night(near, rng, size, stronger) for _ in range(repetitions)]
        row: dict[str, object] = {"users": size, "of them gate users": round(size * SHARE)}
        for rule in RULES:
            row[f"equal, {rule}"] = share([won[rule, 0.0] for won, _ in made])
            row[f"mean gain, {rule}"] = f"{np.mean([gains[rule, 0.0] for _, gains in made]):+.4f}"
        rows.append(row | {f"{GAIN:+.2f}, {rule}": share([won[rule, stronger] for won, _ in made]) for rule in RULES})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Asked:
    """Users of one champion's reign, as places in a drawn shortlist, by rule."""

    judge: dict[str, np.ndarray]
    choose: dict[str, np.ndarray]  # the challenger's weights
    chose: dict[str, np.ndarray]  # the champion's weights


def draw(near: Shortlist, rng: np.random.Generator, users: int) -> tuple[Shortlist, Asked]:
    """Users of the challengers, and as many others on whom the champion chose its weights."""
    drawn = rng.permutation(len(near.targets))[: 2 * users]
    gate = np.array([gate_draw(f"u{user}") < SHARE for user in drawn])
    mine, others = np.arange(users), np.arange(users, 2 * users)
    judge = {BEFORE: mine, NOW: mine[gate[:users]]}
    choose = {BEFORE: mine, NOW: mine[~gate[:users]]}
    return take(near, drawn), Asked(judge, choose, {BEFORE: others, NOW: others[~gate[users:]]})


def promoted(rule: str, new: np.ndarray, old: np.ndarray, number: int) -> bool:
    if rule == BEFORE:
        return paired_bootstrap(new, old, RESAMPLES)[1] > 0
    return len(new) >= FEWEST and compare(new, old, number, RESAMPLES)[0]


Outcome = dict[tuple[str, float], bool]


def one_night(
    near: Shortlist, rng: np.random.Generator, users: int, stronger: float
) -> tuple[Outcome, dict[tuple[str, float], float]]:
    """Whether an equal and a better challenger are promoted, and their gains, by rule and gain.

    All have the same four retrievers, and other weights. stronger: what `better` adds to the better one's targets.
    """
    (drawn, asked), won, gains = draw(near, rng, users), {}, {}
    for rule in RULES:
        old = values(drawn, asked.judge[rule], chosen(drawn, asked.chose[rule]))
        for gain in (0.0, stronger):
            challenger = better(drawn, gain)
            new = values(challenger, asked.judge[rule], chosen(challenger, asked.choose[rule]))
            won[rule, gain], gains[rule, gain] = promoted(rule, new, old, 1), float((new - old).mean())
    return won, gains


def many_nights(near: Shortlist, rng: np.random.Generator, users: int) -> dict[str, bool]:
    """Whether any of NIGHTS equal challengers is promoted. Each comes from another training; users stay the same.

    Before, every night chose its weights on the judges. Now the choice has nothing to do with the judges, so that of
    the first night serves for all, which saves time.
    """
    (drawn, asked), won = draw(near, rng, users), {}
    champion = noisy(drawn, rng)
    for rule in RULES:
        judge, won[rule] = asked.judge[rule], False
        old = values(champion, judge, chosen(champion, asked.chose[rule]))
        weights = chosen(noisy(drawn, rng), asked.choose[rule])
        for night in range(1, NIGHTS + 1):
            challenger, rows = noisy(take(drawn, judge), rng), np.arange(len(judge))
            if rule == BEFORE:
                weights = chosen(challenger, rows)
            if promoted(rule, values(challenger, rows, weights), old, night):
                won[rule] = True
                break
    return won


def take(near: Shortlist, users: np.ndarray) -> Shortlist:
    rows = torch.from_numpy(users)
    return Shortlist(near.scores[:, rows], near.real[rows], near.targets[rows])


def chosen(near: Shortlist, users: np.ndarray) -> list[float]:
    """The weights that these users choose."""
    return choose_weights(take(near, users), MODELS)


def values(near: Shortlist, users: np.ndarray, weights: list[float]) -> np.ndarray:
    """(users,) NDCG@10 with these weights."""
    part = take(near, users)
    return part.ndcg(torch.einsum("p,pnk->nk", torch.tensor(weights), part.scores))


def noisy(near: Shortlist, rng: np.random.Generator) -> Shortlist:
    """The same retrievers after another training: as good, but not the same."""
    noise = torch.from_numpy(rng.standard_normal(near.scores.shape, dtype=np.float32))
    return replace(near, scores=near.scores + RETRAINED * noise)


def better(near: Shortlist, gain: float) -> Shortlist:
    """Retrievers that give every target this much more of a z-score."""
    if not gain:
        return near
    scores = near.scores.clone()
    scores[:, torch.arange(len(near.targets)), near.targets] += gain
    return replace(near, scores=scores)


def gain_of(near: Shortlist, wanted: float) -> float:
    """What `better` has to add to the targets for this much more NDCG@10 at the weights that all users choose."""
    users = np.arange(min(len(near.targets), 5000))
    part = take(near, users)
    weights = chosen(part, users)
    base, low, high = values(part, users, weights).mean(), 0.0, 2.0
    for _ in range(20):
        middle = (low + high) / 2
        enough = values(better(part, middle), users, weights).mean() - base >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return high


def made_up(rng: np.random.Generator) -> Shortlist:
    """A population whose four retrievers share most of what they know and err, each in its own way, in the rest."""
    shape, n = (len(MODELS), POPULATION, COLUMNS), np.arange(POPULATION)
    shared = rng.standard_normal(shape[1:], dtype=np.float32)
    scores = SHARED * shared + OWN * rng.standard_normal(shape, dtype=np.float32)
    found = rng.random(POPULATION) < FOUND
    scores[:, n, 0] += np.where(found, rng.normal(LEAD, SPREAD, (len(MODELS), POPULATION)), -4).astype(np.float32)
    targets = torch.zeros(POPULATION, dtype=torch.int64)
    return Shortlist(torch.from_numpy(scores), torch.ones(shape[1:], dtype=torch.bool), targets)


def trained(path: Path) -> Shortlist:
    """Four retrievers of a real data set, each with its default settings, and all of its users."""
    sequences = build(read_table(path, "reviews"))
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            train(RetrieveConfig(model=model), sequences, Path(folder) / model)  # type: ignore[arg-type]
            parts.append(load(Path(folder) / model))
    return shortlist(parts, sequences, True)


def describe(near: Shortlist) -> str:
    ranks = [ranks_among(part, near.targets).numpy() for part in near.scores.masked_fill(~near.real, -torch.inf)]
    hits = ", ".join(f"{name} {hit_rate(r, 10).mean():.4f}" for name, r in zip(MODELS, ranks, strict=True))
    users = np.arange(min(len(near.targets), 5000))
    gains = values(near, users, chosen(near, users))
    zeros = f"{(gains == 0).mean():.0%} of the users at 0"
    return f"{len(near.targets):,} users; HR@10 {hits}; fused NDCG@10 {gains.mean():.4f} with {zeros}"


def share(outcomes: list[bool]) -> str:
    """Per cent, with the 95 % interval of Wilson (1927)."""
    n, p, z = len(outcomes), float(np.mean(outcomes)), 1.96
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return f"{100 * p:.1f} % ({100 * max(low, 0):.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    typer.run(main)
