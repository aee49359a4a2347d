"""Which items a request allows: by lists of items, by categories, and by what is available now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sealr.config import nearest
from sealr.serving.available import VARIABLE, Available
from sealr.serving.request import BadRequest, Filters, short

Mask = Callable[[int], np.ndarray | None]
NAMED = 10  # unknown items that a warning names
COMPARED = 2000  # categories, the largest first, among which the nearest to an unknown name is searched


@dataclass(frozen=True)
class Rule:
    """Filters with items and categories looked up. Items are indices from 1."""

    only: list[int] | None = None
    never: list[int] = field(default_factory=list)
    texts: np.ndarray | None = None  # (distinct texts + 1,) whether a text of categories is asked for
    available: bool | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return self.only is None and not self.never and self.texts is None


class Catalogue:
    """The items of a model by id and by category."""

    def __init__(self, item_ids: dict[str, int], items: pd.DataFrame) -> None:
        """item_ids: raw id -> index from 1. items: of the items table.

        Where a text of categories has " > ", all are paths: "Beauty > Hair Care" is in Beauty, Hair Care and itself.
        Otherwise they are lists: "poetry, classics" is in poetry, classics and itself.
        """
        self.item_ids = item_ids
        self.available: Available | None = None
        told = dict(zip(items["item"], items["categories"], strict=True))
        texts = [t if isinstance(t := told.get(item), str) and t.strip() else None for item in item_ids]
        codes, distinct = pd.factorize(np.array(texts, dtype=object))
        self.codes = np.append(-1, codes).astype(
            np.int32
        )  # (items + 1,) place in the distinct texts; -1, the last: without categories
        path, sizes = any(" > " in text for text in distinct), np.bincount(codes[codes >= 0], minlength=len(distinct))
        self.categories: dict[str, list[int]] = {}  # name -> places of the texts that have it
        for code, text in sorted(enumerate(distinct), key=lambda pair: -sizes[pair[0]]):
            for name in names(text, path):
                self.categories.setdefault(name, []).append(code)
        self.texts = len(distinct)

    def rule(self, filters: Filters, place: str = "") -> Rule:
        """Raises BadRequest for an unknown category, with the nearest one; unknown items become a warning."""
        notes: list[str] = []
        only = self._items(filters.include_items or [], "include_items", notes) if filters.include_items else None
        never = self._items(filters.exclude_items or [], "exclude_items", notes)
        texts = None
        if filters.categories:
            texts = np.zeros(self.texts + 1, dtype=bool)
            for name in filters.categories:
                texts[self._category(name, place)] = True
        if filters.available_only and self.available is None:
            raise BadRequest(
                f"{place}available_only needs a list of available items, and this model has none: start the server "
                f"with sealr serve --available FILE, or set {VARIABLE}"
            )
        return Rule(only, never, texts, filters.available_only, notes)

    def _items(self, ids: Sequence[str], what: str, notes: list[str]) -> list[int]:
        if unknown := [item for item in ids if item not in self.item_ids]:
            notes.append(f"{what}: {ignored(unknown)}")
        return [self.item_ids[item] for item in ids if item in self.item_ids]

    def _category(self, name: str, place: str) -> list[int]:
        if name not in self.categories:
            close = nearest(name, list(self.categories)[:COMPARED])
            none = "" if self.categories else ": the model was trained on items without categories"
            raise BadRequest(f"{place}no item has the category {short(name)}{none}{close}")
        return self.categories[name]

    def masks(self, call: Rule, rules: Sequence[Rule]) -> Mask | None:
        """The (items + 1,) items that each request is allowed, made when asked for; None where there is no filter.

        call: what holds for all requests. rules: of each request.
        """
        wanted = [self._wants_available(call, rule) for rule in rules]
        if call.empty and all(rule.empty for rule in rules) and not any(wanted):
            return None
        # One look at the list, so that all requests of a call go by the same one
        listed = self.available.mask() if self.available and any(wanted) else None
        shared: dict[bool, np.ndarray | None] = {
            wish: self._mask([call], listed if wish else None) for wish in set(wanted)
        }
        return lambda n: self._mask([rules[n]], shared[wanted[n]])

    def _wants_available(self, call: Rule, rule: Rule) -> bool:
        said = call.available if rule.available is None else rule.available
        return self.available is not None if said is None else said

    def _mask(self, rules: Sequence[Rule], base: np.ndarray | None) -> np.ndarray | None:
        """Items of ``base``, None for all, that the rules allow."""
        for rule in rules:
            if rule.empty:
                continue
            mask = np.ones(len(self.codes), dtype=bool) if base is None else base.copy()
            if rule.only is not None:
                kept = np.zeros(len(mask), dtype=bool)
                kept[rule.only] = True
                mask &= kept
            if rule.texts is not None:
                mask &= rule.texts[self.codes]
            mask[rule.never] = False
            base = mask
        return base


def names(text: str, path: bool) -> list[str]:
    """The categories that a text of the items table stands for."""
    steps = [step.strip() for step in text.split(" > " if path else ", ") if step.strip()]
    whole = [" > ".join(steps[:end]) for end in range(2, len(steps) + 1)] if path else [text.strip()]
    return list(dict.fromkeys([*steps, *whole]))


def ignored(unknown: Sequence[str]) -> str:
    """A warning about items that the model does not know."""
    more = " and more" if len(unknown) > NAMED else ""
    return f"unknown items ignored: {', '.join(short(item)[1:-1] for item in unknown[:NAMED])}{more}"
