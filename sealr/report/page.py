"""The report as one HTML page: plain data and plots in the template, all of whose texts from data are escaped."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sealr import __version__
from sealr.emotion.sentiment import CLASS_NAMES
from sealr.evaluate.protocols import CHANCE
from sealr.evaluate.statistics import Interval, shown
from sealr.report import people, plots, results, reviews, words
from sealr.report.sources import Sources

FOLDER = Path(__file__).parent


def render(sources: Sources) -> str:
    """The whole page. Sections whose stage the job does not have are left out."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": "{:,}".format, "figure": figure, "percent": percent, "stars": stars}
    environment.filters |= {"time": duration, "interval": interval, "system": words.system}
    environment.filters |= {"code": code}
    found = results.results(sources)
    return environment.get_template("page.html").render(
        style=Markup((FOLDER / "style.css").read_text(encoding="utf-8")),
        sources=sources,
        started=f"{datetime.fromtimestamp(sources.started, UTC):%Y-%m-%d %H:%M} UTC",
        software=__version__,
        classes=CLASS_NAMES,
        conclusion=words.conclusion(sources, found),
        findings=[*found["findings"], *words.more(found)] if found else [],
        data=data(sources),
        feelings=reviews.feelings(sources),
        neighbours=people.neighbours(sources),
        training=training(sources),
        results=comparison(found) if found else None,
        placebos=placebos(sources),
        frontier=frontier(sources),
        users=people.users(sources),
        costs=costs(sources),
        version=sources.version,
    )


def data(sources: Sources) -> dict[str, Any] | None:
    """`reviews.data` with its plots."""
    found = reviews.data(sources)
    if found is None:
        return None
    tenth = percent(reviews.held_by(found["popular"], 0.1))
    alt = f"Users by the number of their reviews; the median is {found['median_length']:g}."
    found["plots"] = {
        "How long histories are": plots.bars(found["lengths"], "reviews of a user", "users", alt),
        "How popular items are": plots.share_curve(
            found["popular"],
            "share of the items, the most popular first",
            "share of the reviews",
            f"The most popular tenth of the items has {tenth} of the reviews.",
        ),
    }
    if found["times"]:
        alt = f"Reviews over time, from {found['period'][0]} to {found['period'][1]}."
        found["plots"]["When reviews were written"] = plots.bars(found["times"], "", "reviews", alt)
    return found | {"tenth": tenth}


def training(sources: Sources) -> dict[str, Markup] | None:
    """Plots of the training by title."""
    found = results.training(sources)
    if found is None:
        return None
    made = {}
    for title, figure_name, label in (
        ("Retrievers on validation users", "ndcg@10", "NDCG@10"),
        ("Retrievers in training", "train_loss", "loss"),
    ):
        lines = {
            curve.name: curve.figures[figure_name] for curve in found["retrievers"] if figure_name in curve.figures
        }
        if lines:
            best = {curve.name: curve.best for curve in found["retrievers"]}
            made[title] = plots.curves(lines, best, label, f"{title}: {label} by epoch of {', '.join(lines)}.")
    for curve in found["llm"]:
        names = {"train_loss": "training", "valid_loss": "validation"}
        lines = {new: curve.figures[old] for old, new in names.items() if old in curve.figures}
        best = dict.fromkeys(lines, curve.best)
        made["The LLM's loss"] = plots.curves(lines, best, "loss", "The LLM's loss by epoch.")
        if points := curve.figures.get("valid_ndcg@10"):
            alt = f"The LLM's NDCG@10 on validation users by epoch; the best is epoch {curve.best}."
            made["The LLM on validation users"] = plots.curves({"": points}, {"": curve.best}, "NDCG@10", alt)
    return made


def comparison(found: dict[str, Any]) -> dict[str, Any]:
    """`results.results` with its plots, and the difference of each system to the retriever."""
    full = found["protocols"]["full"]
    for row in full:
        row["differences"] = [results.difference(found, metric, row["system"]) for metric in results.METRICS]
    groups = {
        metric: {row["system"]: gap for row in full if (gap := results.difference(found, metric, row["system"]))}
        for metric in results.METRICS
    }
    made = {
        "Gain over the retriever alone": plots.intervals(
            groups, "difference, with its 95 % interval", "Differences to the retriever alone."
        ),
        "Hits in the whole catalogue": plots.levels(
            {row["system"]: row["HR@10"] for row in full},
            {"ceiling": found["ceiling"]} if found["ceiling"] is not None else {},
            "HR@10, protocol full",
            "HR@10 of each system under the full protocol, beside the ceiling.",
        ),
    }
    if injected := found["protocols"].get("injected"):
        values = {row["system"]: row["HR@10"] for row in injected if row["system"] != CHANCE}
        chance = {row["system"]: row["HR@10"] for row in injected if row["system"] == CHANCE}
        alt = "HR@10 of each system where the target is put among the candidates, beside chance."
        made["Hits where the target is a candidate"] = plots.levels(values, chance, "HR@10, protocol injected", alt)
    return found | {"plots": made, "liking_plot": liking(found), "tables": tables(found)}


