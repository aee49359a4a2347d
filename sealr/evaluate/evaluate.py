"""From ranked lists to the metrics table: three protocols, chance line, ceiling, validity, paired intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sealr.data.manifest import StageResult
from sealr.data.sequences import Sequences
from sealr.data.tables import atomic_path, write_json
from sealr.evaluate import protocols
from sealr.evaluate.metrics import chance, coverage, hit_rate, ndcg, regret, satisfied_hit_rate, summary
from sealr.evaluate.protocols import RETRIEVER
from sealr.evaluate.report import markdown, metrics_table, plot
from sealr.evaluate.statistics import paired_bootstrap, shown
from sealr.settings import EvaluateConfig

TOP = 10
EVERYBODY = "retriever, all users"
METRICS = {"HR@10": hit_rate, "NDCG@10": ndcg}


def evaluate(
    rankings: pd.DataFrame,
    retriever_ranks: np.ndarray,
    users: Sequence[str],
    validity: float,
    sequences: Sequences,
    sentiments: np.ndarray,
    config: EvaluateConfig,
    folder: Path,
    learned: Collection[int] = (),
) -> StageResult:
    """Writes results.json, results.md and results.png, and returns the metrics under flat names.

    rankings: the table `rerank` wrote. retriever_ranks (test users,): the targets' ranks in the whole catalogue.
    users: who was evaluated. validity: share of the items the LLM named that were candidates. sentiments: class per interaction,
    aligned with ``sequences.flat``; metrics about feelings that nobody had are left out. learned: rows of ``sequences.users`` whose
    test items the retriever was trained on; they are nobody's test.
    """
    split = sequences.split("test")
    row_of = {sequences.users[u]: i for i, u in enumerate(split.users)}
    rows_of_users = np.array([row_of[u] for u in users])
    targets = split.targets[rows_of_users]  # (N,)
    felt = sentiments[split.ends[rows_of_users]]  # (N,) how the user felt about the target
    names = [r for r in dict.fromkeys(rankings["ranker"]) if r != RETRIEVER]
    pools = list_matrix(rankings, RETRIEVER, "test", users, sequences)  # (N, C)
    lists = {name: list_matrix(rankings, name, "test", users, sequences) for name in names}
    injected_pools = list_matrix(rankings, RETRIEVER, "injected", users, sequences)
    injected_lists = {name: list_matrix(rankings, name, "injected", users, sequences) for name in names}

    full = protocols.full(pools, targets, retriever_ranks[rows_of_users], lists)
    rows = full.rows()
    for row in rows:
        ranks = full.ranks[row["system"]]
        for name, of in (("satisfied HR@10", satisfied_hit_rate), ("regret@10", regret)):
            values = of(ranks, felt, TOP)
            if len(values):  # nobody felt that way, or there are no feelings at all
                row[name] = float(values.mean())
    tested = retriever_ranks[~np.isin(split.users, list(learned))]
    rows.insert(0, {"protocol": "full", "system": EVERYBODY, "users": len(tested)} | summary(tested))
    if full.ceiling > 0:  # otherwise nobody's target was retrieved
        inverted = {protocols.INVERTED: protocols.inverted(pools)}
        rows += protocols.retrieved(pools, targets, inverted | lists).rows()
    injected = protocols.injected(injected_pools, targets, injected_lists, full.ceiling)
    rows += injected.rows()
    table = metrics_table(rows)

    differences = {}
    lines = dict(zip(METRICS, chance(injected.sizes, TOP), strict=True))
    for name in names:
        for metric, of in METRICS.items():
            retriever, mine, among = (of(ranks, TOP) for ranks in (full.ranks[RETRIEVER], full.ranks[name], injected.ranks[name]))
            differences[f"{metric}, {name} minus retriever"] = paired_bootstrap(mine, retriever, config.bootstrap, config.seed)
            beside = paired_bootstrap(among, lines[metric], config.bootstrap, config.seed)
            differences[f"{metric}, {name} minus chance, injected"] = beside
    quality = {f"ceiling HR@{pools.shape[1]}": full.ceiling, "validity of the LLM's lists": validity}
    for name, ranked in {RETRIEVER: pools, **lists}.items():
        quality[f"coverage@10, {name}"] = coverage(ranked[:, :TOP], sequences.n_items)
    known = table.astype(object).where(table.notna(), None)
    write_json({"rows": known.to_dict("records"), "differences": differences, "quality": quality}, folder / "results.json")
    _write_markdown(table, differences, quality, folder / "results.md")
    plot(table[table["system"] != EVERYBODY], folder / "results.png")  # bars of a panel are over the same users
    metrics = {_flat(r["protocol"], r["system"], k): float(r[k]) for r in rows for k in r if "@" in k}
    metrics |= {_flat("difference", *k.split(", ")[::-1]): d for k, (d, _, _) in differences.items()} | {
        _flat(k): v for k, v in quality.items()
    }
    return StageResult({"users": len(users), "retrieved": round(full.ceiling * len(users))}, metrics)


def list_matrix(rankings: pd.DataFrame, ranker: str, split: str, users: Sequence[str], sequences: Sequences) -> np.ndarray:
    """One ranker's lists as item indices, (users, longest list), 0 for padding."""
    part = rankings[(rankings["ranker"] == ranker) & (rankings["split"] == split)]
    rows = pd.Index(users).get_indexer(part["user"])
    known = rows >= 0
    matrix = np.zeros((len(users), int(part["rank"].max())), dtype=np.int64)
    matrix[rows[known], part["rank"].to_numpy()[known] - 1] = part["item"].map(sequences.item_ids()).to_numpy()[known]
    return matrix


def _write_markdown(
    table: pd.DataFrame, differences: dict[str, tuple[float, float, float]], quality: dict[str, float], path: Path
) -> None:
    lines = [markdown(table), "Differences, under the full protocol where no other is named, with 95 % intervals of a paired bootstrap over users:\n"]
    lines += [f"- {name}: {shown(*difference)}" for name, difference in differences.items()]
    lines += ["", *(f"- {name}: {value:.4f}" for name, value in quality.items())]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _flat(*parts: str) -> str:
    return ".".join(p.replace(", ", "_").replace(" ", "_").replace("'s", "") for p in parts)
