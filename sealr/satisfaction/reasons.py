"""What the training reviews of an item felt, in words that a reason can use."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sealr.data.sequences import Sequences
from sealr.satisfaction.effects import training_mask


def item_feelings(labels: pd.DataFrame, sequences: Sequences, stars: np.ndarray | None = None) -> pd.DataFrame:
    """One row for each item with a labelled training review, in the order of ``sequences.items``.

    Columns: item; reviews, how many are labelled; mean_stars, of ``stars`` (interactions,), NaN without; emotion, the
    most frequent one with a positive class, and its share of the labelled reviews; but_emotion and but_share, the same
    with a negative class. An emotion is None and its share 0 where no review has one. Ties: the first by name.
    """
    labelled = sequences.values(labels, "expected")
    rows = np.flatnonzero(training_mask(sequences) & np.isfinite(labelled))
    frame = pd.DataFrame(
        {
            "id": sequences.flat[rows],
            "stars": np.nan if stars is None else np.asarray(stars, np.float64)[rows],
            "emotion": sequences.values(labels, "emotion")[rows],
            "class": sequences.values(labels, "sentiment")[rows],
        }
    )
    groups = frame.groupby("id")
    made = pd.DataFrame({"reviews": groups.size(), "mean_stars": groups["stars"].mean()})
    for prefix, chosen in (("", frame["class"] > 0), ("but_", frame["class"] < 0)):
        counts = frame[chosen].groupby(["id", "emotion"]).size().rename("count").reset_index()
        counts = counts.sort_values(["id", "count", "emotion"], ascending=[True, False, True])
        most = counts.drop_duplicates("id").set_index("id")
        emotions = most["emotion"].reindex(made.index).astype(object)
        made[f"{prefix}emotion"] = emotions.where(emotions.notna(), None)
        made[f"{prefix}share"] = (most["count"].reindex(made.index).fillna(0) / made["reviews"]).astype("float32")
    made.insert(0, "item", [sequences.items[number - 1] for number in made.index])
    return made.reset_index(drop=True)