def liking(found: dict[str, Any]) -> Markup | None:
    """Hits of every system on liked and on disliked targets; None where there are too few targets."""
    rows = {row["system"]: row for row in found["liking"]["rows"]} if found["liking"] else {}
    groups: dict[str, dict[str, Interval]] = {"liked": {}, "disliked": {}}
    for side, group in groups.items():
        for name in found["names"]:
            if name in rows and (value := results.cell(rows[name].get(f"HR@10 {side}"))):
                group[name] = value
    if not all(groups.values()):
        return None
    alt = "HR@10 of each system on targets that users liked and on those that they disliked, with intervals."
    return plots.intervals(groups, "HR@10, with its 95 % interval", alt, zero=False)


def tables(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections of results.json as tables: title -> reading, columns and rows of text."""
    sections = ({"liking": found["liking"]} if found["liking"] else {}) | found["sections"]
    made = {}
    for title, section in sections.items():
        rows = [row for row in section["rows"] if any(results.cell(row[name]) for name in row if name != "system")]
        columns = list(dict.fromkeys(name for row in rows for name in row if name != "system" and row[name]))
        columns.sort(key=column_order)
        cells = {
            row["system"]: [signed(row["system"] + name, results.cell(row.get(name))) for name in columns]
            for row in rows
        }
        made[title] = {"reading": section["reading"], "columns": columns, "rows": cells}
    return made


def column_order(name: str) -> tuple[bool, ...]:
    """Sorts figures as they are read; JSON has sorted them by name."""
    return name.startswith("graded"), name.startswith("NDCG"), " disliked" in name, " minus " in name, " long" in name


def placebos(sources: Sources) -> list[tuple[results.Claim, Markup]]:
    """The claims about texts and feelings, each with its plot."""
    alt = "{} Gains with 95 % intervals, the placebo last."
    return [
        (claim, plots.intervals({"": claim.figures}, "gain, with its 95 % interval", alt.format(claim.question)))
        for claim in results.placebos(sources)
    ]


def frontier(sources: Sources) -> dict[str, Any] | None:
    """`results.frontier` with its plot."""
    found = results.frontier(sources)
    if found is None:
        return None
    alt = f"HR@10 against its difference between liked and disliked targets; weight {found['chosen']:g} was chosen."
    return found | {"plot": plots.frontier(found["lines"], found["chosen"], alt)}


def costs(sources: Sources) -> dict[str, Any] | None:
    """`results.costs` with shares of the longest stage."""
    found = results.costs(sources)
    if not found:
        return None
    longest = max(stage["seconds"] for stage in found) or 1.0
    known = [stage["megabytes"] for stage in found if not math.isnan(stage["megabytes"])]
    new = sum(stage["seconds"] for stage in found if not stage["reused"])
    return {
        "stages": [stage | {"share": stage["seconds"] / longest} for stage in found],
        "seconds": new,
        "reused": sum(stage["reused"] for stage in found),
        "computed": sum(not stage["reused"] for stage in found),
        "megabytes": max(known) if known else None,
    }


def figure(value: float | None) -> str:
    """Four decimals, as in the tables of the results; a dash for an unknown one."""
    return "-" if value is None else f"{value:.4f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def stars(value: float) -> str:
    return f"{value:.2g}\N{NO-BREAK SPACE}star{'' if value == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def interval(value: Interval | None, sign: str = "+") -> str:
    """A figure and its interval, which is not broken across lines. sign: "" without a plus."""
    return "-" if value is None else shown(*value, sign).replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")


def code(text: str) -> Markup:
    """A sentence whose `parts` are commands."""
    parts = (Markup("<code>{}</code>" if n % 2 else "{}").format(part) for n, part in enumerate(text.split("`")))
    return Markup("").join(parts)


def signed(name: str, value: Interval | None) -> str:
    """With signs where the name is that of a difference, as the tables of the results have it."""
    return interval(value, "+" if results.MINUS in name else "")
