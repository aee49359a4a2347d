"""Generated reviews with a known mechanism, which show whether a pipeline uses feelings.

There are two departments with three categories each, two rival brands per department, and ten products per brand and
category, called a *line*: 12 lines, 120 items. A user writes 8 to 12 reviews and never reviews an item twice.

The mechanism. The feeling about an item is independent of item and user: good with probability .42, bad .42,
neutral .16. The feeling about the last item decides where the next one comes from:

* good: with probability .85 the same brand's line in the department's next category (the user continues the routine)
* bad: with probability .85 the rival brand's line in the same category (the user replaces what failed)
* neutral: with probability .85 one of these two lines, each with probability .5
* otherwise any item of the catalogue

Within a line, less reviewed items are more likely. A draw in which an item has fewer than five reviews, which happens
with few users, is repeated, so that all items survive a 5-core.

What is achievable. The last item alone leaves two equally likely lines of ten, so HR@10 is at most about .5. The
feeling raises this to about .8 (good and bad .85, neutral .43, plus chance); feelings shuffled between reviews add
nothing. Counts of what follows each (line, feeling), without users' last items, give HR@10 .80; each line .44; each
(line, shuffled feeling) .46 (seed 7; one of 320 users is .003). Counts per item are too sparse: .39 without feelings,
.43 with them.

Ratings follow the feeling with noise: good 4 or 5, neutral 3, bad 1 or 2; one in ten is drawn from 2 to 4 instead.
Timestamps are days, and a quarter of a user's reviews are on the same day as the one before. The file is ordered by
time, stable within a user.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sealr.data.sources.demo_texts import compose, grammar
from sealr.data.sources.lines import Row
from sealr.settings import DataConfig

HINT = ""
DAY = 86_400
START = 1_672_531_200  # 2023-01-01 UTC
FOLLOW = 0.85  # probability that the feeling decides the next item's line
SAME_DAY = 0.25
GOOD = ("love", "joy", "admiration", "gratitude", "relief", "approval")
NEUTRAL = ("neutral",)
BAD = ("disappointment", "annoyance", "anger", "sadness", "disgust", "confusion")
FEELINGS = ((1, GOOD, 0.42), (0, NEUTRAL, 0.16), (-1, BAD, 0.42))

REVIEW, TRUTH = ["user", "item", "timestamp", "rating", "text"], ["emotion", "sentiment", "followed"]

Line = tuple[str, str, str]  # department, category, brand


def generate(users: int = 320, seed: int = 7) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Reviews (user, item, timestamp, rating, text) in file order, items (item, title, brand, categories), and truth.

    Truth has one row per review, in the same order: user, item, emotion, sentiment (1, 0, -1) and followed (whether the
    previous feeling decided the item's line; False for first items). The same arguments give the same frames.
    With fewer than 320 users, lines are shorter, so that every item keeps five reviews.
    """
    for attempt in itertools.count():
        reviews, items, truth = _generate(users, random.Random(f"{seed}/{attempt}"))
        counts = reviews["item"].value_counts()
        if len(counts) == len(items) and counts.min() >= 5:
            break
    return reviews, items, truth


def _generate(users: int, rng: random.Random) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    lines, items = _catalogue(min(10, max(2, users * 10 // 144)), rng)
    catalogue, areas = grammar()["catalogue"], grammar()["areas"]
    things = {i: catalogue[d]["categories"][c]["word"] for (d, c, _), members in lines.items() for i in members}
    line_of = {item: line for line, members in lines.items() for item in members}
    counts = dict.fromkeys(line_of, 0)
    rows = []
    for number in range(1, users + 1):
        day = START // DAY + rng.randrange(365)
        seen: set[str] = set()
        item, sign = "", 0
        for step in range(rng.randint(8, 12)):
            followed = step > 0 and rng.random() < FOLLOW
            choices = [i for i in lines[_next_line(line_of[item], sign, rng)] if i not in seen] if followed else []
            followed = bool(choices)
            choices = choices or [i for i in counts if i not in seen]
            item = rng.choices(choices, [(1 + counts[i]) ** -2.0 for i in choices])[0]
            sign, emotions, _ = rng.choices(FEELINGS, [f[2] for f in FEELINGS])[0]
            emotion = rng.choice(emotions)
            day += 0 if step and rng.random() < SAME_DAY else rng.randint(1, 30)
            rating = rng.choice({1: (4, 5), 0: (3,), -1: (1, 2)}[sign]) if rng.random() < 0.9 else rng.choice((2, 3, 4))
            text = compose(emotion, things[item], areas[line_of[item][0]], rng)
            rows.append((f"u{number:04d}", item, day * DAY, float(rating), text, emotion, sign, followed))
            counts[item] += 1
            seen.add(item)
    frame = pd.DataFrame(rows, columns=[*REVIEW, *TRUTH]).sort_values("timestamp", kind="stable", ignore_index=True)
    return frame[REVIEW], items, frame[["user", "item", *TRUTH]]


def _catalogue(products: int, rng: random.Random) -> tuple[dict[Line, list[str]], pd.DataFrame]:
    """Lines of ``products`` items each, and the items table. Ids are shuffled, so they do not reveal the line."""
    named = [
        ((department, category, brand), name)
        for department, sold in grammar()["catalogue"].items()
        for category, kind in sold["categories"].items()
        for brand in sold["brands"]
        for name in kind["products"][:products]
    ]
    ids = [f"D{n:04d}" for n in range(1, len(named) + 1)]
    rng.shuffle(ids)
    lines: dict[Line, list[str]] = {}
    rows = []
    for item, (line, name) in zip(ids, named, strict=True):
        lines.setdefault(line, []).append(item)
        department, category, brand = line
        rows.append((item, f"{brand} {name}", brand, f"Beauty > {department} > {category}"))
    table = pd.DataFrame(rows, columns=["item", "title", "brand", "categories"])
    return lines, table.sort_values("item", ignore_index=True)


def _next_line(line: Line, sign: int, rng: random.Random) -> Line:
    """The line that a feeling about an item of ``line`` leads to."""
    department, category, brand = line
    sold = grammar()["catalogue"][department]
    sign = sign or rng.choice((1, -1))
    if sign > 0:
        names = list(sold["categories"])
        return department, names[(names.index(category) + 1) % len(names)], brand
    return department, category, sold["brands"][1 - sold["brands"].index(brand)]


def read_reviews(config: DataConfig, path: Path) -> Iterator[Row]:
    return _rows(generate(config.demo_users, config.demo_seed)[0])


def read_items(config: DataConfig, path: Path) -> Iterator[Row]:
    return _rows(generate(config.demo_users, config.demo_seed)[1])


def _rows(frame: pd.DataFrame) -> Iterator[Row]:
    for line, values in enumerate(frame.to_dict("records"), start=1):
        yield Row(line, values, json.dumps(values))
