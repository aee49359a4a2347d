"""Forecast of how glad a user will be of an item, in stars. `sealr/satisfaction/fit.py` makes it from training reviews.

``effects``: mu + effect of the item + effect of the user (`sealr/satisfaction/effects.py`).

``ridge``: a ridge regression on these effects and on what else is known of the item: how many reviews, how much they
differ, their mean emotions and mean text vector; and on how well these fit what the user was glad of.

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
from sealr.satisfaction.statistics import PLAIN
from sealr.settings import SatisfactionConfig

TENSORS, NUMBERS = "satisfaction.safetensors", "satisfaction.json"


class Users(NamedTuple):
    """What histories say about N users."""

    effects: np.ndarray  # (N,) stars above what others give to the same items
    counts: np.ndarray  # (N,) reviews with known stars
    interests: np.ndarray  # (N, F - 3) mean emotions and content of their items, weighted by the stars that are left


class Sums(NamedTuple):
    """Sums over the reviews of N users, from which one review can be taken away."""

    counts: np.ndarray  # (N,)
    left: np.ndarray  # (N,) of stars - mu - effect of the item
    profiles: np.ndarray  # (N, F - 3) of the items' emotions and content
    weighted: np.ndarray  # (N, F - 3) of the same, times what is left

    def users(self, pull: float) -> Users:
        effects = self.left / (self.counts + pull)
        interests = (self.weighted - effects[:, None] * self.profiles) / (self.counts + pull)[:, None]
        return Users(effects, self.counts, interests)


@dataclass(frozen=True)
class Satisfaction:
    """table (V + 1, F) float32: an item's effect, count, spread, mean emotions and content; row 0 is padding.

    source (V + 1,) int64: in the placebo, the item whose row a candidate gets.
    """

    config: SatisfactionConfig
    mean: float  # mu, in stars
    pull: float  # reviews of effect 0 that shrink a user's effect
    table: np.ndarray
    emotions: int  # columns of the table with emotions: 28, or 0 without labels
    ridge: Ridge | None = None  # None: the sum of the effects
    calibration: Calibration | None = None  # turns the labels of a request into stars
    source: np.ndarray | None = None

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
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        shape = (len(lengths), len(self.table))
        ones = csr_matrix((known.astype(np.float32), items, ends), shape)
        weights = csr_matrix((left, items, ends), shape)
        profile = self.table[:, PLAIN:]
        counts, total = (np.asarray(m.sum(1)).ravel() for m in (ones, weights))
        return Sums(counts, total, ones @ profile, weights @ profile)

    def products(self, users: Users) -> list[np.ndarray]:
        """Weights (N, F) that users give to the columns of an item: one array for each feature of user and item."""
        width, columns = self.table.shape[1], slice(PLAIN, PLAIN + self.emotions)
        effect, emotion, content = np.zeros((3, len(users.effects), width), np.float32)
        effect[:, 0] = users.effects
        emotion[:, columns] = users.interests[:, : self.emotions]
        content[:, columns.stop :] = users.interests[:, self.emotions :]
        return [effect, emotion, content]

    def _weights(self, users: Users) -> tuple[np.ndarray, np.ndarray]:
        """(N, F) weights of an item's columns and (N,) constants: the forecast is their dot product with the row."""
        width = self.table.shape[1]
        if self.ridge is None:
            weights = np.zeros((len(users.effects), width), np.float32)
            weights[:, 0] = 1
            return weights, (self.mean + users.effects).astype(np.float32)
        own, (effect, count), pairs = np.split(self.ridge.weights, [width, width + 2])
        weights = own + sum(weight * each for weight, each in zip(pairs, self.products(users), strict=True))
        constants = self.ridge.intercept + effect * users.effects + count * np.log1p(users.counts)
        return weights.astype(np.float32), constants.astype(np.float32)

    def placebo(self, seed: int = 0) -> Satisfaction:
        """The same forecast, but each candidate is judged by what reviews say about another item.

        What histories say about users stays true. Nothing is fitted again: a regression on the rows of other items
        would use them as names of the items.
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
        rows = self.table[1:]  # in any order
        mean = rows.mean(0, dtype=np.float64)
        covariance = (rows.T @ rows).astype(np.float64) / len(rows) - np.outer(mean, mean)
        return mean.astype(np.float32), covariance

    def save(self, folder: Path) -> None:
        """Writes two files, each atomically."""
        with atomic_path(folder / TENSORS) as temporary:
            save_file({"table": self.table} | ({} if self.source is None else {"source": self.source}), temporary)
        numbers = {"config": asdict(self.config), "mean": self.mean, "pull": self.pull, "emotions": self.emotions}
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
