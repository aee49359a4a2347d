"""The model card of a version: data, figures, limits, licences, and what its emotion labels are and are not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sealr import weights
from sealr.data.manifest import REFIT, Manifest
from sealr.emotion.labeller import labeller_id
from sealr.emotion.language import language_report
from sealr.emotion.sentiment import CLASS_NAMES
from sealr.evaluate.metrics import ndcg
from sealr.registry.drift import Statistics
from sealr.registry.gate import TOP, Evidence
from sealr.registry.headline import sentences
from sealr.settings import Config

FENCE = "```"
END = f"\n{FENCE}"
WRAPPED = re.compile(r"(?<=[^\n])\n {0,2}(?=[^\s#*])")  # a line break within a paragraph or an entry of a list
TABLE = re.compile(r"^\|.*(?:\n\|.*)*", re.MULTILINE)
DESCRIPTION_LENGTH = 5000  # characters that a registry keeps of a version's description
LICENCES = {  # of base models, by the start of their name
    "HuggingFaceTB/SmolLM2": "Apache-2.0",
    "meta-llama/Llama-2": "Llama 2 Community License, which also covers the adapter",
}
HELD_OUT = {"inductive": "none of whom is evaluated", "transductive": "without the last two items of each"}


def model_card(
    config: Config,
    stages: Mapping[str, Manifest],
    fusion: Mapping[str, Any],
    results: str,
    figures: Mapping[str, Any],
    statistics: Statistics,
    histories: int,
    evidence: Evidence,
) -> str:
    """The card as Markdown. results, figures: results.md and results.json. histories: users that the model stores."""
    data, retrieve, rerank = config.data, config.retrieve, config.rerank
    reviews, labels, candidates, adapter = (stages[n] for n in ("reviews", "labels", "candidates", "adapter"))
    months, metrics = sorted(statistics.months), stages["rankings"].metrics
    total = sum(statistics.months.values())
    counts = f"{total:,} reviews by {sum(statistics.activity.values()):,} users"
    labelled = max(1, sum(statistics.sentiments.values()))
    shares = [(name.lower(), statistics.sentiments.get(str(c), 0)) for c, name in CLASS_NAMES.items()]
    sentiments = ", ".join(f"{name} {count / labelled:.1%}" for name, count in shares)
    frequent = sorted(statistics.emotions.items(), key=lambda pair: -pair[1])[:5]
    emotions = ", ".join(f"{name} {count / labelled:.1%}" for name, count in frequent)
    agreement = "there are no stars to compare with"
    if (stars := labels.metrics.get("pearson_rating")) is not None:
        agreement = f"their Pearson correlation with the stars is {stars:.3f}"
    glad = fusion.get("satisfaction_in_words") or "There is no forecast of satisfaction: it is off, or had no data."
    used = "weight 0; it brought no significant gain on validation, so it is not loaded"
    if fusion["weight"]:
        used = f"weight {fusion['weight']:g} for its z-scores, 1 for the retriever's"
    ceiling = candidates.metrics.get(f"test_hr@{retrieve.n_retrieved}", float("nan"))
    valid = f"{metrics['valid_ndcg@10']:.4f} (retriever alone {metrics['valid_ndcg@10_retriever']:.4f})"
    taught = ""
    if retrieve.teacher:
        taught = f", which a fusion of {' and '.join(str(part['model']) for part in retrieve.teacher)} taught,"
    again = ""
    if f"{REFIT}adapter" in stages:
        again = f", and for serving on {stages[f'{REFIT}adapter'].rows['train_users']:,}, with all their items"
    results = TABLE.sub(lambda table: f"{FENCE}\n{table[0]}{END}", results.strip())
    made = "\n".join(f"* {name}: {m.digest[:16]}" for name, m in sorted(stages.items()))
    text = f"""# SEALR on {data.name}

Recommends next items ({data.category}) from what users took and how they felt about it.

## In short

{"".join(f"* {line}" + chr(10) for line in sentences(figures))}* {_gate(evidence)}
* LLM: {used}.
* {glad}

