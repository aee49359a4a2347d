"""The PALR baseline (Yang et al. 2023, arXiv 2305.07622; Section 3.1.2): a written preference, then a list of names.

The LLM, as it is without an adapter, first describes in a sentence what a user likes. The prompt then holds this preference and
the names of history and candidates, and the LLM, fine-tuned on the same users as the other rankers, writes names. As with
encoded ids, decoding is constrained to names of unused candidates, so every list is valid. PALR has no sentiments.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from sealr import weights
from sealr.data.manifest import StageResult, code_digest, text_digest
from sealr.data.tables import read_json, write_json
from sealr.rerank.generative.finetune import Encoder, finetune
from sealr.rerank.llm import load_base, load_tokenizer, pad_left
from sealr.rerank.generative.prompts import RerankInput, written
from sealr.settings import RerankConfig

NAME_CHARACTERS = 60  # the rest of a longer name is cut at a word: Amazon's titles run to 300
PREFERENCE_TOKENS = 32  # of the written preference, at most
KEPT = 10_000  # preferences in memory where there is no folder: a server's users
QUESTION = (
    "Describe in one short sentence what a customer likes who chose these {category}, oldest first. "
    "Answer with the sentence alone.\n{history}"
)
TEMPLATE = (
    "Instruction: Recommend ten {category} from the candidate list based on user's preference and interaction history.\n\n"
    "Input:\nUser preference: {preference}\nInteraction history:\n{history}\nCandidate list:\n{candidates}\n\n"
    "Output:\nRecommend Products:\n"
)


def name_prompt(
    request: RerankInput, shown: Sequence[int], category: str, preference: str, names: Sequence[str], max_history: int
) -> str:
    """The template filled in. shown: the pool in the order in which the prompt shows it."""
    history, candidates = ("\n".join(names[i] for i in part) for part in (request.history[-max_history:], shown))
    return TEMPLATE.format(category=category, preference=preference, history=history, candidates=candidates)


def item_names(items: pd.DataFrame) -> list[str]:
    """A name for each item of the items table, by catalogue index; [0] is empty.

    Title, else brand and categories, else the raw id; one line, no longer than NAME_CHARACTERS. Items that share a name get
    " (2)", " (3)" ... in the order of their ids, so that no two names are equal.
    """
    names, taken = [""], {""}
    for row in items.sort_values("item").itertuples(index=False):
        title, brand, categories = (_line(value) for value in (row.title, row.brand, row.categories))
        name = _cut(title or ", ".join(part for part in (brand, categories) if part) or _line(row.item))
        number, told_apart = 1, name
        while told_apart in taken:
            number += 1
            told_apart = f"{name} ({number})"
        taken.add(told_apart)
        names.append(told_apart)
    return names


class NameTokens:
    """Token sequences of item names under one tokenizer; a line break separates them.

    Raises ValueError when the tokenizer has no token for a line break.
    """

    def __init__(self, tokenizer: Any, names: Sequence[str]):
        self.names, self.end = names, tokenizer.eos_token_id
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        # In front of a name stands a line break, as in a list; some tokenizers write a text's first word differently
        self._lead = self._encode("\n")
        self.separator = self._lead[-1]
        if self._encode("a\nb").count(self.separator) != 1:
            name = getattr(tokenizer, "name_or_path", "this model")
            raise ValueError(f"the tokenizer of {name} has no token for a line break, which lists of names need: use another base")
        self._known: dict[int, list[int]] = {}

    def of(self, item: int) -> list[int]:
        """Tokens of one name, without separator."""
        if item not in self._known:
            tokens = self._encode("\n" + self.names[item])
            same = tokens[: len(self._lead)] == self._lead
            self._known[item] = tokens[len(self._lead) :] if same else self._encode(self.names[item])
        return self._known[item]

    def answer(self, items: Sequence[int]) -> list[int]:
        """Tokens of a training answer."""
        return written(self, items, self.end)


class Preferences:
    """What each user likes, written by the base LLM (greedily), in memory and, where there is a folder, on disk.

    A text depends on the base LLM and on the names in the history. On disk there is a file for each batch: a run that was killed
    goes on after the last whole one, with the same batches.
    """

    def __init__(self, tokenizer: Any, config: RerankConfig, category: str, names: Sequence[str], cache: Path | None):
        self.tokenizer, self.config, self.category, self.names = tokenizer, config, category, names
        self.texts: dict[str, str] = {}
        self.folder = None
        if cache is not None:
            how = [config.layers, config.quantization, config.dtype, code_digest(("rerank/generative/palr.py", "rerank/llm.py"))]
            self.folder = cache / text_digest([weights.digest(config.base), how])[:16]
            for path in sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
                for key, text in read_json(path).items():
                    self.texts.setdefault(key, text)  # of two jobs at once, what the first wrote

    def of(self, request: RerankInput) -> str:
        """The preference of a request's user. Raises KeyError unless it was written before."""
        return self.texts[text_digest(self._question(request))]

    def write(self, requests: Sequence[RerankInput], load: Callable[[], nn.Module]) -> None:
        """Has the preferences written that are not known yet. load: gives the LLM, only called when one is missing."""
        if self.folder is None and len(self.texts) > KEPT:
            self.texts.clear()
        questions = {text_digest(question): question for question in map(self._question, requests)}
        missing = [key for key in questions if key not in self.texts]
        if not missing:
            return
        model, size = load(), self.config.decode_batch
        for start in tqdm(range(0, len(missing), size), desc="preferences", unit="batch", delay=5, disable=None):
            keys = missing[start : start + size]
            new = dict(zip(keys, self._answers(model, [questions[key] for key in keys]), strict=True))
            self.texts.update(new)
            if self.folder is not None:
                write_json(new, self.folder / f"{text_digest(keys)[:16]}.json")

    def _question(self, request: RerankInput) -> str:
        history = "\n".join(self.names[item] for item in request.history[-self.config.max_history :])
        return QUESTION.format(category=self.category, history=history)

    @torch.inference_mode()
    def _answers(self, model: nn.Module, questions: Sequence[str]) -> list[str]:
        ids, mask = pad_left([self._tokens(question) for question in questions], self.tokenizer.pad_token_id)
        where = next(model.parameters()).device
        with weights.quiet():
            out = model.generate(
                input_ids=ids.to(where),
                attention_mask=mask.to(where),
                max_new_tokens=PREFERENCE_TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        texts = self.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        return [next((line for part in text.splitlines() if (line := _line(part))), "") for text in texts]

    def _tokens(self, question: str) -> list[int]:
        """As a chat message where the model knows chats, else as text to be continued."""
        if self.tokenizer.chat_template is None:
            return self.tokenizer.encode(f"Instruction: {question}\n\nOutput:\n")
        message = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        return self.tokenizer.encode(text, add_special_tokens=False)


class NameEncoder(Encoder):
    """Writes requests with preference and names. ``preferences.write`` comes before ``prompt`` and ``batch``."""

    def __init__(self, tokenizer: Any, config: RerankConfig, category: str, names: Sequence[str], cache: Path | None = None):
        self.tokenizer, self.config, self.category, self.names = tokenizer, config, category, names
        self.ids = NameTokens(tokenizer, names)
        self.pad = tokenizer.pad_token_id
        self.preferences = Preferences(tokenizer, config, category, names, cache)

    def prompt(self, request: RerankInput, epoch: int = 0) -> list[int]:
        """Prompt tokens; the answer starts on a new line."""
        shown, preference = self.shown(request, epoch), self.preferences.of(request)
        text = name_prompt(request, shown, self.category, preference, self.names, self.config.max_history)
        return self.tokenizer.encode(text)


def finetune_names(
    train: Sequence[RerankInput],
    valid: Sequence[RerankInput],
    config: RerankConfig,
    category: str,
    items: pd.DataFrame,
    folder: Path,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    cache: Path | None = None,
) -> StageResult:
    """`finetune` with preferences and names. items: the items table. cache: folder of preferences written before."""
    encoder = NameEncoder(load_tokenizer(config.base), config, category, item_names(items), cache)
    encoder.preferences.write([*train, *valid], lambda: load_base(config).eval())
    return finetune(train, valid, config, encoder, folder, on_epoch)


def _line(value: Any) -> str:
    """A text on one line, without control characters; empty for null."""
    if not isinstance(value, str):
        return ""
    text = unicodedata.normalize("NFKC", value)
    return " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in text).split())


def _cut(name: str) -> str:
    if len(name) <= NAME_CHARACTERS:
        return name
    return name[: NAME_CHARACTERS + 1].rpartition(" ")[0] or name[:NAME_CHARACTERS]
