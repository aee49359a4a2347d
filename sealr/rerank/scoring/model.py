"""Items and feelings as soft tokens of the LLM: the model of the scoring ranker (ours).

The paper writes an item as an encoded id, several tokens long, and lets the LLM write a list. Here an item is one token: its
embedding in the retriever, through a learned projection, plus an embedding of how the user felt about it. The hidden state at
an item is projected back and compared with the embeddings of all items, so that one pass scores every candidate. LoRA adapts
the LLM; projections and feelings are trained fully. The instruction in words stands before the history, and its keys and
values are computed once for all users.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sealr.data.tables import atomic_path
from sealr.rerank.llm import device, load_tokenizer
from sealr.settings import RerankConfig

if TYPE_CHECKING:
    from peft import PeftModel

SOFT_TOKENS = "soft_tokens.safetensors"  # beside the adapter
INSTRUCTION = "Recommend {category} based on user's interaction history and sentiment label from the reviews.\nInteraction history: "
NOT_KNOWN = 3.0  # class of an item without a label, beside -2..2


class ItemTokens(nn.Module):
    """Embeddings of items and feelings on the way in, and what a hidden state is compared with on the way out.

    table (n_items + 1, D): item embeddings to start from, row 0 for padding. content: (n_items + 1, C) text embeddings or None.
    width: H of the LLM. scale: standard deviation of the LLM's own token embeddings, which the soft ones start with.
    """

    def __init__(self, config: RerankConfig, table: Tensor, content: Tensor | None, width: int, scale: float) -> None:
        super().__init__()
        settings, inner = config.scoring, table.shape[1]
        self.items = nn.Embedding.from_pretrained(table.clone(), freeze=settings.item_embeddings == "frozen")
        self.into = nn.Linear(inner, width, bias=False)
        spread = float(table[1:].std()) if len(table) > 1 else 0.0
        nn.init.normal_(self.into.weight, std=scale / max(spread * inner**0.5, 1e-6))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)  # a cut LLM's last state has no known size
        self.out = nn.Linear(width, inner)
        self.dropout = nn.Dropout(settings.dropout)
        self.project = self.felt = self.expected = None
        if content is not None:
            self.register_buffer("content", content.float())
            self.project = nn.Linear(content.shape[1], inner, bias=False)
            nn.init.zeros_(self.project.weight)  # starts as the retriever sees the item
        if config.sentiment != "none":
            self.felt = nn.Embedding(6, width)  # classes -2..2, and one for none
            self.expected = nn.Linear(1, width, bias=False)
            nn.init.normal_(self.felt.weight, std=scale)
            nn.init.normal_(self.expected.weight, std=scale)

    def table(self) -> Tensor:
        """(n_items + 1, D) embeddings of all items."""
        return self.items.weight if self.project is None else self.items.weight + self.project(self.content)

    def forward(self, items: Tensor, feelings: Tensor | None) -> Tensor:
        """Items (B, T), feelings (B, T, 2) class and expected sentiment, NaN where not known -> (B, T, H)."""
        x = self.items(items)
        if self.project is not None:
            x = x + self.project(self.content[items])
        x = self.into(x)
        if self.felt is not None:
            known = feelings if feelings is not None else x.new_full((*items.shape, 2), torch.nan)
            x = x + self.felt(known[..., 0].nan_to_num(NOT_KNOWN).long() + 2) + self.expected(known[..., 1:].nan_to_num(0.0))
        return self.dropout(x)

    def queries(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) -> (..., D), to be multiplied with ``table``."""
        return self.out(self.dropout(self.norm(hidden.float())))


class ScoringModel(nn.Module):
    """The LLM with soft tokens. llm: with its adapter. prefix: token ids of the instruction."""

    def __init__(self, llm: PeftModel, tokens: ItemTokens, prefix: list[int]) -> None:
        super().__init__()
        self.llm, self.tokens = llm, tokens
        self.register_buffer("prefix", torch.tensor([prefix]), persistent=False)  # (1, P)
        self.cache_prefix = True  # False: the instruction goes through the LLM with every user, for comparison
        self._kept: list[tuple[Tensor, Tensor]] = []

    def train(self, mode: bool = True) -> ScoringModel:
        self._kept = []  # the adapter changes what the instruction's keys and values are
        return super().train(mode)

    def forward(self, items: Tensor, feelings: Tensor | None = None) -> Tensor:
        """Items (B, T), oldest first, zeros to the right; feelings (B, T, 2) -> queries (B, T, D). Padding's are without meaning."""
        backbone = self.llm.get_base_model().model
        x = self.tokens(items, feelings)
        rows, words = len(x), self.prefix.shape[1]
        x = x.to(backbone.embed_tokens.weight.dtype)
        if not self.cache_prefix:
            x = torch.cat([backbone.embed_tokens(self.prefix).expand(rows, -1, -1), x], 1)
            return self.tokens.queries(backbone(inputs_embeds=x, use_cache=False).last_hidden_state[:, words:])
        cache = transformers.DynamicCache()
        for layer, (keys, values) in enumerate(self._prefix()):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        # Windows are padded on the right and attention is causal, so no real position sees padding and no mask is needed
        return self.tokens.queries(backbone(inputs_embeds=x, past_key_values=cache, use_cache=True).last_hidden_state)

    def last(self, items: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, D), the query after each row's newest item."""
        rows = torch.arange(len(items), device=items.device)
        return self(items, feelings)[rows, (items > 0).sum(1) - 1]

    def _prefix(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the instruction by layer, (1, heads, P, width of a head) each."""
        if self._kept:
            return self._kept
        cache = self.llm.get_base_model().model(input_ids=self.prefix, use_cache=True).past_key_values
        made = [(layer.keys, layer.values) for layer in cache.layers]
        if not self.training and not torch.is_grad_enabled():
            self._kept = made
        return made


def build(config: RerankConfig, llm: PeftModel, category: str, table: Tensor, content: Tensor | None) -> ScoringModel:
    """A model with fresh soft tokens on the LLM's device."""
    # Windows are short: plain matrix products take as long as the fused kernel, and in bfloat16 on a CPU the backward pass of the whole
    # model less than half as long
    llm.get_base_model().set_attn_implementation("eager")
    words = llm.get_input_embeddings().weight
    tokens = ItemTokens(config, table, content, words.shape[1], float(words.float().std()))
    prefix = load_tokenizer(config.base).encode(INSTRUCTION.format(category=category))
    return ScoringModel(llm, tokens, prefix).to(device())


def save_tokens(tokens: ItemTokens, folder: Path) -> None:
    with atomic_path(folder / SOFT_TOKENS) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in tokens.state_dict().items()}, temporary)


def load_model(config: RerankConfig, llm: PeftModel, category: str, folder: Path) -> ScoringModel:
    """The model of a folder that ``save_tokens`` wrote into. Raises ValueError when it does not fit the configuration."""
    path = folder / SOFT_TOKENS
    if not path.is_file():
        raise ValueError(f"{path} is missing: the adapter in {folder} was not trained with rerank.ranker: scoring")
    state = load_file(path)
    model = build(config, llm, category, state["items.weight"], state.get("content"))
    try:
        model.tokens.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the configuration of the re-ranker: {error}") from None
    return model.eval()
