"""What the values of a column are, by sight: dates, ratings, texts, or names of users and items."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sealr.data.cleaning import YEAR_1990
from sealr.data.sources.dates import DAY, DateError, candidates, guess, parse
from sealr.data.sources.ratings import star_reader

MOST = 0.8  # share of a column's values that must fit
GRADES = dict(
    zip(
        "a+ a a- b+ b b- c+ c c- d+ d d- f".split(),
        (5, 4.8, 4.5, 4.2, 3.8, 3.5, 3.2, 2.8, 2.5, 2.2, 1.8, 1.5, 1),
        strict=True,
    )
)
WORDS = {
    5.0: "like liked good positive pos fresh recommended yes true up love loved great excellent satisfied happy",
    3.0: "neutral mixed ok okay average meh",
    1.0: "dislike disliked bad negative neg rotten no false down hate hated poor terrible unsatisfied unhappy",
}
STARS = {word: stars for stars, words in WORDS.items() for word in words.split()}
STARS |= GRADES | {"thumbs up": 5.0, "thumbs down": 1.0, "not recommended": 1.0}
# What columns are called, likeliest first, in lower case without signs
NAMES = {
    "user": "userid user customerid customer reviewerid reviewer uid memberid member accountid account clientid client "
    "buyerid buyer authorid critic personid person visitorid profileid author username reviewername profilename",
    "item": "itemid item productid product sku parentasin asin filmid film movieid movie bookid book isbn businessid "
    "business articleid article gameid game appid app songid song trackid track recipeid recipe restaurantid "
    "restaurant hotelid hotel placeid place productcode listingid listing beerid beer wineid wine courseid course",
    "timestamp": "timestamp unixreviewtime datetime createdat created date time reviewdate reviewtime reviewedat "
    "submitted submittedat submissiondate dateadded publishedat posted postedat purchasedat updatedat ts at when day",
    "rating": "rating stars overall score starrating reviewrating reviewscore ratings star grade points mark note vote "
    "liked recommended recommend verdict",
    "text": "reviewtext text review reviewbody body comment comments content quote message reviewcontent feedback "
    "opinion reviewcomment description summary title headline",
    "headline": "summary reviewsummary reviewtitle reviewheadline headline subject title",
}


@dataclass(frozen=True)
class Guess:
    """A value with the reason for it. sure: "sure", "likely" or "not sure"."""

    value: Any
    sure: str
    why: str

    def __str__(self) -> str:
        return f"{self.sure}: {self.why}"


@dataclass(frozen=True)
class Times:
    """How a column tells time: settings of `DataConfig`, and what to decide."""

    settings: dict[str, Any] = field(default_factory=dict)
    sure: str = "sure"
    why: str = ""


def name_rank(kind: str, column: str) -> int | None:
    """The place of a column's name among the usual ones of its kind; None if it is none of them."""
    names = NAMES[kind].split()
    for name in (column, column.rpartition(".")[2]):  # reviewer.id, or else id
        name = re.sub(r"[^a-z0-9]", "", name.lower())
        if name in names:
            return names.index(name)
    return None


def filled(values: Sequence[Any]) -> list[Any]:
    """Values that are neither missing nor blank."""
    return [v for v in values if v is not None and v == v and not (isinstance(v, str) and not v.strip())]


