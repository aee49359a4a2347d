"""Two towers over review texts: the LLM, or another reader, tuned to find the next item, as in FADE.

    h_r = mean hidden state of the first TOKENS tokens of review r           (frozen, or LoRA in the top TUNED layers)
    v_i = unit(W standardised(mean of h_r over the training reviews of i))   item vector
    u   = unit(U sum_k softmax(a)_k v_(k-th newest item))                    user vector of the last LAST items
    loss = -log softmax over items of u . v_i / TEMPERATURE                  (InfoNCE)

FADE encodes a history as one text. Here each item's texts are encoded once and a user's vector is made from those of
the items, which costs a fifth. Every position of a training sequence is a target (sliding windows). A step of tuning
adds two losses. In the first, the states of all reviews come from a bank, and the items are the whole catalogue; it
trains the towers. In the second, ITEMS items are read anew, each in one random review, and compete with each other
(in-batch); half of them are near neighbours of the others (hard negatives). It trains the reader, too. No target is
judged by the user's own review of it. In the end all reviews are read anew, and the towers are trained anew on that.
Layers below the tuned ones are frozen, so their states are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from sealr import weights
from sealr.data.sequences import Sequences, build
from sealr.progress import progress_bar
from sealr.retrieve.models.fusion import standardise_items
from sealr.retrieve.retriever import pad

TOKENS, TUNED, LAST = 48, 2, 5
WIDTH, TEMPERATURE, DROPOUT = 256, 0.1, 0.1
HEAD_STEPS, WARM = 250, 100  # of the towers on states that do not change, at least; before the reader is tuned
PASSES = 6  # of the towers over all pairs, at least
PAIRS, ITEMS, NEAREST = 512, 64, 3  # (history, target) of a step; items read anew, half of them near the others
HEAD_LR, LORA_LR = 3e-3, 3e-4
SPLITS = ("valid", "test")


@dataclass(frozen=True)
class Shape:
    base: str
    layers: int  # the first ones; the rest is cut off
    targets: tuple[str, ...]  # of LoRA
    random: bool = False  # random weights of the same shape


BERT, LLAMA = ("query", "key", "value", "dense"), ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
LLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
READERS = {
    "MiniLM": Shape("sentence-transformers/all-MiniLM-L6-v2", 6, BERT),
    "SmolLM2": Shape(LLM, 12, (*LLAMA, "down_proj")),
    "random": Shape(LLM, 12, (*LLAMA, "down_proj"), random=True),
}


class Data:
    """Training reviews, training pairs, and the questions of the splits. Item ids count from 1."""

    def __init__(self, reviews: pd.DataFrame) -> None:
        self.sequences: Sequences = build(reviews)
        flat, split = self.sequences.flat, self.sequences.split("train")
        rows = [row for start, end in zip(split.starts, split.ends, strict=True) for row in range(start, end)]
        self.texts = [" ".join(str(text).split()) for text in self.sequences.values(reviews, "text")[rows]]
        self.item = torch.from_numpy(flat[rows])  # (R,) the item of each training review
        self.count = torch.bincount(self.item, minlength=self.sequences.n_items + 1)  # (items + 1,)
        number = {row: i for i, row in enumerate(rows)}
        spans = [(s, t) for start, end in zip(split.starts, split.ends, strict=True) for s, t in pairs_of(start, end)]
        self.history = newest_first([flat[start:target] for start, target in spans])  # (P, LAST)
        self.target = torch.tensor([flat[target] for _, target in spans])  # (P,)
        # (P,) the user's review of the target; None where items have one text each, which no user wrote
        self.own: Tensor | None = torch.tensor([number[target] for _, target in spans])

    def with_item_texts(self, texts: list[str]) -> Data:
        """The same pairs with one text for each item, in order of the ids, in place of its reviews."""
        assert len(texts) == self.sequences.n_items
        self.texts, self.item, self.own = texts, torch.arange(1, len(texts) + 1), None
        self.count = F.pad(torch.ones(len(texts), dtype=torch.int64), (1, 0))
        return self

    def sums(self, states: Tensor) -> Tensor:
        """(R, H) states of reviews -> (items + 1, H) sums over each item's reviews."""
        return states.new_zeros(len(self.count), states.shape[1]).index_add_(0, self.item, states)

    def means(self, states: Tensor) -> Tensor:
        return self.sums(states) / self.count.clamp(min=1)[:, None]


def pairs_of(start: int, end: int) -> list[tuple[int, int]]:
    """(start of the history, position of the target) for every target of a sliding window."""
    return [(max(start, target - LAST), target) for target in range(start + 1, end)]


def newest_first(histories: list[np.ndarray]) -> Tensor:
    """(N, LAST) int64, the newest item first, zeros behind the oldest."""
    return F.pad(pad([history[-LAST:][::-1].copy() for history in histories], LAST), (0, LAST))[:, :LAST]


