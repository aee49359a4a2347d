"""The report of `benchmarks/speed.py`, in Markdown."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.machine import processor
from sealr.evaluate.metrics import hit_rate, ndcg
from sealr.evaluate.report import markdown_table
from sealr.evaluate.statistics import paired_bootstrap, shown

PARTS = ("data", "encoder forward", "loss with its gradients", "encoder backward", "optimizer")
MEASURED = {
    "seconds_epoch": "seconds per epoch",
    "predictions_second": "predictions per second",
    "users_second": "users ranked per second",
    "training_peak_mb": "peak MB in training",
    "peak_mb": "peak MB in total",
}
Results = dict[str, list[dict[str, Any]]]  # of each system, one per turn; the first system is ours


def report(results: Results, profile: dict[str, Any], load: float) -> str:
    """All tables; ``load`` is the machine's load average before the start."""
    ours, *peers = results
    first = results[ours][0]
    lines = [
        f"{len(results[ours])} turns of each side: median (lowest to highest). {first['threads']} threads, "
        f"torch {first['torch']}, {processor()}, load average before the start {load:.1f}.",
        "",
        *(
            f"* {name}: {made[0]['parameters']:,} parameters, {made[0]['predictions']:,} predictions per epoch."
            for name, made in results.items()
        ),
        "",
        markdown_table(costs(results)).strip(),
    ]
    for name in peers:
        if (share := results[name][0]["timed_share"]) < 1:
            lines += ["", f"An epoch of {name} is extrapolated from {share:.0%} of it."]
    if "test" in first:
        lines += ["", markdown_table(trained(results))]
        lines += [line for name in peers for line in differences(results, name)]
    return "\n".join([*lines, "", *limits(profile)])


def costs(results: Results) -> pd.DataFrame:
    """What each side took, and how many times better ours is."""
    ours, *peers = results
    rows = []
    for key, name in MEASURED.items():
        values = {system: [result[key] for result in made] for system, made in results.items()}
        row = {"": name} | {system: spread(found) for system, found in values.items()}
        for peer in peers:
            ratio = median(values[peer]) / median(values[ours])
            row[f"against {peer}"] = f"{1 / ratio if key.endswith('_second') else ratio:.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def trained(results: Results) -> pd.DataFrame:
    """Each side after early stopping: epochs and seconds of each seed, validation and mean test metrics."""
    rows = []
    for system, made in results.items():
        row = {"to early stopping": system, "epochs": ", ".join(str(result["epochs"]) for result in made)}
        row |= {"seconds": ", ".join(f"{result['seconds_training']:,.0f}" for result in made)}
        row |= {"validation ndcg@10": np.mean([result["valid"] for result in made])}
        rows.append(row | {name: np.mean([result["test"][name] for result in made]) for name in made[0]["test"]})
    return pd.DataFrame(rows)


def differences(results: Results, peer: str) -> list[str]:
    """Means over seeds, ours minus a peer's, with 95 % intervals over users. Raises KeyError if the users differ."""
    ours = next(iter(results))
    users, lines = list(results[ours][0]["ranks"]), []
    for name, metric in (("HR@10", hit_rate), ("NDCG@10", ndcg)):
        mine, theirs = (
            np.stack([metric(np.array([r["ranks"][user] for user in users]), 10) for r in results[system]])
            for system in (ours, peer)
        )  # (seeds, users)
        difference = shown(*paired_bootstrap(mine, theirs))
        lines.append(f"* {name}, {ours} minus {peer}: {difference}, {len(mine)} seeds, {len(users):,} users")
    return lines


def limits(profile: dict[str, Any]) -> list[str]:
    """Our epoch beside the machine's rate of matrix products, part by part."""
    work, rate, parts = profile["flops"], profile["gflops"], profile["parts"]
    limit, whole = sum(work.values()) / rate / 1e9, sum(parts.values())
    bounds = {
        "encoder forward": work["encoder"] / 3,
        "encoder backward": work["encoder"] * 2 / 3,
        "loss with its gradients": work["loss"],
    }
    rows = [
        {
            "part": part,
            "seconds": f"{seconds:.1f}",
            "share": f"{seconds / whole:.0%}",
            "at the limit": f"{bounds[part] / rate / 1e9:.1f}" if part in bounds else "-",
        }
        for part, seconds in parts.items()
    ]
    return [
        f"An epoch's matrix products are {work['loss'] / 1e9:.0f} + {work['encoder'] / 1e9:.0f} GFLOP (loss + "
        f"encoder). At the {rate:.0f} GFLOP/s of a 1024 x 1024 product they take {limit:.1f} s; "
        f"the profiled epoch took {whole:.1f} s, {whole / limit:.1f} times that.",
        "",
        markdown_table(pd.DataFrame(rows)).strip(),
    ]


def spread(values: list[float]) -> str:
    """Median (lowest to highest), or the only value."""

    def show(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

    return (
        f"{show(median(values))} ({show(min(values))} to {show(max(values))})" if len(values) > 1 else show(values[0])
    )
