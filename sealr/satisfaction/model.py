"""Forecast of how glad a user will be of an item, in stars. `sealr/satisfaction/fit.py` makes it from training reviews.

``effects``: mu + effect of the item + effect of the user (`sealr/satisfaction/effects.py`).

``ridge``: intercept + a * effect of the item + b * effect of the user + c * fit. The fit is the dot product of the
item's content, the mean vector of its reviews, and the user's interest: the mean content of the items of the history,
weighted by the stars that neither effect explains. Without vectors there is no content, and the fit is 0.

A user is a history of items and stars, so the forecast also works for users that training has never seen. All that is
known of an item is a row of a table. The forecast is this row times weights of the user, plus a constant of the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

from sealr.data.tables import atomic_path, read_json, write_json
from sealr.satisfaction.calibration import Calibration
from sealr.satisfaction.linear import Ridge
from sealr.settings import SatisfactionConfig

TENSORS, NUMBERS = "satisfaction.safetensors", "satisfaction.json"


class Users(NamedTuple):
    """What histories say about N users."""

    effects: np.ndarray  # (N,) stars above what others give to the same items
    interests: np.ndarray  # (N, D) content of their items, weighted by the stars that are left


class Sums(NamedTuple):
    """Sums over the reviews of N users, from which one review can be taken away."""

    counts: np.ndarray  # (N,)
    left: np.ndarray  # (N,) of stars - mu - effect of the item
    content: np.ndarray  # (N, D) of the items' content
    weighted: np.ndarray  # (N, D) of the same, times what is left

    def users(self, pull: float) -> Users:
        effects = self.left / (self.counts + pull)
        return Users(effects, (self.weighted - effects[:, None] * self.content) / (self.counts + pull)[:, None])


@dataclass(frozen=True)
class Satisfaction:
    """table (V + 1, 1 + D) float32: an item's effect and content; row 0 is padding. D is 0 without texts.

    source (V + 1,) int64: in the placebo, the item whose row a candidate gets.
    """

    config: SatisfactionConfig
    mean: float  # mu, in stars
    pull: float  # reviews of effect 0 that shrink a user's effect
    table: np.ndarray
    ridge: Ridge | None = None  # None: the sum of the effects
    calibration: Calibration | None = None  # turns the labels of a request into stars
    source: np.ndarray | None = None
    appended: int = 0  # items at the end of the table that no review tells of; they do not count in `standardised`

    @property
    def n_items(self) -> int:
        return len(self.table) - 1

    def forecast(self, histories: Sequence[np.ndarray], stars: Sequence[np.ndarray]) -> np.ndarray:
        """(N, V + 1) float32: stars that N users would give to each item. Not cut at 1 and 5; column 0 is 0.

        histories: item ids of each user; stars: as long, NaN where unknown. A catalogue of 10^6 items takes 4 MB a
        user. Raises ValueError when a history and its stars differ in length, or an id is not in 0..V.
        """
        weights, constants = self._weights(self.users(histories, stars))
        found = weights @ self._candidates.T
        found += constants[:, None]
        found[:, 0] = 0
        return found

    def predict(self, history: np.ndarray, stars: np.ndarray) -> np.ndarray:
        """(V + 1,) float32: `forecast` for one user."""
        return self.forecast([history], [stars])[0]

    def standardised(
        self, histories: Sequence[np.ndarray], stars: Sequence[np.ndarray], items: np.ndarray | None = None
    ) -> np.ndarray:
        """(N, V + 1) float32: the forecast minus its mean over the catalogue, divided by its deviation there.

        items (N, C): scores of these items only, without forecasting the others. A user whose forecast is the same
        for all items gets 0 everywhere, and so does item 0. Raises ValueError like `forecast`.
        """
        weights, _ = self._weights(self.users(histories, stars))
        mean, covariance = self._moments
        deviations = np.sqrt(np.maximum(np.einsum("nf,fg,ng->n", weights, covariance, weights), 0))
        scale = np.divide(1, deviations, out=np.zeros_like(deviations), where=deviations > 1e-6)[:, None]
        if items is None:
            found = (weights @ self._candidates.T - (weights @ mean)[:, None]) * scale
            found[:, 0] = 0
        else:
            rows = self._candidates[items] - mean  # (N, C, F)
            found = np.where(items > 0, np.einsum("ncf,nf->nc", rows, weights) * scale, 0)
        return found.astype(np.float32)

    def users(self, histories: Sequence[np.ndarray], stars: Sequence[np.ndarray]) -> Users:
        return self.sums(histories, stars).users(self.pull)

    def sums(self, histories: Sequence[np.ndarray], stars: Sequence[np.ndarray]) -> Sums:
        lengths = [len(history) for history in histories]
        if lengths != [len(values) for values in stars]:
            raise ValueError("each history needs as many stars as items")
        items = np.concatenate([*histories, np.zeros(0)]).astype(np.int64)
        given = np.concatenate([*stars, np.zeros(0)]).astype(np.float32)
        if len(items) and not 0 <= items.min() <= items.max() <= self.n_items:
            raise ValueError(f"a history has an item id outside of 0 to {self.n_items}")
        known = np.isfinite(given) & (items > 0)
        left = np.where(known, given - self.mean - self.table[items, 0], 0).astype(np.float32)
        content = self.table[items, 1:]  # (L, D); the whole table would be copied
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        place, shape = np.arange(len(items)), (len(lengths), len(items))
        ones, weights = (csr_matrix((values, place, ends), shape) for values in (known.astype(np.float32), left))
        counts, total = (np.asarray(matrix.sum(1)).ravel() for matrix in (ones, weights))
        return Sums(counts, total, ones @ content, weights @ content)

    def _weights(self, users: Users) -> tuple[np.ndarray, np.ndarray]:
        """(N, 1 + D) weights of an item's row and (N,) constants of the forecast."""
        weights = np.zeros((len(users.effects), self.table.shape[1]), np.float32)
        if self.ridge is None:
            weights[:, 0] = 1
            return weights, (self.mean + users.effects).astype(np.float32)
        weights[:, 0], effect, fit = self.ridge.weights
        weights[:, 1:] = fit * users.interests
        return weights, (self.ridge.intercept + effect * users.effects).astype(np.float32)

    def placebo(self, seed: int = 0) -> Satisfaction:
        """The same forecast, but each candidate is judged by what reviews say about another item.

        What histories say about users stays true, and so do the weights.
        """
        source = np.arange(len(self.table))
        source[1:] = np.random.default_rng(seed).permutation(source[1:])
        return replace(self, config=replace(self.config, shuffled=True, seed=seed), source=source)

    @cached_property
    def _candidates(self) -> np.ndarray:
        """(V + 1, F): the rows that candidates get."""
        return self.table if self.source is None else self.table[self.source]

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """(F,) mean and (F, F) covariance of the rows of real items."""
        rows = self.table[1 : len(self.table) - self.appended]  # in any order
        mean = rows.mean(0, dtype=np.float64)
        covariance = (rows.T @ rows).astype(np.float64) / len(rows) - np.outer(mean, mean)
        return mean.astype(np.float32), covariance

    def append(self, count: int) -> Satisfaction:
        """The same forecast for ``count`` more items at the end, of which nothing is known: each is an average item."""
        average = np.broadcast_to(self._moments[0], (count, self.table.shape[1]))
        source = self.source
        if source is not None:
            source = np.concatenate([source, np.arange(len(source), len(source) + count)])
        table = np.concatenate([self.table, average])
        return replace(self, table=table, source=source, appended=self.appended + count)

    def save(self, folder: Path) -> None:
        """Writes two files, each atomically."""
        with atomic_path(folder / TENSORS) as temporary:
            save_file({"table": self.table} | ({} if self.source is None else {"source": self.source}), temporary)
        numbers = {"config": asdict(self.config), "mean": self.mean, "pull": self.pull, "appended": self.appended}
        numbers["ridge"] = self.ridge and self.ridge.to_dict()
        numbers["calibration"] = self.calibration and self.calibration.to_dict()
        write_json(numbers, folder / NUMBERS)

    @classmethod
    def load(cls, folder: Path) -> Satisfaction:
        """Raises OSError when a file is missing, and ValueError when they do not belong together."""
        numbers, tensors = read_json(folder / NUMBERS), load_file(folder / TENSORS)
        config, ridge, calibration = (numbers.pop(name) for name in ("config", "ridge", "calibration"))
        return cls(
            SatisfactionConfig(**config),
            **numbers,
            table=tensors["table"],
            source=tensors.get("source"),
            ridge=ridge and Ridge.from_dict(ridge),
            calibration=calibration and Calibration.from_dict(calibration),
        )
