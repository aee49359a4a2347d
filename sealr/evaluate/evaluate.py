"""From ranked lists to metrics under three protocols, with chance line, ceiling, validity and paired intervals."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sealr.data.manifest import StageResult
from sealr.data.sequences import Sequences
from sealr.data.tables import atomic_path, write_json
from sealr.evaluate import protocols
from sealr.evaluate.beyond import beyond, by_history
from sealr.evaluate.gladness import Gladness
from sealr.evaluate.liking import TITLE, caption, liking
from sealr.evaluate.metrics import chance, hit_rate, ndcg, summary
from sealr.evaluate.protocols import RETRIEVER, Protocol
from sealr.evaluate.report import Panel, markdown_table, plot
from sealr.evaluate.sections import MINUS, Section
from sealr.evaluate.statistics import Interval, paired_bootstrap, shown
from sealr.settings import EvaluateConfig

TOP = 10
EVERYBODY = "retriever, all users"
METRICS = {"HR@10": hit_rate, "NDCG@10": ndcg}
READINGS = {
    "Beyond accuracy, test lists": "Of the first ten items: coverage, the share of the catalogue in any list; novelty, "
    "-log2 of the share of users who took the item in training; popularity, the number of these users; diversity, 1 "
    "minus the cosine of two items' contents. Means over users with 95 % intervals. The last row describes the items "
    "that users took.",
    "Short and long histories": "Under the full protocol. A short history has at most the median number of items, "
    "{median:g}.",
}


def evaluate(
    rankings: pd.DataFrame,
    retriever_ranks: np.ndarray,
    users: Sequence[str],
    validity: float,
    sequences: Sequences,
    glad: Gladness | None,
    config: EvaluateConfig,
    folder: Path,
    learned: Collection[int] = (),
    content: np.ndarray | None = None,
    findings: Sequence[str] = (),
) -> StageResult:
    """Writes results.json, results.md and results.png; returns the metrics under flat names.

    rankings: the table that ``rerank`` wrote; every ranker in it gets a row. retriever_ranks (test users,): the
    targets' ranks in the whole catalogue. users: the evaluated ones. validity: share of the items named by the LLM that
    were candidates. glad: aligned with ``sequences.flat``; None leaves out liked and disliked targets.
    learned: rows of ``sequences.users`` whose test items the retriever was trained on; its metrics exclude them.
    content (items + 1, C): item vectors for the lists' diversity. findings: sentences that stand above the tables.
    """
    split, rows_of_users = sequences.split("test"), sequences.rows(users)
    places = np.searchsorted(split.users, rows_of_users)  # (N,) in the split
    targets = split.targets[places]  # (N,)
    names = [r for r in dict.fromkeys(rankings["ranker"]) if r != RETRIEVER]
    pools = list_matrix(rankings, RETRIEVER, "test", users, sequences)  # (N, C)
    lists = {name: list_matrix(rankings, name, "test", users, sequences) for name in names}
    injected_pools = list_matrix(rankings, RETRIEVER, "injected", users, sequences)
    injected_lists = {name: list_matrix(rankings, name, "injected", users, sequences) for name in names}

    full = protocols.full(pools, targets, retriever_ranks[places], lists)
    rows = full.rows()
    tested = retriever_ranks[~np.isin(split.users, list(learned))]
    rows.insert(0, {"protocol": "full", "system": EVERYBODY, "users": len(tested)} | summary(tested))
    if full.ceiling > 0:  # else no target was retrieved, and the protocol has no users
        inverted = {protocols.INVERTED: protocols.inverted(pools)}
        rows += protocols.retrieved(pools, targets, inverted | lists).rows()
    injected = protocols.injected(injected_pools, targets, injected_lists, full.ceiling)
    rows += injected.rows()
    table = _ordered(pd.DataFrame(rows))

    resampling = (config.bootstrap, config.seed)
    differences = _differences(full, injected, (injected_pools > 0).sum(axis=1), names, resampling)
    quality = {f"ceiling HR@{pools.shape[1]}": full.ceiling, "validity of the LLM's lists": validity}
    liked = None
    if glad is not None:
        felt = glad.take(split.ends[places])
        liked = Section(TITLE, caption(felt), _liking(full.ranks, felt, names, resampling))
    lengths = (split.ends - split.starts)[places]
    described = (
        beyond({RETRIEVER: pools, **lists}, targets, sequences, *resampling, content),
        by_history(full.ranks, lengths, *resampling),
    )
    texts = ((title, text.format(median=np.median(lengths))) for title, text in READINGS.items())
    more = [Section(*text, part) for text, part in zip(texts, described, strict=True)]
    sections = [liked, *more] if liked else more

    _write_markdown(findings, table, differences, quality, sections, folder / "results.md")
    bars = table[table["system"] != EVERYBODY]  # bars of one panel are over the same users
    panels = [
        Panel(f"{name} ({part['users'].iloc[0]:,} users)", part, ceiling=full.ceiling if name == "full" else None)
        for name, part in bars.groupby("protocol", sort=False)
    ]
    plot(panels, folder / "results.png")
    for row in rows:
        if liked and row["protocol"] == "full":
            row |= liked.means(row["system"])
    known = _ordered(pd.DataFrame(rows))
    results = {"rows": known.astype(object).where(known.notna(), None).to_dict("records"), "differences": differences}
    figures = {section.title: section.plain() for section in sections}
    write_json(results | {"findings": list(findings), "quality": quality, "sections": figures}, folder / "results.json")

    metrics = {_flat(r["protocol"], r["system"], k): float(r[k]) for r in rows for k in r if "@" in k}
    metrics |= {_flat("difference", *k.split(", ")[::-1]): mean for k, (mean, _, _) in differences.items()}
    metrics |= {_flat(k): v for k, v in quality.items()}
    for section in sections:
        for system in section.rows:
            prefix = "difference" if MINUS in system else "full"
            metrics |= {_flat(prefix, system, name): mean for name, mean in section.means(system).items()}
    return StageResult({"users": len(users), "retrieved": round(full.ceiling * len(users))}, metrics)


def list_matrix(
    rankings: pd.DataFrame, ranker: str, split: str, users: Sequence[str], sequences: Sequences
) -> np.ndarray:
    """One ranker's lists as item ids, (users, longest list) int64, best first, 0 for padding."""
    part = rankings[(rankings["ranker"] == ranker) & (rankings["split"] == split)]
    rows = pd.Index(users).get_indexer(part["user"])
    known = rows >= 0
    matrix = np.zeros((len(users), int(part["rank"].max())), dtype=np.int64)
    items = part["item"].map(sequences.item_ids()).to_numpy()
    matrix[rows[known], part["rank"].to_numpy()[known] - 1] = items[known]
    return matrix


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Columns in the order of reading: names first, the ceiling last."""
    first, last = ["protocol", "system", "users"], ["ceiling"]
    return table[[*first, *(c for c in table if c not in first + last), *last]]


def _differences(
    full: Protocol, injected: Protocol, sizes: np.ndarray, names: Sequence[str], resampling: tuple[int, int]
) -> dict[str, Interval]:
    """Every ranker minus each of ``_others`` under "full", and minus chance among ``sizes`` (N,) under "injected"."""
    made, chances = {}, dict(zip(METRICS, chance(sizes, TOP), strict=True))
    for name in names:
        for metric, values_of in METRICS.items():
            own, among = values_of(full.ranks[name], TOP), values_of(injected.ranks[name], TOP)
            for other in _others(name, names):
                beside = values_of(full.ranks[other], TOP)
                made[f"{metric}, {name}{MINUS}{other}"] = paired_bootstrap(own, beside, *resampling)
            made[f"{metric}, {name} minus chance, injected"] = paired_bootstrap(among, chances[metric], *resampling)
    return made


def _others(name: str, names: Sequence[str]) -> list[str]:
    """What a ranker is compared with: the retriever, and for "a + b" also "a", so that b's own share is seen."""
    return [RETRIEVER, *(other for other in names if other == name.rpartition(" + ")[0])]