def times(values: Sequence[Any]) -> Times | None:
    """How these values tell time; None if most of them do not."""
    found = filled(values)
    if not found:
        return None
    if sum(isinstance(v, date) for v in found) >= MOST * len(found):
        return Times({}, "sure", "the file has a type for dates")
    numbers = [n for n in map(_number, found) if n is not None]
    if len(numbers) >= MOST * len(found):
        return _unit(numbers)
    texts = [v for v in found if isinstance(v, str)]
    iso = [v for v in texts if parse(v, ("iso",)) is not None]
    if len(iso) >= MOST * len(found):
        return Times({"date_format": "iso"}, "sure", f"{len(iso) / len(found):.0%} are ISO 8601")
    if sum(bool(candidates(v)) for v in texts) + len(iso) < MOST * len(found):
        return None
    try:
        patterns = guess(texts)
    except DateError as error:
        return Times({"date_format": "auto"}, "not sure", str(error))
    patterns = ("iso", *patterns) if iso else patterns
    fit = sum(parse(v, patterns) is not None for v in texts)
    if fit < MOST * len(found):
        return None
    chosen = list(patterns) if patterns[1:] else patterns[0]
    return Times({"date_format": chosen}, "sure", f"{fit / len(found):.0%} fit")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value.replace(",", ".") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _unit(numbers: list[float]) -> Times | None:
    """Seconds, milliseconds, dates such as 20181105, or years."""
    now = time.time() + DAY
    for low, high, settings, why in (
        (YEAR_1990, now, {"time_unit": "s"}, "seconds since 1970"),
        (YEAR_1990 * 1000, now * 1000, {"time_unit": "ms"}, "milliseconds since 1970"),
        (19_900_101, 20_991_231, {"date_format": "%Y%m%d"}, "dates such as 20181105"),
        (1990, 2100, {"date_format": "%Y"}, "years only, so the order within a year is that of the file"),
    ):
        if sum(low <= n <= high and n == int(n) for n in numbers) >= MOST * len(numbers):
            return Times(settings, "sure" if low > 2e7 else "likely", f"numbers look like {why}")
    return None


def rating_scale(values: Sequence[Any]) -> Guess | None:
    """The `rating_scale` of these values; None if most of them are no ratings."""
    found = filled(values)
    if not found:
        return None
    by_themselves = star_reader("1..100000")  # a fraction becomes stars, a number stays a number
    words = Counter(
        str(v).strip().lower() for v in found if isinstance(v, bool) or not isinstance(by_themselves(v), float)
    )
    numbers = sorted(n for n in map(_number, found) if n is not None)
    known = {word: STARS[word] for word in sorted(words) if word in STARS}
    unknown = words.total() - sum(words[word] for word in known)
    if unknown > (1 - MOST) * len(found) or len(words) > 50:
        return None
    if known and len(numbers) < len(found) / 2:
        return Guess(known, "likely", f"words: {', '.join(known)}; correct their stars if need be")
    if not numbers:
        return Guess("", "sure", "fractions such as 7/10 are read by themselves")
    if len(set(numbers)) > 201:
        return None
    return _range(numbers)


def _range(numbers: list[float]) -> Guess | None:
    """The scale that holds sorted numbers, but for a few strays, which ingestion sets aside with a reason."""
    few = max(len(numbers) // 100, int(len(numbers) >= 20))
    high = numbers[-1 - few]
    # Half a star is real, a rare 0 or -1 among stars is not; rare dislikes on a scale of -1..1 are
    low = numbers[0] if high <= 1 else min(n for n in numbers if n >= numbers[few] or 0 < n < 1)
    for worst, best in ((1, 5), (0, 1), (-1, 1), (0, 5), (1, 10), (0, 10), (0, 20), (0, 100)):
        if worst <= low and high <= best:
            strays = [n for n in numbers if not worst <= n <= best]
            seen = f"numbers from {low:g} to {max(n for n in numbers if n <= best):g}"
            but = f", and strays such as {strays[-1]:g}, which are set aside" if strays else ""
            start = 0.5 if (worst, best, low) == (0, 5, 0.5) else worst
            if (worst, best) == (1, 5):
                return Guess("", "not sure" if high <= 4 else "likely" if but else "sure", seen + but)
            return Guess(f"{start:g}..{best}", "likely", seen + but)
    return None


def is_text(values: Sequence[Any]) -> float:
    """The mean number of characters of values that read like sentences; 0 if most do not."""
    found = [v for v in filled(values) if isinstance(v, str)]
    spoken = [v for v in found if " " in v.strip()]
    if not found or len(spoken) < len(found) / 2:
        return 0.0
    return sum(map(len, found)) / len(found)


def is_whole(values: Sequence[Any]) -> bool:
    """Whether at least half of the values are there, and are texts or numbers."""
    return sum(isinstance(v, (str, int, float)) for v in filled(values)) >= len(values) / 2


def is_name(values: Sequence[Any]) -> bool:
    """Whether values can be ids: short texts or whole numbers, few of them missing, and some repeated."""
    found = filled(values)
    short = [v for v in found if isinstance(v, (str, int)) and not isinstance(v, bool) and len(str(v)) <= 80]
    return bool(found) and len(short) >= MOST * len(values) and 1 < len(set(short)) < len(short)
