"""How many tokens fine-tuning reads, counted on a sample of prompts or, for soft tokens, on all histories. Downloads nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import transformers
from huggingface_hub import try_to_load_from_cache

from sealr import weights
from sealr.data.sequences import Sequences
from sealr.evaluate.protocols import split_users
from sealr.rerank.generative.palr import PREFERENCE_TOKENS, QUESTION, item_names, name_prompt
from sealr.rerank.generative.prompts import RerankInput, prompt
from sealr.rerank.scoring.model import INSTRUCTION
from sealr.rerank.scoring.train import VALID_USERS
from sealr.settings import Config

SAMPLE = 64  # prompts counted
CONTENT = 384  # width of MiniLM's text embeddings
BEAUTY = (22_363, 12_101, 9)  # users, items and length in the paper's Table 1: stands in for data that are not here
PIECES = re.compile(r"\d|[^\W\d_]{1,6}|[^\w\s]|_|\n")  # roughly a LLaMA tokenizer's pieces of a text


@dataclass(frozen=True)
class Workload:
    """What an epoch reads, on average over prompts. Tokens include the answer."""

    prompts: int
    valid_prompts: int
    tokens: float  # per prompt; for the scoring ranker, soft tokens and instruction per row
    answer: float  # positions with loss per prompt
    choices: int  # among how many a position with loss decides: the vocabulary, or the catalogue
    width: int  # of what is compared with them
    soft: int  # trained parameters beside the adapter
    read_once: float  # tokens per prompt that are read before training, without a gradient: for written preferences
    source: str  # how these were counted, for the reader


def workload(
    config: Config, vocabulary: int, width: int, sequences: Sequences | None, items: pd.DataFrame | None
) -> Workload:
    """Counts what the configured ranker reads. vocabulary, width: of the base model.

    sequences, items: of the data; None where they are not here: then users, items and lengths are those of the paper's Beauty.
    """
    here = "counted on the data" if sequences is not None else "the data are not here: sizes of the paper's Beauty"
    if sequences is None or items is None:
        sequences, items = _stand_in()
    rerank = config.rerank
    names = [sequences.users[u] for u in sequences.split("test").users]
    held_out = 3 if rerank.user_split == "transductive" else 1  # of a user's items: two, and the first one follows none
    if rerank.user_split == "transductive":
        train, valid = int((sequences.lengths > held_out).sum()), min(len(names), VALID_USERS)
    else:
        split = split_users(names, rerank.finetune_share, rerank.valid_share, config.evaluate.seed)
        train, valid = len(split.train[: rerank.max_users or None]), len(split.valid)
    count, how = token_counter(rerank.base)
    if rerank.ranker == "scoring":
        lengths = sequences.lengths[sequences.split("test").users] - held_out
        lengths = np.minimum(lengths[lengths > 0], rerank.max_history).mean()
        instruction = count(INSTRUCTION.format(category=config.data.category)) / rerank.batch_size  # once a step
        inner, n = config.retrieve.hidden, sequences.n_items
        soft = 2 * inner * width + inner + (7 * width if rerank.sentiment != "none" else 0)
        soft += (n + 1) * inner if rerank.scoring.item_embeddings == "trained" else 0
        soft += CONTENT * inner if rerank.scoring.content else 0
        choices = n if rerank.scoring.negative_source == "full" else rerank.scoring.n_hard_negatives + 1
        return Workload(train, valid, lengths + instruction, lengths, choices, inner, soft, 0.0, here)
    prompts, answers, questions = _sample(config, sequences, items)
    tokens, answer = (float(np.mean([count(text) for text in texts])) for texts in (prompts, answers))
    written = float(np.mean([count(text) for text in questions])) + PREFERENCE_TOKENS if questions else 0.0
    known = PREFERENCE_TOKENS if questions else 0
    return Workload(
        train, valid, tokens + known + answer, answer + 1, vocabulary, width, 0, written, f"{here}, tokens {how}"
    )


def _sample(config: Config, sequences: Sequences, items: pd.DataFrame) -> tuple[list[str], list[str], list[str]]:
    """Prompts, answers and questions for a preference, of some users; candidates at random, for only their length matters."""
    rerank, rng = config.rerank, np.random.default_rng(0)
    users = sequences.split("test").users
    names = item_names(items) if rerank.ranker == "palr" else []
    prompts, answers, questions = [], [], []
    for user in rng.choice(users, min(SAMPLE, len(users)), replace=False):
        *history, second, last = sequences.sequence(user).tolist()
        pool = rng.choice(sequences.n_items, min(rerank.n_reranked, sequences.n_items), replace=False) + 1
        request = RerankInput(history, [2] * len(history), pool.tolist())
        if names:
            prompts.append(name_prompt(request, request.pool, config.data.category, "", names, rerank.max_history))
            answers.append("\n".join(names[i] for i in (last, second)))
            shown = "\n".join(names[i] for i in history[-rerank.max_history :])
            questions.append(QUESTION.format(category=config.data.category, history=shown))
        else:
            sentiment = rerank.sentiment != "none"
            prompts.append(prompt(request, request.pool, config.data.category, rerank.max_history, sentiment))
            answers.append(f"{last},{second}")
    return prompts, answers, questions


def local_folder(base: str) -> Path | None:
    """Folder of a base model that is on this machine already: given as a path, in our cache or in the hub's. Asks nobody."""
    hub = try_to_load_from_cache(base, "config.json") if weights.REPOSITORY.fullmatch(base) else None
    folders = [Path(base).expanduser(), weights.weights_cache() / base.replace("/", "--")]
    folders += [Path(hub).parent] if isinstance(hub, str) else []
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def token_counter(base: str) -> tuple[Callable[[str], int], str]:
    """A function that counts the tokens of a text, and how it does: by the tokenizer where that is here, else roughly."""
    folder = local_folder(base)
    if folder is not None and any((folder / name).is_file() for name in weights.TOKENIZERS):
        with weights.quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return lambda text: len(tokenizer.encode(text)), "by the tokenizer"
    return lambda text: len(PIECES.findall(text)), "estimated, the tokenizer is not here"


def _stand_in() -> tuple[Sequences, pd.DataFrame]:
    users, n, length = BEAUTY
    flat = np.random.default_rng(0).integers(1, n + 1, users * length)
    names = [f"B{i:09}" for i in range(n)]  # as long as Amazon's ids
    items = pd.DataFrame({"item": names, "title": None, "brand": None, "categories": None})
    return Sequences([str(u) for u in range(users)], names, flat, np.arange(users + 1) * length), items
