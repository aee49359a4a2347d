"""Tables and coloured words as HTML. Everything from data or from a person is escaped here, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from sealr.emotion.sentiment import CLASS_NAMES
from sealr.explore.view import marks
from sealr.explore.words import Feeling

# As in the report of a job: two hues that colour-blind readers tell apart, and grey between them; and their text
CLASS_COLOURS = {-2: "#9b1c31", -1: "#e99a86", 0: "#c9c9c9", 1: "#86b8dc", 2: "#1f5a99"}
CLASS_INK = {-2: "#fff", -1: "#000", 0: "#000", 1: "#000", 2: "#fff"}
BLUE, RED = "62, 134, 204", "214, 72, 92"
LEAST = 0.05  # change of expected sentiment: a text whose strongest word does less has no word in full colour
FULL = 0.55  # opacity of the strongest word: it stays readable on light and dark pages
STYLE = """<style>
.sx table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: 0 0 .5rem; }
.sx th { text-align: left; font-weight: 600; opacity: .7; font-size: .8rem; }
.sx th, .sx td { padding: .3rem .5rem; border: 0; border-bottom: 1px solid rgba(128, 128, 128, .3); vertical-align: top;
  overflow-wrap: anywhere; }
.sx .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; overflow-wrap: normal; width: 1%; }
.sx .why { opacity: .75; font-size: .8rem; }
.sx .chip { padding: .05rem .5rem; border-radius: .6rem; white-space: nowrap; font-size: .8rem; }
.sx .up, .sx .new { color: #fff; background: #1f5a99; } .sx .down { color: #000; background: #e99a86; }
.sx .both { background: rgba(62, 134, 204, .18); }
.sx .word { padding: .1rem .15rem; border-radius: .25rem; line-height: 1.9; }
.sx .muted { opacity: .7; font-size: .85rem; }
.sx p { margin: .2rem 0 .5rem; }
</style>"""


def _page(body: str) -> str:
    return f'<div class="sx">{body}</div>'


def _table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], marked: Sequence[bool] = ()) -> str:
    """heads: (name, class) of each column. rows: cells that are HTML already. marked: rows in another colour."""
    head = "".join(f'<th class="{kind}">{escape(name)}</th>' for name, kind in heads)
    body = ""
    for number, row in enumerate(rows):
        cells = "".join(f'<td class="{kind}">{cell}</td>' for cell, (_, kind) in zip(row, heads, strict=True))
        body += f"<tr{' class=both' if number < len(marked) and marked[number] else ''}>{cells}</tr>"
    return _page(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def paragraph(*texts: str) -> str:
    """Small print: texts of the model, such as its warnings."""
    return _page("".join(f'<p class="muted">{escape(text)}</p>' for text in texts))


def title(text: str) -> str:
    return _page(f"<p><b>{escape(text)}</b></p>")


def chip(sentiment: float) -> str:
    """The name of a sentiment class in its colour; a dash where it is unknown."""
    if np.isnan(sentiment):
        return "–"
    value = int(sentiment)
    style = f"background: {CLASS_COLOURS[value]}; color: {CLASS_INK[value]}"
    return f'<span class="chip" style="{style}">{CLASS_NAMES[value]}</span>'


def history(rows: pd.DataFrame) -> str:
    """rows: of `view.history`."""
    cells = [
        [escape(row.title), chip(row.sentiment), "–" if np.isnan(row.stars) else f"{row.stars:.1f}"]
        for row in rows.itertuples()
    ]
    return _table([("item", ""), ("felt", ""), ("stars", "n")], cells)


def ranking(
    rows: pd.DataFrame,
    before: Sequence[str] | None = None,
    reasons: bool = False,
    shared: Sequence[str] = (),
) -> str:
    """A list: place, title and score. before: items of another list, for marks. shared: items with another colour."""
    moves = None if before is None else marks(rows["item"].tolist(), before)
    cells = []
    for place, row in enumerate(rows.to_dict("records")):
        name = escape(row["title"])
        if reasons:
            name += f'<br><span class="why">{escape(row["reason"])}</span>'
        cells.append([str(place + 1), name, f"{row['score']:+.2f}"])
        if moves is not None:
            cells[-1].insert(1, _move(moves[place]))
    heads = [("", "n"), ("item", ""), ("score", "n")]
    if moves is not None:
        heads.insert(1, ("", "n"))
    return _table(heads, cells, [row in set(shared) for row in rows["item"]])


def _move(mark: str) -> str:
    """mark: of `view.marks`."""
    if not mark or mark == "new":
        return mark and '<span class="chip new">new</span>'
    kind, arrow = ("up", "▲") if mark[0] == "+" else ("down", "▼")
    return f'<span class="chip {kind}">{arrow} {mark[1:]}</span>'


def feeling(found: Feeling) -> str:
    """The class of a text, its first emotions, and its words: blue ones raise the sentiment, red ones lower it."""
    emotions = ", ".join(f"{name} {probability:.0%}" for name, probability in found.emotions)
    words = []
    most = max(LEAST, *(abs(word.sentiment) for word in found.words))
    for word in found.words:
        strength = FULL * abs(word.sentiment) / most
        colour = f"rgba({BLUE if word.sentiment > 0 else RED}, {strength:.2f})"
        tip = f"sentiment {word.sentiment:+.2f}, {found.emotions[0][0]} {round(100 * word.emotion):+d} points"
        words.append(f'<span class="word" title="{tip}" style="background: {colour}">{escape(word.text)}</span>')
    more = " …" if found.cut else ""
    head = f"{chip(found.sentiment)} {emotions}; sentiment {found.expected:+.2f} (from -2 to 2)"
    return _page(f"<p>{head}</p><p>{' '.join(words)}{more}</p>")
