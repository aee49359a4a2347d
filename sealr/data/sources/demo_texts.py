"""Composes the demo's reviews from the grammar in ``demo.yaml``: a feeling, and often a side of the item."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path
from typing import Any

import yaml


@functools.cache
def grammar() -> dict[str, Any]:
    """``demo.yaml``: catalogue, areas, sides, told, slots, plain, and sentences by emotion under "feelings"."""
    return yaml.safe_load(Path(__file__).with_name("demo.yaml").read_text(encoding="utf-8"))


def compose(emotion: str, thing: str, areas: list[str], side: str, told: str, rng: random.Random) -> str:
    """A review of 8 to 35 words that expresses ``emotion`` about a ``thing`` ("shampoo") used on one of ``areas``.

    side: what it tells of the item, a key of ``sides``, or "" for nothing. told: as what, a key of ``told``.
    """
    fixed = {"thing": thing, "area": rng.choice(areas)}
    core = rng.choice(grammar()["feelings"][emotion])
    if side:
        more = [rng.choice(grammar()["told"][told])]
        fixed["side"] = rng.choice(grammar()["sides"][side])
    else:
        more = [rng.choice(grammar()["plain"])] if rng.random() < 0.45 else []
    first = told != "minds" and rng.random() < 0.4
    return " ".join(_fill(part, fixed, rng) for part in (more + [core] if first else [core] + more))


def _fill(template: str, fixed: dict[str, str], rng: random.Random) -> str:
    def slot(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in fixed:
            return fixed[name]
        value = rng.choice(grammar()["slots"][name.lower()])
        return value[0].upper() + value[1:] if name[0].isupper() else value

    return re.sub(r"\{(\w+)\}", slot, template)
