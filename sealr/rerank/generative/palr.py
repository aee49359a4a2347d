"""The PALR baseline (Yang et al. 2023, arXiv 2305.07622; Section 3.1.2): a written preference, then a list of names.

The base LLM first describes in one sentence what a user likes. The prompt then holds this preference and the names of
history and candidates. The LLM, fine-tuned on the same users as the other rankers, writes names. Decoding is limited to
names of unused candidates, so every list is valid. PALR uses no sentiments.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from sealr import weights
from sealr.data.manifest import code_digest, text_digest
from sealr.data.tables import read_json, write_json
from sealr.progress import progress_bar
from sealr.rerank.generative.finetune import Encoder
from sealr.rerank.llm import pad_left
from sealr.rerank.requests import RerankInput
from sealr.settings import RerankConfig

NAME_CHARACTERS = 60  # longer names are cut between words; Amazon's titles have up to 300
PREFERENCE_TOKENS = 32  # maximum length of a written preference
KEPT = 10_000  # preferences kept in memory if there is no folder, as in a server
QUESTION = (
    "Describe in one short sentence what a customer likes who chose these {category}, oldest first. "
    "Answer with the sentence alone.\n{history}"
)
TEMPLATE = (
    "Instruction: Recommend ten {category} from the candidate list based on user's preference and interaction "
    "history.\n\nInput:\nUser preference: {preference}\nInteraction history:\n{history}\n"
    "Candidate list:\n{candidates}\n\nOutput:\nRecommend Products:\n"
)


def name_prompt(
    request: RerankInput, order: Sequence[int], category: str, preference: str, names: Sequence[str], max_history: int
) -> str:
    """The template filled in. order: the pool in the order in which the prompt lists it."""
    history, candidates = ("\n".join(names[i] for i in part) for part in (request.history[-max_history:], order))
    return TEMPLATE.format(category=category, preference=preference, history=history, candidates=candidates)


def question(request: RerankInput, category: str, names: Sequence[str], max_history: int) -> str:
    """Asks the LLM for the user's preference."""
    return QUESTION.format(category=category, history="\n".join(names[i] for i in request.history[-max_history:]))


def item_names(items: pd.DataFrame) -> list[str]:
    """A name for each item of the items table, by catalogue index; [0] is empty.

    The name is the title, else brand and categories, else the raw id, on one line of at most NAME_CHARACTERS. Equal
    names get " (2)", " (3)" ... in the order of their ids.
    """
    names, taken = [""], {""}
    for row in items.sort_values("item").itertuples(index=False):
        title, brand, categories = (_line(value) for value in (row.title, row.brand, row.categories))
        name = _cut(title or ", ".join(part for part in (brand, categories) if part) or _line(row.item))
        number, unique = 1, name
        while unique in taken:
            number += 1
            unique = f"{name} ({number})"
        taken.add(unique)
        names.append(unique)
    return names


class NameTokens:
    """Tokens of item names under one tokenizer; the separator is a line break.

    Raises ValueError when the tokenizer has no token for a line break.
    """

    def __init__(self, tokenizer: Any, names: Sequence[str]):
        self.names, self.end = names, tokenizer.eos_token_id
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        # Some tokenizers write the first word of a text differently: names are encoded after a line break, as in lists
        self._lead = self._encode("\n")
        self.separator = self._lead[-1]
        if self._encode("a\nb").count(self.separator) != 1:
            name = getattr(tokenizer, "name_or_path", "this model")
            raise ValueError(
                f"the tokenizer of {name} has no token for a line break, which lists of names need: "
                "use another rerank.base"
            )
        self._known: dict[int, list[int]] = {}

    def of(self, item: int) -> list[int]:
        """Tokens of one name, without the separator."""
        if item not in self._known:
            tokens = self._encode("\n" + self.names[item])
            separate = tokens[: len(self._lead)] == self._lead
            self._known[item] = tokens[len(self._lead) :] if separate else self._encode(self.names[item])
        return self._known[item]


