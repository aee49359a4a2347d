"""The format of ``configs/comparisons/*.yaml``. Imports are light: the command checks names before a flow starts.

A file's top level holds for all its data sets, and an entry of ``data`` is merged over it: ``settings``, ``note`` and
``compare`` are joined, mappings are merged, everything else is replaced. A system is one of

* a string: settings of the whole chain with an LLM. It gives two rows, the LLM alone and fused with the retriever.
* a mapping: settings of the section ``retrieve`` for one retriever, over those of the configuration. Beside them it may
  hold ``seeds``; ``parts``, names of systems to fuse, where a repeated name is another seed of it; ``teacher``, names
  of the systems whose fusion teaches it; or ``best_part: true``, the part with the best validation.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from sealr import resources
from sealr.config import ConfigError, merged, nearest
from sealr.evaluate.comparison import PAPER_METRICS
from sealr.settings import frozen

NO_GATE = "evaluate.gate_share=0"  # a comparison promotes nothing, so every user may choose


@frozen
class Comparison:
    """What a file of ``configs/comparisons/`` says about one data set."""

    title: str  # and its data set
    systems: dict[str, str | dict[str, Any]]
    protocols: dict[str, str]  # full, kept, injected or times, and how to read their tables
    configuration: str = ""  # name in configs/
    base: str = ""  # base model's configuration
    settings: str = ""  # overrides for all systems
    seeds: int = Field(0, ge=0, lt=100)  # train with seeds 0, 1, ...; 0: once, with the configuration's seeds
    feelings: bool = False  # label the reviews, for systems that read feelings
    baseline: bool = False  # compare NDCG@10 with that of the configuration's own retriever
    metrics: tuple[str, ...] = (*PAPER_METRICS, "HR@20", "HR@50", "HR@100")
    compare: tuple[tuple[str, str], ...] = ()  # pairs whose difference gets an interval
    published: dict[str, dict[str, tuple[float | None, ...]]] = Field(
        default_factory=dict
    )  # protocol -> name -> figures
    note: str = ""

    @property
    def chains(self) -> dict[str, str]:
        """The systems with an LLM, and their settings."""
        return {name: settings for name, settings in self.systems.items() if isinstance(settings, str)}


def read_comparisons(table: str) -> dict[str, Comparison]:
    """``configs/comparisons/<table>.yaml`` by data set. Raises ConfigError on an unknown table or key."""
    folder = resources.folder("configs") / "comparisons"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if table not in known:
        raise ConfigError(f"there is no comparison {table!r}; there are: {', '.join(known)}{nearest(table, known)}")
    top = yaml.safe_load((folder / f"{table}.yaml").read_text(encoding="utf-8"))
    return {data: merged_comparison(top, data, own or {}) for data, own in top.pop("data").items()}


def select_comparisons(table: str, data: str, only: str, figure: str = "") -> tuple[str, dict[str, Comparison]]:
    """The name of a comparison, and what it says about the chosen data sets.

    table: a file of configs/comparisons/, or 2 or 3 for the paper's tables. figure: 4 for the paper's Figure 4.
    data, only: comma-separated data sets and systems; empty for all. Raises ConfigError on an unknown name.
    """
    name = f"figure{figure}" if figure else f"table{table}" if table.isdecimal() else table
    known = read_comparisons(name)
    specs = {data_set: known[data_set] for data_set in select_names(data, known, "data set")}
    for spec in specs.values():
        select_names(only, spec.systems, "system")
    return name, specs


def merged_comparison(top: dict[str, Any], data: str, own: dict[str, Any]) -> Comparison:
    """The comparison on one data set: the top level of a file and the data set's own entry over it."""
    given = [NO_GATE, *(part.get("settings", "") for part in (top, own))]
    joined = {
        "title": f"{top.get('title', 'Comparison')}: {data}",
        "settings": " ".join(text if isinstance(text, str) else shlex.join(text) for text in given).strip(),
        "note": "\n\n".join(part["note"] for part in (own, top) if "note" in part),
        "compare": [*top.get("compare", []), *own.get("compare", [])],
    }
    try:
        return TypeAdapter(Comparison).validate_python({"configuration": data} | merged(top, own) | joined)
    except ValidationError as error:
        raise ConfigError(f"comparison on {data}: {error}") from None


def select_names(given: str, known: Collection[str], what: str) -> list[str]:
    """The comma-separated names in any case, or all known ones. Raises ConfigError. what: for the message."""
    spelt = {name.casefold(): name for name in known}
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name.casefold() not in spelt:
            close = nearest(name, list(known)) or nearest(name.casefold(), list(spelt))
            raise ConfigError(
                f"there is no {what} {name!r} in this comparison{close or ';'} there are: {', '.join(known)}"
            )
    return [spelt[name.casefold()] for name in names] or list(known)
