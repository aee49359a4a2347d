"""Generated reviews with a known mechanism, which show whether a pipeline uses feelings and texts.

There are two departments of three categories, and two brands with ten products each in every category: 120 items. An
item has two of five *sides*, such as a strong scent or a glass bottle, each pair equally often in a category. Title,
brand and categories do not tell them; reviews do. Two items in five are *poor*. A user is *fond* of one side, and three
users in four *mind* another one. A user writes 8 to 12 reviews and never reviews an item twice.

What the user takes next follows from the feeling about the last item and from the side the user is fond of:

* after a good feeling, with probability .85, an item of the department's next category (the user goes on)
* after a bad feeling, with probability .85, an item of the same category (the user replaces what failed)
* after a neutral feeling, with probability .85, one of these two categories, each with probability .5
* otherwise any item of the catalogue
* of these, with probability .85, one that has the side the user is fond of
* less reviewed items are more likely

What the user feels follows from the item and from the side the user minds. It does not decide what the user takes:
users find out only later.

* an item with a side that the user minds: good .05, neutral .05, bad .90
* else a poor item: good .20, neutral .10, bad .70
* else: good .88, neutral .06, bad .06

What the user writes: an emotion of that feeling, and a side. Who feels bad about an item with a minded side complains
of this side; who feels good about an item with the side they are fond of praises it; seven in ten others note a side.

What is achievable, on last items by counts of earlier reviews as in the tests (seed 7; one of 320 users is .003). HR@10
of the last item's category: .27; with its feeling .68; with the sides of the user's items .54; with both .78. Shuffled
feelings give .28, sides of other items .27. Of liked against disliked items (4 and 5 stars against others), AUC over
seeds 0 to 5: an item's mean stars .75; less where the user complained of one of its sides, .85.

Ratings follow the feeling with noise: good 4 or 5, neutral 3, bad 1 or 2; one in ten is drawn from 2 to 4 instead.
Timestamps are days, and a quarter of a user's reviews are on the same day as the one before. The file is ordered by
time, stable within a user. A draw in which an item has fewer than five reviews, which happens with few users, is
repeated, so that all items survive a 5-core.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sealr.data.sources.demo_texts import compose, grammar
from sealr.data.sources.lines import Row
from sealr.settings import DataConfig

HINT = ""
DAY = 86_400
START = 1_672_531_200  # 2023-01-01 UTC
FOLLOW = 0.85  # probability that the feeling decides the next item's category
TASTE = 0.85  # probability that the next item has the side the user is fond of
MINDING = 0.75  # share of users who mind a side
POOR = 0.4  # share of items that are poor
NOTE = 0.7  # probability that a review notes a side which it neither praises nor complains of
SAME_DAY = 0.25
GOOD = ("love", "joy", "admiration", "gratitude", "relief", "approval")
NEUTRAL = ("neutral",)
BAD = ("disappointment", "annoyance", "anger", "sadness", "disgust", "confusion")
FEELINGS = ((1, GOOD), (0, NEUTRAL), (-1, BAD))
ODDS = {"minded": (0.05, 0.05, 0.90), "poor": (0.20, 0.10, 0.70), "fine": (0.88, 0.06, 0.06)}  # of FEELINGS

REVIEW = ["user", "item", "timestamp", "rating", "text"]
TRUTH = ["emotion", "sentiment", "followed", "fond", "minds", "sides", "poor", "told"]


class Product(NamedTuple):
    department: str
    category: str
    sides: tuple[str, ...]
    poor: bool


def generate(users: int = 320, seed: int = 7) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Reviews (user, item, timestamp, rating, text) in file order, items (item, title, brand, categories), and truth.

    Truth has one row per review, in the same order: user, item, emotion, sentiment (1, 0, -1), followed (whether the
    feeling before decided the item's category; False for first items), fond and minds (the user's sides, "" for none),
    sides (the item's, a pair), poor (the item), and told (the side in the text, or ""). The same arguments give the
    same frames. With fewer than 320 users, there are fewer items, so that every item keeps five reviews.
    """
    for attempt in itertools.count():
        reviews, items, truth = _generate(users, f"{seed}/{attempt}")
        counts = reviews["item"].value_counts()
        if len(counts) == len(items) and counts.min() >= 5:
            break
    return reviews, items, truth


