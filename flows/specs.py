"""Reading what a comparison of ``benchmarks/`` asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import yaml

from sealr import resources
from sealr.config import ConfigError, from_dict, merged, to_dict
from sealr.settings import RetrieveConfig


def read_spec(table: str) -> dict[str, Any]:
    """``benchmarks/<table>.yaml``. Raises ConfigError when there is none."""
    folder = resources.folder("configs") / "comparisons"
    path = folder / f"{table}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(f"there is no table {table!r}; there are: {known}")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def wanted(given: str, known: dict[str, Any], what: str) -> list[str]:
    """Comma-separated names, or all that are known. Raises ConfigError for one that is not. what: "data set", for messages."""
    names = [name for name in given.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"there is no {what} {unknown[0]!r} in this table; there are: {', '.join(known)}")
    return names or list(known)


def configuration(base: RetrieveConfig, name: str, systems: dict[str, dict[str, Any]], seed: int) -> RetrieveConfig:
    """A system's settings over the data set's own, with a seed. ``parts`` of a fusion are names of other systems."""
    settings = {k: v for k, v in systems[name].items() if k != "seeds"}
    if "parts" in settings:
        parts = tuple({k: v for k, v in systems[part].items() if k != "seeds"} for part in settings["parts"])
        settings |= {"model": "fusion", "parts": parts}
    try:
        return from_dict(RetrieveConfig, merged(to_dict(replace(base, seed=seed)), settings))
    except ValueError as error:
        raise ConfigError(f"settings of {name}: {error}") from None
