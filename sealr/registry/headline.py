"""The few test figures that a job's page in MLflow and a version's model card begin with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sealr.evaluate.evaluate import EVERYBODY
from sealr.evaluate.protocols import RETRIEVER
from sealr.evaluate.sections import MINUS
from sealr.evaluate.statistics import shown
from sealr.rerank.rerank import FUSED, GLAD


def served_list(systems: Collection[str]) -> str:
    """The system whose lists the registered model gives."""
    return next(name for name in (GLAD, FUSED, RETRIEVER) if name in systems)


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """Figures of the served lists and of the retriever alone, all items ranked. results: of results.json."""
    own, alone = _rows(results)
    figures = {"HR@10": own["HR@10"], "NDCG@10": own["NDCG@10"]}
    figures |= {"HR@10_retriever": alone["HR@10"], "NDCG@10_retriever": alone["NDCG@10"]}
    return figures | {"NDCG@10_gain": own["NDCG@10"] - alone["NDCG@10"]}


def sentences(results: Mapping[str, Any]) -> list[str]:
    """`headline` in words, and the differences between the served lists and others, each with its interval."""
    own, alone = _rows(results)
    figures = f"HR@10 {own['HR@10']:.4f}, NDCG@10 {own['NDCG@10']:.4f}"
    lines = [f"{figures} on the test items of {own['users']:,} users; all items are ranked."]
    if own is not alone:
        lines.append(f"The retriever alone has HR@10 {alone['HR@10']:.4f}, NDCG@10 {alone['NDCG@10']:.4f}.")
    for name, (mean, low, high) in results["differences"].items():
        metric, _, systems = name.partition(", ")
        first, _, second = systems.partition(MINUS)
        if first == own["system"] and "," not in second:  # under this protocol
            lines.append(f"{metric}, {first}{MINUS}{second}: {shown(mean, low, high, '+')}.")
    return lines


def _rows(results: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of the served lists and of the retriever, both of the evaluated users."""
    rows = {r["system"]: r for r in results["rows"] if r["protocol"] == "full" and r["system"] != EVERYBODY}
    return rows[served_list(rows)], rows[RETRIEVER]