## Data

`{data.name}` (source `{data.source}`, {data.k_core}-core): {counts} of {len(statistics.items):,} items,
{months[0]} to {months[-1]}; {reviews.rows.get("rejected", 0):,} rows were rejected, each with a reason.
The model was evaluated without each user's two newest reviews; the served model has the same settings, epochs and
weights, and has learned from all {total:,} reviews. The LLM was fine-tuned on {adapter.rows["train_users"]:,} users,
{HELD_OUT[rerank.user_split]}{again}.

## Model

A {retrieve.model} retriever{taught} finds {retrieve.n_retrieved} candidates, which hold {ceiling:.1%} of the test
targets.
`{rerank.base}` (digest `{weights.digest(rerank.base)}`) with a LoRA adapter of rank {rerank.lora.r} re-ranks them.
Validation NDCG@10 {valid} over {len(fusion["validation_users"])} users, who chose epochs and weights.

## Limits

* The model never recommends items that are not in its training data, and ignores them in a history. An unknown user
  without a history gets popular items.
* Offline figures say which item a user took next. The table of liked and disliked targets says how often it pleased
  them; nobody was asked about the other recommendations.
* Trained once (retriever seed {retrieve.seed}, re-ranker seed {rerank.seed}). A difference whose interval
  contains 0 shows nothing.
* Popular items are favoured, as in the data: see the coverage below.
* {_people(config.registry.users, histories)}

## Emotion labels

* A model made them (`{labeller_id(config.label).split()[0]}`). Nobody annotated these reviews, so the accuracy of
  the labels is unknown; {agreement}.
* Labelled reviews: {sentiments}. Most frequent emotions: {emotions}.
* The labeller learned from English Reddit comments. It often calls factual complaints neutral, and takes irony and
  quoted feelings for the writer's own. Labels of texts in other languages mean little.
* {language_report(labels.metrics)[0]}
* A sentiment is a guess about a text. It says nothing certain about a person's state of mind: do not rely on it
  for that.

## Licences

Code and adapter code: Apache-2.0. Base LLM: {_licence(rerank.base)}. GoEmotions, on which the labellers
are trained: Apache-2.0. The reviews belong to their source: check that its terms allow training and sharing a model.
"""
    text = WRAPPED.sub(" ", text)  # MLflow's page keeps every line break
    return f"{text}\n## Test results\n{results}\n\n## Made from\n{made}\n"


def description(card: str) -> str:
    """The card up to the length of a registry's description, cut after a line.

    MLflow's page of a version shows the cells of a table without spaces, so the card has its tables preformatted.
    """
    if len(card) <= DESCRIPTION_LENGTH:
        return card
    note = "\n\nThe rest is in the model's artifact notes/card.md.\n"
    kept = card[: DESCRIPTION_LENGTH - len(note) - len(END)]
    kept = kept[: kept.rfind("\n")]
    return kept + (END if kept.count(FENCE) % 2 else "") + note


def _gate(evidence: Evidence) -> str:
    if not evidence.users:
        return "There were no gate users."
    own, popular = (ndcg(ranks, TOP).mean() for ranks in (evidence.ranks, evidence.popularity))
    return (
        f"Gate NDCG@{TOP} {own:.4f} over {len(evidence.users)} other users, who chose nothing; the most popular items "
        f"have {popular:.4f}."
    )


def _people(users: str, histories: int) -> str:
    if users == "none":
        return "The model file holds no histories of users: requests bring them."
    ids = "salted ids (hashes whose key is elsewhere)" if users == "salted" else "ids"
    return (
        f"The model file holds the {ids}, items, sentiments and stars of {histories:,} users: personal data if users "
        "are\n  people. Whoever registers the model elsewhere passes them on. docs/privacy.md: removing a user."
    )


def _licence(base: str) -> str:
    found = (licence for start, licence in LICENCES.items() if base.startswith(start))
    return next(found, "see the base model's own card")
