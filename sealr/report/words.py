"""The sentence on top of the report, and the words for systems and verdicts."""

from __future__ import annotations

from typing import Any

from sealr.evaluate.protocols import CHANCE, INVERTED, RETRIEVER
from sealr.evaluate.sections import MINUS
from sealr.evaluate.statistics import shown
from sealr.report.results import cell, difference
from sealr.report.sources import Sources, Version
from sealr.rerank.rerank import FUSED, GLAD

SYSTEMS = {
    RETRIEVER: "who takes what: the retriever's own order",
    FUSED: "retriever and LLM together, by the weight that validation chose",
    GLAD: "the same, plus the forecast of how glad the user will be",
    INVERTED: "the retriever's order upside down, a control",
    CHANCE: "a random order, a control",
}
LLM = "the LLM alone, reading the same candidates"


def conclusion(sources: Sources, found: dict[str, Any] | None) -> str:
    """One sentence that says what to do, and why. found: of `results`."""
    if found is None:
        last = sources.stages[-1].name if sources.stages else "nothing"
        return f"This job ended after {last}: `sealr run` trains, evaluates and registers a model on these reviews."
    return f"{action(sources)}: {gain(found)}."


def action(sources: Sources) -> str:
    """What to do with the version."""
    version = sources.version
    if version is None:
        if sources.kind == "evaluate":
            return "Nothing was registered; `sealr run` does it"
        if sources.kind == "fit":
            return "The model is not registered; `model.register(name)` does it"
        return "This run is a control, and nothing was registered"
    if "champion" in version.aliases:
        return (
            f"Serve version {version.number}, the champion, with `sealr serve --model models:/{version.name}@champion`"
        )
    if version.verdict.get("against"):
        return f"Keep the champion, version {version.verdict['against']}: version {version.number} {refusal(version)}"
    return f"Version {version.number} waits for a decision"


def refusal(version: Version) -> str:
    """Why a version is not champion, in a few words."""
    decision = version.verdict.get("decision", "")
    if decision == "promoted":
        return "was champion and was replaced"
    return "could not replace it" if decision == "held" else "is not clearly better"


def gain(found: dict[str, Any]) -> str:
    """How often the served lists hit, beside the retriever alone."""
    served, alone = (row_of(found, name)["HR@10"] for name in (found["served"], RETRIEVER))
    users = row_of(found, found["served"])["users"]
    hits = f"the first ten items hold what {percent(served)} of {users:,} test users took next"
    interval = difference(found, "HR@10", found["served"])
    if interval is None or interval[1] == interval[2] == 0:
        return f"{hits}, as with the retriever alone"
    mean, low, high = interval
    verdict = "more" if low > 0 else "less" if high < 0 else "no clear difference"
    return f"{hits}, against {percent(alone)} with the retriever alone: {verdict} ({points(mean, low, high)})"


def more(found: dict[str, Any]) -> list[str]:
    """What else a person should know before serving: what the forecast of satisfaction costs and brings."""
    gap = difference(found, "HR@10", GLAD, FUSED)
    if found["served"] != GLAD or gap is None or gap[0] == gap[1] == gap[2]:
        return []
    name = "NDCG@10 liked minus disliked"
    rows = {row["system"]: row for row in found["liking"]["rows"]} if found["liking"] else {}
    brings = cell(rows.get(f"{GLAD}{MINUS}{FUSED}", {}).get(name))
    brings_words = f"{name} {shown(*brings)}; " if brings else ""
    return [
        f"On test users, satisfaction changes the fused lists by: {brings_words}HR@10 {shown(*gap)}. "
        "A request with `satisfaction_weight` 0 gets the lists without it."
    ]


def row_of(found: dict[str, Any], system: str) -> dict[str, Any]:
    """A system's row under the full protocol."""
    row: dict[str, Any] = next(row for row in found["protocols"]["full"] if row["system"] == system)
    return row


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(mean: float, low: float, high: float) -> str:
    """A difference of shares and its interval, in points of a per cent."""
    return f"{100 * mean:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"


def system(name: str) -> str:
    """What a system of the tables is."""
    return SYSTEMS.get(name, LLM)