def _liking(
    ranks: Mapping[str, np.ndarray], targets: Gladness, names: Sequence[str], resampling: tuple[int, int]
) -> dict[str, dict[str, Interval]]:
    """A row for every system, and one for the paired difference of every ranker to each of ``_others``."""
    rows = {system: liking(own, targets, *resampling) for system, own in ranks.items()}
    for name in names:
        for other in _others(name, names):
            rows[f"{name}{MINUS}{other}"] = liking(ranks[name], targets, *resampling, ranks[other])
    return rows


def _write_markdown(
    findings: Sequence[str],
    table: pd.DataFrame,
    differences: Mapping[str, Interval],
    quality: Mapping[str, float],
    sections: Sequence[Section],
    path: Path,
) -> None:
    intervals = (
        "Differences under the full protocol unless another is named, with 95 % paired bootstrap intervals over users:"
    )
    lines = [*(f"- {words}" for words in findings), ""] if findings else []
    lines += [markdown_table(table), f"{intervals}\n"]
    lines += [f"- {name}: {shown(*difference)}" for name, difference in differences.items()]
    lines += ["", *(f"- {name}: {value:.4f}" for name, value in quality.items())]
    for section in sections:
        lines += ["", f"### {section.title}\n", f"{section.reading}\n", markdown_table(section.table()).rstrip()]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _flat(*parts: str) -> str:
    """A metric's name. MLflow allows no plus sign in it."""
    for old, new in ((" + ", "_"), (", ", "_"), (" ", "_"), ("'s", "")):
        parts = tuple(part.replace(old, new) for part in parts)
    return ".".join(parts)
