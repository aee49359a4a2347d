"""The report's second part as plain data: training, results, placebos and costs. No figure is computed anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from sealr.data.tables import read_json
from sealr.evaluate.evaluate import EVERYBODY
from sealr.evaluate.liking import TITLE as LIKING
from sealr.evaluate.protocols import CHANCE, INVERTED, RETRIEVER
from sealr.evaluate.sections import MINUS
from sealr.evaluate.statistics import Interval
from sealr.pipeline.texts import FILE as TEXTS
from sealr.registry.headline import served_list
from sealr.report.sources import Sources, Stage
from sealr.rerank.satisfying import FORECAST, PLACEBO

METRICS = ("HR@10", "NDCG@10")
CONTROLS = (CHANCE, INVERTED)  # rows that stand for no system of ours


class Curve(NamedTuple):
    """Figures of a training by epoch. best: the epoch whose weights were kept."""

    name: str
    best: int
    figures: dict[str, list[tuple[int, float]]]  # such as train_loss -> (epoch, value)


class Claim(NamedTuple):
    """A question with the figures that answer it, of which the last one involves the placebo."""

    question: str
    reading: str  # what the figures are, and how to read them
    figures: dict[str, Interval]


def training(sources: Sources) -> dict[str, Any] | None:
    """Curves of the retrievers and of the LLM; None where nothing was trained in epochs."""
    retrievers = [curve for stage in sources.stages if stage.kind == "retriever" and (curve := _curve(stage))]
    llm = [curve for stage in sources.stages if stage.kind == "finetune" and (curve := _curve(stage))]
    return {"retrievers": retrievers, "llm": llm} if retrievers or llm else None


def _curve(stage: Stage) -> Curve | None:
    path = stage.folder / "history.json"
    history = read_json(path) if path.exists() else []
    figures: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            if name != "epoch":
                figures.setdefault(name, []).append((int(entry["epoch"]), float(value)))
    name = stage.name.removeprefix("retriever ")
    return Curve(name, int(stage.made["metrics"]["best_epoch"]), figures) if history else None


def results(sources: Sources) -> dict[str, Any] | None:
    """The rows of results.json by protocol, its differences, findings and sections; None without an evaluation."""
    folder = sources.folder("evaluate")
    if folder is None:
        return None
    found = read_json(folder / "results.json")
    protocols: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        if row["system"] != EVERYBODY:
            protocols.setdefault(row["protocol"], []).append(row)
    names = [row["system"] for row in protocols["full"]]
    ceiling = protocols["full"][0]["ceiling"]
    return {
        "protocols": protocols,
        "everybody": next(row for row in found["rows"] if row["system"] == EVERYBODY),
        "names": names,
        "served": served_list(names),
        "ceiling": ceiling,
        "differences": found["differences"],
        "quality": found["quality"],
        "findings": found["findings"],
        "liking": found["sections"].get(LIKING),
        "sections": {title: section for title, section in found["sections"].items() if title != LIKING},
    }


def difference(found: dict[str, Any], metric: str, system: str, other: str = RETRIEVER) -> Interval | None:
    """A system minus another under the full protocol, as results.json says it; None for what it does not compare."""
    values = found["differences"].get(f"{metric}, {system}{MINUS}{other}")
    return None if values is None else (values[0], values[1], values[2])


def cell(values: Sequence[float | None] | None) -> Interval | None:
    """A figure of a section's JSON: (mean, low, high), NaN for a missing bound; None for a missing figure."""
    if values is None or values[0] is None:
        return None
    mean, low, high = (math.nan if value is None else value for value in values)
    return mean, low, high


def placebos(sources: Sources) -> list[Claim]:
    """What texts and feelings gain on validation, beside what their placebos say."""
    found = []
    retrieved, reranked = sources.folder("retrieve"), sources.folder("rerank")
    figures = read_json(retrieved / TEXTS)["figures"] if retrieved and (retrieved / TEXTS).exists() else None
    if figures:
        gains = {"over no texts": figures["gain"], "over the texts of other items": figures["over_placebo"]}
        reading = "Gain in validation NDCG@10. Both above 0: what the texts say helps."
        found.append(Claim("Do texts of items help the retriever?", reading, _intervals(gains)))
    values = read_json(reranked / "fusion.json").get("satisfaction", {}) if reranked else {}
    rises = {name: values[name]["rise"] for name in (FORECAST, PLACEBO) if values.get(name, {}).get("rise")}
    if len(rises) == 2:
        reading = (
            "Rise of liked validation targets minus that of disliked ones, in logarithms of ranks. Above 0, and the "
            "placebo's not: what others felt tells the two apart."
        )
        found.append(Claim("Do feelings of others foretell who will be glad?", reading, _intervals(rises)))
    return found


def _intervals(values: dict[str, Sequence[float]]) -> dict[str, Interval]:
    return {name: (mean, low, high) for name, (mean, low, high) in values.items()}


def frontier(sources: Sources) -> dict[str, Any] | None:
    """HR@10 and its difference between liked and disliked test targets for each weight of satisfaction.

    ``lines``: of the forecast and its placebo, (weight, HR@10, liked minus disliked). None where they are unknown.
    """
    folder = sources.folder("rerank")
    fusion = read_json(folder / "fusion.json") if folder else {}
    lines = {}
    for name, values in fusion.get("satisfaction", {}).items():
        rows = [(row["weight"], row["HR@10"], row["HR@10 liked minus disliked"]) for row in values["test"]]
        if any(value is None for row in rows for value in row):
            return None
        lines[name] = rows
    return {"lines": lines, "chosen": fusion["satisfaction_weight"]} if lines else None


def costs(sources: Sources) -> list[dict[str, Any]]:
    """Seconds and memory of every stage, in their order."""
    return [
        {
            "name": stage.name,
            "seconds": float(stage.made["seconds"]),
            "reused": stage.reused,
            "megabytes": stage.megabytes,
        }
        for stage in sources.stages
    ]