def _generate(users: int, seed: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rng, words = random.Random(seed), random.Random(f"{seed}/words")  # new sentences leave the mechanism's draws alone
    products, items = _catalogue(min(10, max(2, users * 10 // 144)), rng)
    sold, areas, sides = grammar()["catalogue"], grammar()["areas"], list(grammar()["sides"])
    counts = dict.fromkeys(products, 0)
    rows = []
    for number in range(1, users + 1):
        day = START // DAY + rng.randrange(365)
        fond, minds = rng.sample(sides, 2)
        minds = minds if rng.random() < MINDING else ""
        seen: set[str] = set()
        item, sign = "", 0
        for step in range(rng.randint(8, 12)):
            wanted = _next_category(products[item], sign, rng) if step and rng.random() < FOLLOW else None
            choices = [i for i, p in products.items() if i not in seen and wanted in (None, (p.department, p.category))]
            followed = wanted is not None and bool(choices)
            choices = choices or [i for i in products if i not in seen]
            if rng.random() < TASTE:
                choices = [i for i in choices if fond in products[i].sides] or choices
            item = rng.choices(choices, [(1 + counts[i]) ** -2.0 for i in choices])[0]
            product = products[item]
            odds = ODDS["minded" if minds in product.sides else "poor" if product.poor else "fine"]
            sign, emotions = rng.choices(FEELINGS, odds)[0]
            emotion = rng.choice(emotions)
            day += 0 if step and rng.random() < SAME_DAY else rng.randint(1, 30)
            rating = rng.choice({1: (4, 5), 0: (3,), -1: (1, 2)}[sign]) if rng.random() < 0.9 else rng.choice((2, 3, 4))
            told, manner = _told(product.sides, sign, fond, minds, rng)
            thing = sold[product.department]["categories"][product.category]["word"]
            text = compose(emotion, thing, areas[product.department], told, manner, words)
            review = (f"u{number:04d}", item, day * DAY, float(rating), text)
            rows.append((*review, emotion, sign, followed, fond, minds, product.sides, product.poor, told))
            counts[item] += 1
            seen.add(item)
    frame = pd.DataFrame(rows, columns=[*REVIEW, *TRUTH]).sort_values("timestamp", kind="stable", ignore_index=True)
    return frame[REVIEW], items, frame[["user", "item", *TRUTH]]


def _catalogue(products: int, rng: random.Random) -> tuple[dict[str, Product], pd.DataFrame]:
    """Items of ``products`` per brand and category, and the items table. Ids are shuffled: they tell no category."""
    pairs = list(itertools.combinations(grammar()["sides"], 2))
    named = []
    for department, sold in grammar()["catalogue"].items():
        for category, kind in sold["categories"].items():
            names = [(brand, name) for brand in sold["brands"] for name in kind["products"][:products]]
            sides = (rng.sample(pairs, len(pairs)) + rng.sample(pairs, len(pairs)))[: len(names)]
            poor = rng.sample(range(len(names)), round(POOR * len(names)))
            made = [Product(department, category, pair, place in poor) for place, pair in enumerate(sides)]
            named += list(zip(made, names, strict=True))
    ids = [f"D{n:04d}" for n in range(1, len(named) + 1)]
    rng.shuffle(ids)
    rows = [
        (item, f"{brand} {name}", brand, f"Beauty > {product.department} > {product.category}")
        for item, (product, (brand, name)) in zip(ids, named, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["item", "title", "brand", "categories"])
    return {i: product for i, (product, _) in zip(ids, named, strict=True)}, table.sort_values(
        "item", ignore_index=True
    )


def _next_category(last: Product, sign: int, rng: random.Random) -> tuple[str, str]:
    """Department and category that a feeling about the last item leads to."""
    names = list(grammar()["catalogue"][last.department]["categories"])
    onwards = (sign or rng.choice((1, -1))) > 0
    return last.department, names[(names.index(last.category) + onwards) % len(names)]


def _told(sides: tuple[str, ...], sign: int, fond: str, minds: str, rng: random.Random) -> tuple[str, str]:
    """The side that a review tells, or "", and as what: a key of the grammar's "told"."""
    if sign < 0 and minds in sides:
        return minds, "minds"
    if sign > 0 and fond in sides:
        return fond, "fond"
    return rng.choice(sides) if rng.random() < NOTE else "", "notes"


def read_reviews(config: DataConfig, path: Path) -> Iterator[Row]:
    return _rows(generate(config.demo_users, config.demo_seed)[0])


def read_items(config: DataConfig, path: Path) -> Iterator[Row]:
    return _rows(generate(config.demo_users, config.demo_seed)[1])


def _rows(frame: pd.DataFrame) -> Iterator[Row]:
    for line, values in enumerate(frame.to_dict("records"), start=1):
        yield Row(line, values, json.dumps(values))
