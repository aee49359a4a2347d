"""From ranked lists to metrics under three protocols, with chance line, ceiling, validity and paired intervals."""

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
from sealr.evaluate.report import Panel, markdown_table, plot
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
    feelings: np.ndarray,
    config: EvaluateConfig,
    folder: Path,
    learned: Collection[int] = (),
) -> StageResult:
    """Writes results.json, results.md and results.png; returns the metrics under flat names.

    rankings: the table that ``rerank`` wrote. retriever_ranks (test users,): the targets' ranks in the whole catalogue.
    users: the evaluated ones. validity: share of the items named by the LLM that were candidates.
    feelings (interactions, 2): class and expected sentiment; without any the metrics about feelings are left out.
    learned: rows of ``sequences.users`` whose test items the retriever was trained on; its metrics exclude them.
    """
    split, rows_of_users = sequences.split("test"), sequences.rows(users)
    places = np.searchsorted(split.users, rows_of_users)  # (N,) in the split
    targets = split.targets[places]  # (N,)
    felt = feelings[split.ends[places], 0]  # (N,) class of the target
    names = [r for r in dict.fromkeys(rankings["ranker"]) if r != RETRIEVER]
    pools = list_matrix(rankings, RETRIEVER, "test", users, sequences)  # (N, C)
    lists = {name: list_matrix(rankings, name, "test", users, sequences) for name in names}
    injected_pools = list_matrix(rankings, RETRIEVER, "injected", users, sequences)
    injected_lists = {name: list_matrix(rankings, name, "injected", users, sequences) for name in names}

    full = protocols.full(pools, targets, retriever_ranks[places], lists)
    rows = full.rows()
    for row in rows:
        ranks = full.ranks[row["system"]]
        for name, share in (("satisfied HR@10", satisfied_hit_rate), ("regret@10", regret)):
            values = share(ranks, felt, TOP)
            if len(values):  # else no user felt that way, or there are no labels
                row[name] = float(values.mean())
    tested = retriever_ranks[~np.isin(split.users, list(learned))]
    rows.insert(0, {"protocol": "full", "system": EVERYBODY, "users": len(tested)} | summary(tested))
    if full.ceiling > 0:  # else no target was retrieved, and the protocol has no users
        inverted = {protocols.INVERTED: protocols.inverted(pools)}
        rows += protocols.retrieved(pools, targets, inverted | lists).rows()
    injected = protocols.injected(injected_pools, targets, injected_lists, full.ceiling)
    rows += injected.rows()

    differences = {}
    chances = dict(zip(METRICS, chance((injected_pools > 0).sum(axis=1), TOP), strict=True))
    for name in names:
        for metric, values_of in METRICS.items():
            retriever, own = values_of(full.ranks[RETRIEVER], TOP), values_of(full.ranks[name], TOP)
            among = values_of(injected.ranks[name], TOP)
            for label, first, second in (
                (f"{metric}, {name} minus retriever", own, retriever),
                (f"{metric}, {name} minus chance, injected", among, chances[metric]),
            ):
                differences[label] = paired_bootstrap(first, second, config.bootstrap, config.seed)
    quality = {f"ceiling HR@{pools.shape[1]}": full.ceiling, "validity of the LLM's lists": validity}
    quality |= {
        f"coverage@10, {n}": coverage(r[:, :TOP], sequences.n_items) for n, r in {RETRIEVER: pools, **lists}.items()
    }

    table = _ordered(pd.DataFrame(rows))
    known = table.astype(object).where(table.notna(), None).to_dict("records")
    write_json({"rows": known, "differences": differences, "quality": quality}, folder / "results.json")
    _write_markdown(table, differences, quality, folder / "results.md")
    bars = table[table["system"] != EVERYBODY]  # bars of one panel are over the same users
    panels = [
        Panel(f"{name} ({part['users'].iloc[0]:,} users)", part, ceiling=full.ceiling if name == "full" else None)
        for name, part in bars.groupby("protocol", sort=False)
    ]
    plot(panels, folder / "results.png")
    metrics = {_flat(r["protocol"], r["system"], k): float(r[k]) for r in rows for k in r if "@" in k}
    metrics |= {_flat("difference", *k.split(", ")[::-1]): mean for k, (mean, _, _) in differences.items()}
    metrics |= {_flat(k): v for k, v in quality.items()}
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


def _write_markdown(
    table: pd.DataFrame, differences: dict[str, tuple[float, float, float]], quality: dict[str, float], path: Path
) -> None:
    intervals = (
        "Differences under the full protocol unless another is named, with 95 % paired bootstrap intervals over users:"
    )
    lines = [markdown_table(table), f"{intervals}\n"]
    lines += [f"- {name}: {shown(*difference)}" for name, difference in differences.items()]
    lines += ["", *(f"- {name}: {value:.4f}" for name, value in quality.items())]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _flat(*parts: str) -> str:
    return ".".join(p.replace(", ", "_").replace(" ", "_").replace("'s", "") for p in parts)