class Reader(nn.Module):
    """Either the lower layers of a reader, which stay frozen, or the tuned ones on top."""

    def __init__(self, shape: Shape, upper: bool, tuned: bool = False) -> None:
        super().__init__()
        folder, options = weights.resolve(shape.base), {"dtype": torch.bfloat16, "attn_implementation": "eager"}
        with weights.quiet(), torch.random.fork_rng():
            if shape.random:
                torch.manual_seed(0)
                settings = transformers.AutoConfig.from_pretrained(folder, num_hidden_layers=shape.layers)
                model: Any = transformers.AutoModel.from_config(settings, **options)
            else:
                model = transformers.AutoModel.from_pretrained(folder, **options)
        self.bert = hasattr(model, "encoder")
        below, kept = shape.layers - TUNED, slice(shape.layers - TUNED, shape.layers)
        if self.bert:
            model.encoder.layer = model.encoder.layer[kept if upper else slice(below)]
        else:
            model.layers = model.layers[kept if upper else slice(below)]
            model.config.num_hidden_layers, model.config.use_cache = len(model.layers), False
            model.norm = model.norm if upper else nn.Identity()
        self.model = model.requires_grad_(False)
        if tuned:
            import peft

            settings = peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=list(shape.targets))
            self.model = peft.get_peft_model(model, settings)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, L, H) below the top layers and mask (B, L) -> (B, H) mean states above them."""
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        if self.bert:
            blocked = torch.zeros(mask.shape, dtype=states.dtype).masked_fill(~mask, torch.finfo(states.dtype).min)
            for layer in model.encoder.layer:
                states = layer(states, blocked[:, None, None])
                states = states[0] if isinstance(states, tuple) else states
        else:
            states = model(inputs_embeds=states, attention_mask=mask.long()).last_hidden_state
        weight = mask[..., None].float()
        return (states.float() * weight).sum(1) / weight.sum(1).clamp(min=1)


@torch.no_grad()
def lower_states(shape: Shape, texts: list[str]) -> tuple[Tensor, Tensor]:
    """(R, TOKENS, H) bfloat16 states below the tuned layers, and mask (R, TOKENS)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights.resolve(shape.base), padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    found = tokenizer(texts, truncation=True, max_length=TOKENS, padding="max_length", return_tensors="pt")
    model = Reader(shape, upper=False).model.eval()
    states = torch.zeros(*found.input_ids.shape, model.config.hidden_size, dtype=torch.bfloat16)
    for rows in progress_bar(torch.argsort(found.attention_mask.sum(1)).split(64), label="read", unit="batches"):
        width = int(found.attention_mask[rows].sum(1).max())
        inputs = {"input_ids": found.input_ids[rows, :width], "attention_mask": found.attention_mask[rows, :width]}
        states[rows, :width] = model(**inputs).last_hidden_state
    return states, found.attention_mask.bool()


@torch.no_grad()
def pooled(reader: Reader, states: Tensor, mask: Tensor) -> Tensor:
    """(R, H) mean states of all reviews."""
    reader.eval()
    result = torch.zeros(len(mask), states.shape[2])
    for rows in torch.argsort(mask.sum(1)).split(128):
        width = int(mask[rows].sum(1).max())
        result[rows] = reader(states[rows, :width], mask[rows, :width])
    reader.train()
    return result


class Towers(nn.Module):
    """Item and user vectors from the mean states of reviews. profiles (items, H): what to standardise by."""

    def __init__(self, profiles: Tensor) -> None:
        super().__init__()
        self.mean, self.deviation = profiles.mean(0), profiles.std(0)
        self.project, self.map = (nn.Linear(n, WIDTH, bias=False) for n in (profiles.shape[1], WIDTH))
        nn.init.orthogonal_(self.project.weight)
        nn.init.eye_(self.map.weight)
        self.recency = nn.Parameter(torch.linspace(0, -1, LAST))
        self.dropout = nn.Dropout(DROPOUT)

    def items(self, profiles: Tensor) -> Tensor:
        """(N, H) mean states -> (N, WIDTH) of length 1."""
        return F.normalize(self.project(self.dropout((profiles - self.mean) / self.deviation)), dim=1)

    def users(self, vectors: Tensor, history: Tensor) -> Tensor:
        """Item vectors (items + 1, WIDTH), history (N, LAST) newest first -> (N, WIDTH) of length 1."""
        share = torch.where(history > 0, self.recency, -torch.inf).softmax(1)
        return F.normalize(self.map(self.dropout((vectors[history] * share[..., None]).sum(1))), dim=1)

    def catalogue(self, data: Data, bank: Tensor) -> Tensor:
        """(items + 1, WIDTH) vectors of all items; zeros without reviews."""
        return self.items(data.means(bank)) * (data.count > 0)[:, None]


def catalogue_loss(data: Data, towers: Towers, bank: Tensor, rows: Tensor) -> Tensor:
    """Loss of these pairs over all items. The target's vector leaves out the user's own review."""
    vectors, target = towers.catalogue(data, bank), data.target[rows]
    users = towers.users(vectors, data.history[rows])
    if data.own is None:
        return cross_entropy(users @ vectors.T, data.history[rows], target)
    sums = data.sums(bank)
    others = (sums[target] - bank[data.own[rows]]) / (data.count[target] - 1).clamp(min=1)[:, None]
    logits = (users @ vectors.T).scatter(1, target[:, None], (users * towers.items(others)).sum(1, keepdim=True))
    known = data.count[target] > 1  # something is left without the user's own review
    return cross_entropy(logits[known], data.history[rows][known], target[known])


