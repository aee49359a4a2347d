"""Small tables of results whose figures have intervals: as a table of text, as JSON and as flat metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sealr.evaluate.statistics import Interval, shown

MINUS = " minus "  # in the name of a system or of a figure that is a difference, and so has a sign


@dataclass(frozen=True)
class Section:
    """A titled table. A figure is (mean, low, high): NaN where it is unknown, low and high NaN without an interval."""

    title: str
    reading: str  # what the figures mean; stands above the table
    rows: Mapping[str, Mapping[str, Interval]]  # system -> figure

    def table(self) -> pd.DataFrame:
        """One row per system, figures as text. Columns without any figure are left out."""
        made = []
        for system, figures in self.rows.items():
            known = {name: value for name, value in figures.items() if np.isfinite(value[0])}
            signs = {name: "+" if MINUS in system + name else "" for name in known}
            made.append({"system": system} | {name: shown(*value, signs[name]) for name, value in known.items()})
        return pd.DataFrame(made or {"system": []})

    def plain(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: null for an unknown figure or bound."""
        rows = []
        for system, figures in self.rows.items():
            cells = {name: [None if np.isnan(v) else v for v in value] for name, value in figures.items()}
            rows.append({"system": system} | {name: None if c[0] is None else c for name, c in cells.items()})
        return {"reading": self.reading, "rows": rows}

    def means(self, system: str) -> dict[str, float]:
        """The known figures of a system without their intervals; empty for a system that has no row."""
        return {name: value[0] for name, value in self.rows.get(system, {}).items() if np.isfinite(value[0])}
