"""The model of the scoring ranker (ours): items and feelings are soft tokens of the LLM.

The paper writes an item as an encoded id of several tokens and lets the LLM write a list. Here an item is one token,
and one pass scores every candidate. For item i with text embedding c, sentiment class s and expected sentiment v:

    e = E[i] + W_content c                    item embedding; E starts as the retriever's table
    x = W_in e + S[s] + w v                   soft token
    h = LLM(instruction, x_1 ... x_t)         hidden state after t items
    score(j) = (W_out norm(h) + b) . e_j      for every item j

LoRA adapts the LLM; all other weights are trained fully. The LLM reads the instruction once for all users and keeps its
keys and values.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sealr.data.tables import atomic_path
from sealr.rerank.llm import cache_argument, device, load_tokenizer
from sealr.retrieve.models.embedding import SentimentEmbedding
from sealr.settings import RerankConfig

if TYPE_CHECKING:
    from peft import PeftModel

SOFT_TOKENS = "soft_tokens.safetensors"  # file beside the adapter
INSTRUCTION = (
    "Recommend {category} based on user's interaction history and sentiment label from the reviews.\n"
    "Interaction history: "
)


class ItemTokens(nn.Module):
    """Soft tokens of items and feelings, and the projection of hidden states back to item embeddings.

    table (n_items + 1, D): initial item embeddings, row 0 is padding. content (n_items + 1, C): of the items'
    texts, or None. width: H of the LLM. scale: standard deviation of the LLM's token embeddings; soft tokens start
    with it.
    """

    content: Tensor

    def __init__(self, config: RerankConfig, table: Tensor, content: Tensor | None, width: int, scale: float) -> None:
        super().__init__()
        inner = table.shape[1]
        self.items = nn.Embedding.from_pretrained(table.clone(), freeze=False)
        self.in_proj = nn.Linear(inner, width, bias=False)
        spread = float(table[1:].std()) if len(table) > 1 else 0.0
        nn.init.normal_(self.in_proj.weight, std=scale / max(spread * inner**0.5, 1e-6))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)  # the last state of a cut LLM has no fixed scale
        self.out_proj = nn.Linear(width, inner)
        self.dropout = nn.Dropout(config.scoring.dropout)
        self.content_proj = self.sentiment = None
        if content is not None:
            self.register_buffer("content", content.float())
            self.content_proj = nn.Linear(content.shape[1], inner, bias=False)
            nn.init.zeros_(self.content_proj.weight)  # training starts from the retriever's embeddings
        if config.sentiment != "none":
            self.sentiment = SentimentEmbedding(width)
            for part in (self.sentiment.classes, self.sentiment.expected):
                nn.init.normal_(part.weight, std=scale)

    def table(self) -> Tensor:
        """(n_items + 1, D) embeddings of all items."""
        return self.items.weight if self.content_proj is None else self.items.weight + self.content_proj(self.content)

    def forward(self, items: Tensor, feelings: Tensor | None) -> Tensor:
        """Items (B, T), feelings (B, T, 2) class and expected sentiment, NaN if unknown -> soft tokens (B, T, H)."""
        x = self.items(items)
        if self.content_proj is not None:
            x = x + self.content_proj(self.content[items])
        x = self.in_proj(x)
        return self.dropout(x if self.sentiment is None else self.sentiment(x, feelings))

    def queries(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) -> (..., D); their products with ``table`` are the scores."""
        return self.out_proj(self.dropout(self.norm(hidden.float())))


class ScoringModel(nn.Module):
    """The LLM with soft tokens. llm: with its adapter. prefix: token ids of the instruction."""

    prefix: Tensor

    def __init__(self, llm: PeftModel, tokens: ItemTokens, prefix: list[int]) -> None:
        super().__init__()
        self.llm: Any = llm
        self.tokens = tokens
        self.register_buffer("prefix", torch.tensor([prefix]), persistent=False)  # (1, P)
        self.cache_prefix = True  # False: the instruction passes through the LLM with every user, for comparison
        self._kept: list[tuple[Tensor, Tensor]] = []

    def train(self, mode: bool = True) -> ScoringModel:
        self._kept = []  # a changed adapter changes the keys and values of the instruction
        return super().train(mode)

    def forward(self, items: Tensor, feelings: Tensor | None = None) -> Tensor:
        """Items (B, T), oldest first, zeros on the right; feelings (B, T, 2) -> queries (B, T, D).

        Queries at padding are undefined.
        """
        backbone = self.llm.get_base_model().model
        x = self.tokens(items, feelings).to(backbone.embed_tokens.weight.dtype)  # (B, T, H)
        rows, words = len(x), self.prefix.shape[1]
        if not self.cache_prefix:
            x = torch.cat([backbone.embed_tokens(self.prefix).expand(rows, -1, -1), x], 1)
            hidden = backbone(inputs_embeds=x, use_cache=False).last_hidden_state
            return self.tokens.queries(hidden[:, words:])
        cache = transformers.DynamicCache()
        for layer, (keys, values) in enumerate(self._prefix()):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        # Padding is on the right and attention is causal: no position sees padding, and no mask is needed
        hidden = backbone(inputs_embeds=x, use_cache=True, **{cache_argument(): cache}).last_hidden_state
        return self.tokens.queries(hidden)

    def last(self, items: Tensor, feelings: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, D), the query after the newest item of each row."""
        rows = torch.arange(len(items), device=items.device)
        return self(items, feelings)[rows, (items > 0).sum(1) - 1]

    def _prefix(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the instruction for each layer, both (1, heads, P, head width)."""
        if self._kept:
            return self._kept
        cache: Any = transformers.DynamicCache()
        self.llm.get_base_model().model(input_ids=self.prefix, use_cache=True, **{cache_argument(): cache})
        made = [(layer.keys, layer.values) for layer in cache.layers]
        if not self.training and not torch.is_grad_enabled():
            self._kept = made
        return made


def build(config: RerankConfig, llm: Any, category: str, table: Tensor, content: Tensor | None) -> ScoringModel:
    """A model with fresh soft tokens on the LLM's device."""
    # Sequences are short: eager attention is as fast as the fused kernel. In bfloat16 on a CPU, the backward pass of
    # the whole model takes less than half the time
    llm.get_base_model().set_attn_implementation("eager")
    words = llm.get_input_embeddings().weight
    tokens = ItemTokens(config, table, content, words.shape[1], float(words.float().std()))
    prefix = load_tokenizer(config.base).encode(INSTRUCTION.format(category=category))
    return ScoringModel(llm, tokens, prefix).to(device())


def save_tokens(tokens: ItemTokens, folder: Path) -> None:
    with atomic_path(folder / SOFT_TOKENS) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in tokens.state_dict().items()}, temporary)


def load_model(config: RerankConfig, llm: PeftModel, category: str, folder: Path) -> ScoringModel:
    """The model saved by ``save_tokens``, in eval mode. Raises ValueError when it does not fit the configuration."""
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
