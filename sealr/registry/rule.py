"""The rule by which a version replaces another: paired NDCG@10 on gate users, a bar that rises with every try.

A challenger wins if the 95 % interval of its gain is above 0, the gain is at least MARGIN, and the p-value of the gain
is at most the level of this try. Every try against the same opponent is one more chance to win by luck, so

    level(k) = ALPHA * 6 / (pi^2 * k^2)

These levels add up to ALPHA over any number of tries: alpha spending (Lan & DeMets, Biometrika 70, 1983) with a series
for tests without an end, as in online testing (Javanmard & Montanari, Annals of Statistics 46, 2018). By the union
bound, equal versions replace a champion with probability ALPHA at most, however much their tries depend on each other:
they share the gate users, mostly their targets, and much of their training. One kind of dependence is not covered: a
person who reads the figures of a refusal and builds the next version for these very users.
"""

from __future__ import annotations

import math

import numpy as np

from sealr.evaluate.statistics import flip_p, paired_bootstrap, shown

ALPHA = 0.05  # probability that equal versions ever replace one champion
MARGIN = 0.01  # least gain, as a share of the opponent's figure: less is not worth a change
FEWEST = 30  # gate users; fewer decide nothing

Figures = dict[str, float | int]


def level(number: int) -> float:
    """The largest one-sided p-value with which try ``number``, from 1, wins."""
    return ALPHA * 6 / (math.pi * number) ** 2


def compare(new: np.ndarray, old: np.ndarray, number: int, resamples: int) -> tuple[bool, str, Figures]:
    """Whether ``new`` wins, why in words, and the figures. new, old (N,): NDCG@10 of the same gate users.

    number: of the try against this opponent, from 1.
    """
    difference, low, high = paired_bootstrap(new, old, resamples)
    needed = level(number)
    p = flip_p(new - old, needed, resamples)
    figures: Figures = {"challenger": float(new.mean()), "champion": float(old.mean())}
    figures |= {"difference": difference, "low": low, "high": high, "p": p, "level": needed, "try": number}
    significant, enough = p <= needed and low > 0, difference >= MARGIN * figures["champion"]
    verdict = "no significant gain"
    if significant:
        verdict = "a significant gain" if enough else f"a gain under {MARGIN:.0%}"
    words = (
        f"gate NDCG@10 {figures['challenger']:.4f} against {figures['champion']:.4f} on {len(new)} users: difference "
        f"{shown(difference, low, high)}, p {p:.2g} where try {number} needs {needed:.2g}: {verdict}"
    )
    return significant and enough, words, figures
