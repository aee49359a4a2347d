"""The README.md files of an export."""

from __future__ import annotations

from typing import Any

from sealr.export.retriever import card as retriever_card
from sealr.rerank.generative import palr, prompts
from sealr.rerank.scoring.model import INSTRUCTION
from sealr.retrieve.retriever import Retriever
from sealr.settings import Config

WHOLE = """\
# {data}: a recommender in files

`sealr export` wrote this folder from {model}. {llm}

| | |
|---|---|
| `retriever/retriever.onnx` | scores all {count:,} items for a history; keep the file `.data` beside it |
| `retriever/items.json` | ids of items; the first one has index 1, and index 0 is padding |
| `retriever/retriever.json` | the longest history, the parts and their weights, and how often each item was taken |
| `retriever/ask.py` | `python retriever/ask.py ITEM ITEM` prints a list; it needs numpy and onnxruntime |
{rows}| `export.json` | what was compared before this folder got its name |

## The retriever

Its input `items` (histories, length) holds item indices as int64, oldest first, at most {max_len} in a history. All
histories of a call have one length: there is no padding. {feelings} Its output `scores` (histories, items + 1) is
higher for a likelier next item, and minus infinity at index 0. An empty history has no scores: take `popularity` of
`retriever.json`. Items of the history are {seen}.

{parts}

On {asked:,} {kind} histories, all scores agree with the model's within {difference:.1e} standard deviations of a
history's scores (at most {tolerance:g} is accepted), and so do the first {top} places.

## What is not here

SEALR ranks by z(retriever) + {weight:g} * z(LLM) + {satisfaction:g} * satisfaction; both z are over the {candidates}
best items of the retriever. The labeller that reads texts of new reviews, the forecast of satisfaction,
filters, titles, reasons and the histories of users are not in this folder.
"""
LLM = """\
# The LLM of {data}, with its adapter merged

{base}, fine-tuned by SEALR with LoRA to {task}. The adapter is in the weights, so peft is not needed.
{quantized}
{body}

On {asked} histories, its {what} agree with those of the served LLM within {difference:.1e} standard deviations (at
most {tolerance:g} is accepted).
"""
SCORING = """\
**This is no model that writes.** It was fine-tuned to read items as *soft tokens*: vectors of its own input width that
stand for no word. Loaded alone, with a prompt in words, it recommends nothing: its output layer has no part in a score.
`soft_tokens.safetensors` holds what it needs, and `ask.py` shows how the parts fit together:

1. The instruction, as {count} tokens: `{instruction}`
2. One soft token an item of the history, oldest first, at most {longest}: its row of `item_table` through
   `in_weight`{sentiment}.
3. The last hidden state, without its scale (layer norm), through `out_weight` and `out_bias`.
4. The dot product with each row of `item_table` is the item's score.

Item indices are those of `../retriever/items.json`; index 0 is padding. Converters for programs that take words alone
(llama.cpp, Ollama) can read this folder, but such programs cannot pass soft tokens."""
GENERATIVE = """\
It reads this prompt, without a chat template, and continues it:

```text
{template}
```

`{{history}}` and `{{candidates}}` are item indices with commas between them, as in `../retriever/items.json`, whose
first item has index 1{sentiment}. SEALR shows {candidates} candidates, at most {longest} items of history, and lets
only unused candidates be written. This folder has no such limit: check that what it writes are candidates."""
PALR = """\
It reads this prompt, without a chat template, and continues it with names of items, one a line:

```text
{template}
```

`{{preference}}` is a sentence that **the base model without the adapter** writes, so this folder alone does not make a
whole prompt. `{{history}}` and `{{candidates}}` are names, one a line. SEALR lets only names of unused candidates be
written; this folder has no such limit."""


def whole(config: Config, retriever: Retriever, card: dict[str, Any]) -> str:
    """The page of the folder. card: of export.json."""
    weights, found, reads = card["weights"], card["retriever"], config.retrieve.sentiment != "none"
    llm = "The LLM has weight 0 in this version, so it is not exported."
    if weights["llm"]:
        llm = "It holds the retriever and the LLM." if "llm" in card else "The LLM was left out."
    feelings = "Nothing else is read."
    if reads:
        feelings = (
            "`feelings` (histories, length, 2), float32, holds the sentiment class of each review from -2 to 2 and the "
            "expected sentiment, and NaN where it is unknown."
        )
    return WHOLE.format(
        data=config.data.name,
        model=f"`{card['model']}`",
        llm=llm,
        count=len(retriever.items),
        rows="| `llm/` | the LLM as a Hugging Face folder; read its README.md first |\n" if "llm" in card else "",
        max_len=config.retrieve.max_len,
        feelings=feelings,
        seen="left out by `ask.py`, as in SEALR" if config.retrieve.exclude_seen else "ranked like all others",
        parts=_parts(retriever),
        asked=found["histories"],
        kind="stored" if card["histories_are_stored"] else "random",
        difference=found["largest_difference"],
        tolerance=found["tolerance"],
        top=found["top"],
        weight=weights["llm"],
        satisfaction=weights["satisfaction"],
        candidates=config.rerank.n_reranked,
    )


def _parts(retriever: Retriever) -> str:
    parts = retriever_card(retriever)["parts"]
    if len(parts) == 1:
        made = "trained" if parts[0]["trained"] else "counted, in closed form"
        return f"The model is `{parts[0]['model']}`, {made}."
    lines = [
        f"| {part['model']} | {'trained' if part['trained'] else 'closed form'} | {part['weight']:g}"
        f"{'' if part['weight'] else ' (not in the graph)'} |"
        for part in parts
    ]
    head = "The graph is the whole fusion: the weighted sum of its parts' z-scores over all items.\n\n"
    return head + "\n".join(["| part | made by | weight |", "|---|---|---|", *lines])


def llm(config: Config, card: dict[str, Any]) -> str:
    """The page of the LLM's folder. card: of export.json."""
    rerank, found, category = config.rerank, card["llm"], config.data.category
    reads = rerank.sentiment != "none"
    if rerank.ranker == "scoring":
        task, what = "score items", "scores of all items"
        felt = (
            ", plus the row of `sentiment_tokens` of its sentiment, plus `expected_token` times the expected sentiment"
        )
        body = SCORING.format(
            count=found["instruction_tokens"],
            instruction=INSTRUCTION.format(category=category).replace("\n", "\\n"),
            longest=rerank.max_history,
            sentiment=felt if reads else "",
        )
    elif rerank.ranker == "palr":
        task, what = "write lists of names (PALR)", "logits after a prompt"
        body = PALR.format(template=palr.TEMPLATE.replace("{category}", category))
    else:
        task, what = "write lists of items", "logits after a prompt"
        template = prompts.TEMPLATE if reads else prompts.TEMPLATE_WITHOUT_SENTIMENT
        body = GENERATIVE.format(
            template=template.replace("{category}", category),
            sentiment="; `{sentiments}` are the classes in words, such as Strong Positive" if reads else "",
            candidates=rerank.n_reranked,
            longest=rerank.max_history,
        )
    quantized = (
        "It was trained on 4-bit weights (NF4); here they are written out.\n" if rerank.quantization == "nf4" else ""
    )
    base = "The base model that the version holds" if card["base_is_packed"] else rerank.base
    return LLM.format(
        data=config.data.name,
        base=f"{base}, cut to its first {rerank.layers} layers" if rerank.layers else base,
        task=task,
        quantized=quantized,
        body=body,
        asked=found["histories"],
        what=what,
        difference=found["largest_difference"],
        tolerance=found["tolerance"],
    )