class Preferences:
    """What each user likes, written greedily by the base LLM; kept in memory and, if there is a folder, on disk.

    A preference depends on the base LLM and on the names in the history. Each batch has a file on disk: an interrupted
    run continues after the last complete one, with the same batches.
    """

    def __init__(self, tokenizer: Any, config: RerankConfig, category: str, names: Sequence[str], cache: Path | None):
        self.tokenizer, self.config, self.category, self.names = tokenizer, config, category, names
        self.texts: dict[str, str] = {}  # by digest of the question
        self.folder = None
        if cache is not None:
            code = code_digest(("rerank/generative/palr.py", "rerank/llm.py"))
            identity = [config.layers, config.quantization, config.dtype, code]
            self.folder = cache / text_digest([weights.digest(config.base), identity])[:16]
            for path in sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
                for key, text in read_json(path).items():
                    self.texts.setdefault(key, text)  # if two jobs wrote one, the first counts

    def of(self, request: RerankInput) -> str:
        """The preference of the request's user. Raises KeyError unless ``write`` has seen the request."""
        return self.texts[text_digest(self._question(request))]

    def write(self, requests: Sequence[RerankInput], load: Callable[[], nn.Module]) -> None:
        """Writes the preferences that are missing. load: returns the LLM; only called if one is missing."""
        if self.folder is None and len(self.texts) > KEPT:
            self.texts.clear()
        questions = {text_digest(text): text for text in map(self._question, requests)}
        missing = [key for key in questions if key not in self.texts]
        if not missing:
            return
        model, size = load(), self.config.decode_batch
        for start in progress_bar(range(0, len(missing), size), label="preferences", unit="batches"):
            keys = missing[start : start + size]
            new = dict(zip(keys, self._answers(model, [questions[key] for key in keys]), strict=True))
            self.texts.update(new)
            if self.folder is not None:
                write_json(new, self.folder / f"{text_digest(keys)[:16]}.json")

    def _question(self, request: RerankInput) -> str:
        return question(request, self.category, self.names, self.config.max_history)

    @torch.inference_mode()
    def _answers(self, model: Any, questions: Sequence[str]) -> list[str]:
        """The first line that the LLM answers to each question; empty if there is none."""
        ids, mask = pad_left([self._tokens(text) for text in questions], self.tokenizer.pad_token_id)
        device = next(model.parameters()).device
        with weights.quiet():
            out = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=PREFERENCE_TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        texts = self.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        return [next((line for part in text.splitlines() if (line := _line(part))), "") for text in texts]

    def _tokens(self, text: str) -> list[int]:
        """A chat message if the model has a chat template, else text to be continued."""
        if self.tokenizer.chat_template is None:
            return self.tokenizer.encode(f"Instruction: {text}\n\nOutput:\n")
        message = [{"role": "user", "content": text}]
        chat = self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        return self.tokenizer.encode(chat, add_special_tokens=False)


class NameEncoder(Encoder):
    """Writes requests with preferences and names. Call ``prepare`` before ``prompt`` and ``batch``.

    items: the items table. cache: folder of preferences written before; None keeps preferences in memory.
    """

    def __init__(
        self, tokenizer: Any, config: RerankConfig, category: str, items: pd.DataFrame, cache: Path | None = None
    ):
        self.tokenizer, self.config, self.category, self.names = tokenizer, config, category, item_names(items)
        self.ids = NameTokens(tokenizer, self.names)
        self.pad = tokenizer.pad_token_id
        self.preferences = Preferences(tokenizer, config, category, self.names, cache)

    def prepare(self, requests: Sequence[RerankInput], load: Callable[[], nn.Module]) -> None:
        self.preferences.write(requests, load)

    def prompt(self, request: RerankInput, epoch: int = 0) -> list[int]:
        """Tokens of the prompt; the answer starts on a new line."""
        order, preference = self.shuffled_pool(request, epoch), self.preferences.of(request)
        text = name_prompt(request, order, self.category, preference, self.names, self.config.max_history)
        return self.tokenizer.encode(text)


def _line(value: Any) -> str:
    """A text on one line without control characters; empty for null."""
    if not isinstance(value, str):
        return ""
    text = unicodedata.normalize("NFKC", value)
    return " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in text).split())


def _cut(name: str) -> str:
    if len(name) <= NAME_CHARACTERS:
        return name
    return name[: NAME_CHARACTERS + 1].rpartition(" ")[0] or name[:NAME_CHARACTERS]
