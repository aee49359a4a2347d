"""The model card of a version: data, figures, limits, licences and what its emotion labels are and are not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sealr import weights
from sealr.data.manifest import Manifest
from sealr.emotion.label import labeller_id
from sealr.emotion.sentiment import CLASS_NAMES
from sealr.registry.drift import Statistics
from sealr.settings import Config

FENCE = "```"
END = f"\n{FENCE}"
TABLE = re.compile(r"^\|.*(?:\n\|.*)*", re.MULTILINE)
DESCRIPTION_LENGTH = 5000  # what a registry keeps of a version's description
LICENCES = {  # of base models, by the start of their name
    "HuggingFaceTB/SmolLM2": "Apache-2.0",
    "meta-llama/Llama-2": "Llama 2 Community License: its terms go with the adapter",
}


def model_card(
    config: Config,
    stages: Mapping[str, Manifest],
    fusion: Mapping[str, Any],
    results: str,
    statistics: Statistics,
    histories: int,
) -> str:
    """The card as Markdown. results: the metrics table of the evaluation. histories: users the model has stored."""
    data, rerank = config.data, config.rerank
    reviews, labels, candidates, adapter = (stages[n] for n in ("reviews", "labels", "candidates", "adapter"))
    months, metrics = sorted(statistics.months), stages["rankings"].metrics
    labelled = max(1, sum(statistics.sentiments.values()))
    feelings = ", ".join(
        f"{name.lower()} {statistics.sentiments.get(str(c), 0) / labelled:.1%}" for c, name in CLASS_NAMES.items()
    )
    emotions = sorted(statistics.emotions.items(), key=lambda pair: -pair[1])[:5]
    stars = labels.metrics.get("pearson_rating")
    agreement = (
        "there are no stars to compare it with" if stars is None else f"its Pearson correlation with the stars is {stars:.3f}"
    )
    used = (
        f"weight {fusion['weight']:g} of the LLM's z-scores beside the retriever's"
        if fusion["weight"]
        else "weight 0: on validation the LLM brought no significant gain, so the lists are the retriever's and the LLM is not loaded"
    )
    base = f"`{rerank.base}`, digest `{weights.digest(rerank.base)}`"
    held_out = {"inductive": "none of whom is evaluated on", "transductive": "without the last two items of each"}
    tuned = f"{adapter.rows['train_users']:,} users, {held_out[rerank.user_split]}"
    digests = "\n".join(f"* {name}: content `{m.digest[:16]}`, folder key `{m.key}`" for name, m in sorted(stages.items()))
    return f"""# SEALR on {data.name}

Recommends next items ({data.category}) from what a user took and how they felt about it: a {config.retrieve.model} retriever,
an emotion labeller, and {base} with a LoRA adapter (rank {rerank.lora.r}) as re-ranker. Fusion: {used}.

## Data
`{data.name}` (source `{data.source}`, {data.k_core}-core): {sum(statistics.months.values()):,} reviews by {sum(statistics.activity.values()):,} users of {len(statistics.items):,} items, {months[0]} to {months[-1]};
{reviews.rows.get("rejected", 0):,} rows were rejected with a reason. The LLM was fine-tuned on {tuned}.

{digests}

## Figures
Validation NDCG@10 {metrics["valid_ndcg@10"]:.4f} (retriever alone {metrics["valid_ndcg@10_retriever"]:.4f}) over {len(fusion["validation_users"])} users; all items are ranked, and a target outside
the pool is a miss. The retriever's pool of {config.retrieve.n_retrieved} holds {candidates.metrics.get(f"test_hr@{config.retrieve.n_retrieved}", float("nan")):.1%} of the test targets.

## Emotion labels
* Made by a model (`{labeller_id(config.label).split()[0]}`), not by people: nobody annotated these reviews, so their accuracy is not known; {agreement}.
* Labelled reviews: {feelings}. Most frequent emotions: {", ".join(f"{e} {n / labelled:.1%}" for e, n in emotions)}.
* The labeller learned from English Reddit comments. Matter-of-fact complaints often come out neutral, irony and quoted
  feelings as the writer's own; another language gets a label that means little.
* A sentiment is a guess about a text. It is not a finding about a person's state of mind, and must not be used as one.

## Limits
* Items that are not in the training data are never recommended and are ignored in a history. Who is not known and brings no
  history gets popular items.
* The offline figures say which item a user took next, not whether they were glad of the recommendation.
* Trained once (seed {config.retrieve.seed} of the retriever, {rerank.seed} of the re-ranker). Differences inside the interval are no differences.
* Popular items are favoured, as in the data: see the coverage below.
* The model file holds {histories:,} users' ids, items and sentiments: personal data where users are people. Registering it
  somewhere is passing them on.

## Licences
Code and adapter code: Apache-2.0. Base LLM: {_licence(rerank.base)}. GoEmotions, on which the labellers are trained: Apache-2.0.
The reviews belong to whoever gave them to you: check that their terms allow a model to be trained and shared.

## Test results
{TABLE.sub(_fenced, results.strip())}
"""


def description(card: str) -> str:
    """The card as far as a registry's description reaches, cut after a line."""
    if len(card) <= DESCRIPTION_LENGTH:
        return card
    note = "\n\nThe rest is in the model's artifact notes/card.md.\n"
    kept = card[: DESCRIPTION_LENGTH - len(note) - len(END)]
    kept = kept[: kept.rfind("\n")]
    return kept + (END if kept.count(FENCE) % 2 else "") + note


def _fenced(table: re.Match[str]) -> str:
    """A table as preformatted text: MLflow's page of a version shows cells without a space between them."""
    return f"{FENCE}\n{table[0]}{END}"


def _licence(base: str) -> str:
    return next((licence for start, licence in LICENCES.items() if base.startswith(start)), "see the base model's own card")
