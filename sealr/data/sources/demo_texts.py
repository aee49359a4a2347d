"""Composes the demo's reviews from the grammar in ``demo.yaml``: 8 to 30 words that express a given emotion."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path
from typing import Any

import yaml


@functools.cache
def grammar() -> dict[str, Any]:
    """``demo.yaml``: catalogue, areas, slots, plain sentences, and sentences by emotion under "feelings"."""
    return yaml.safe_load(Path(__file__).with_name("demo.yaml").read_text(encoding="utf-8"))


def compose(emotion: str, thing: str, areas: list[str], rng: random.Random) -> str:
    """A review that expresses ``emotion`` about a ``thing`` such as "shampoo", used on one of ``areas``."""
    core = rng.choice(grammar()["feelings"][emotion])
    roll = rng.random()
    plain = [rng.choice(grammar()["plain"])] if roll < 0.45 else []
    fixed = {"thing": thing, "area": rng.choice(areas)}
    return " ".join(_fill(part, fixed, rng) for part in (plain + [core] if roll < 0.2 else [core] + plain))


def _fill(template: str, fixed: dict[str, str], rng: random.Random) -> str:
    def slot(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in fixed:
            return fixed[name]
        value = rng.choice(grammar()["slots"][name.lower()])
        return value[0].upper() + value[1:] if name[0].isupper() else value

    return re.sub(r"\{(\w+)\}", slot, template)