def cross_entropy(logits: Tensor, history: Tensor, target: Tensor) -> Tensor:
    """Of cosines (N, items + 1). Other items of the history, and padding, are no negatives."""
    taken = torch.zeros_like(logits, dtype=torch.bool).scatter(1, history, True).scatter(1, target[:, None], False)
    taken[:, 0] = True
    return F.cross_entropy((logits / TEMPERATURE).masked_fill(taken, -torch.inf), target)


def train_towers(data: Data, bank: Tensor, seed: int) -> Towers:
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    towers = Towers(data.means(bank)[data.count > 0])
    optimizer = torch.optim.AdamW(towers.parameters(), weight_decay=0.01)
    steps = max(HEAD_STEPS, PASSES * len(data.target) // PAIRS)
    for step in progress_bar(range(steps), label="towers", unit="steps"):
        optimizer.param_groups[0]["lr"] = HEAD_LR * (1 - step / steps)
        optimizer.zero_grad()
        catalogue_loss(data, towers, bank, torch.randint(len(data.target), (PAIRS,), generator=draw)).backward()
        optimizer.step()
    return towers.eval()


def tuned_states(data: Data, shape: Shape, states: Tensor, mask: Tensor, steps: int, seed: int) -> Tensor:
    """(R, H) mean states of all reviews after ``steps`` of tuning. ``states``, ``mask``: see ``lower_states``."""
    bank = pooled(Reader(shape, upper=True), states, mask)
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    towers, reader = Towers(data.means(bank)[data.count > 0]), Reader(shape, upper=True, tuned=True)
    lora = [p for p in reader.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": [*towers.parameters()]}, {"params": lora}], weight_decay=0.01)
    for step in progress_bar(range(total := WARM + steps), label="tune", unit="steps"):
        left = 1 - step / total
        optimizer.param_groups[0]["lr"] = HEAD_LR * left
        optimizer.param_groups[1]["lr"] = LORA_LR * left * min(1, max(0, step - WARM + 1) / 10)
        loss = catalogue_loss(data, towers, bank, torch.randint(len(data.target), (PAIRS,), generator=draw))
        if step >= WARM:
            loss = loss + batch_loss(data, towers, reader, bank, (states, mask), draw)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*towers.parameters(), *lora], 1.0)
        optimizer.step()
    return pooled(reader, states, mask)


def batch_loss(
    data: Data, towers: Towers, reader: Reader, bank: Tensor, below: tuple[Tensor, Tensor], draw: torch.Generator
) -> Tensor:
    """InfoNCE among random items and near ones, each read anew in one random review. The bank gets the new states."""
    with torch.no_grad():
        vectors = towers.eval().catalogue(data, bank)
        towers.train()
        enough = data.count > (0 if data.own is None else 1)  # texts, without the user's own
        items = torch.multinomial(enough.float(), ITEMS // 2, generator=draw)
        near = vectors[items] @ vectors.T
        near[:, data.count < 1] = near[:, items] = -torch.inf
        choice = torch.randint(NEAREST, (len(items), 1), generator=draw)
        items = torch.cat([items, near.topk(NEAREST).indices.gather(1, choice)[:, 0].unique()])
    if data.own is None:
        fresh = items - 1
    else:
        # The review with the largest number is an item's random one
        spread = torch.rand(len(data.item), generator=draw)
        fresh = torch.stack([torch.where(data.item == item, spread, -1.0).argmax() for item in items])
    states, mask = below
    width = int(mask[fresh].sum(1).max())
    made = reader(states[fresh, :width], mask[fresh, :width])
    bank[fresh] = made.detach()
    vectors = towers.items(data.means(bank)).index_copy(0, items, read := towers.items(made))
    column = torch.zeros(len(data.count), dtype=torch.int64)
    column[items] = torch.arange(1, len(items) + 1)
    rows = (column[data.target] > 0).nonzero()[:, 0]
    if data.own is not None:
        rows = rows[fresh[column[data.target[rows]] - 1] != data.own[rows]]  # not the user's own review of the target
    rows = rows[torch.randperm(len(rows), generator=draw)[:PAIRS]]
    users = towers.users(vectors, data.history[rows])
    logits = F.pad(users @ read.T, (1, 0))
    return cross_entropy(logits, column[data.history[rows]], column[data.target[rows]])


@torch.no_grad()
def answers(data: Data, towers: Towers, bank: Tensor) -> dict[str, Any]:
    """Scores (users, items + 1) of "valid" and "test", and profiles (items + 1, H) to give a retriever as content."""
    vectors, scores = towers.catalogue(data, bank), dict[str, Any]()
    for split in SPLITS:
        histories = list(data.sequences.split(split).histories())
        scores[split] = standardise_items(towers.users(vectors, newest_first(histories)) @ vectors.T)
    return scores | {"profiles": data.means(bank)}
