"""Constrained decoding: the LLM writes a list of encoded ids or names and can only write unused candidates.

Each step allows only the tokens that continue an unused candidate. Every list is therefore valid by construction: no
item outside the pool, no repetition, and ``top_k`` items, or the whole pool if that is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import transformers
from torch import Tensor, nn

from sealr.rerank.generative.prompts import ListTokens
from sealr.rerank.llm import cache_argument, pad_left


@dataclass
class _List:
    """One user's list while it is being written."""

    unused: dict[tuple[int, ...], int]  # tokens of a candidate -> item
    length: int  # items to write
    items: list[int] = field(default_factory=list)
    prefix: tuple[int, ...] = ()  # tokens of the item being written

    @property
    def full(self) -> bool:
        return len(self.items) == self.length

    def allowed(self, separator: int) -> list[int]:
        """Tokens that may come next; empty when the list is full."""
        if self.full:
            return []
        n = len(self.prefix)
        tokens = {item[n] for item in self.unused if len(item) > n and item[:n] == self.prefix}
        if self.prefix in self.unused:
            tokens.add(separator)
        return sorted(tokens)

    def append(self, token: int, separator: int) -> None:
        if token == separator:
            self.items.append(self.unused.pop(self.prefix))
            self.prefix = ()
        else:
            self.prefix += (token,)


@torch.inference_mode()
def generate_lists(
    model: nn.Module, tokens: ListTokens, prompts: list[list[int]], pools: list[list[int]], top_k: int, pad: int
) -> list[list[int]]:
    """Greedy lists of ``top_k`` items for a batch of B users, best first.

    prompts: B token lists. pools: B lists of distinct catalogue indices whose token sequences differ.
    """
    lists = [_List({tuple(tokens.of(item)): item for item in pool}, min(top_k, len(pool))) for pool in pools]
    device = next(model.parameters()).device
    ids, mask = (t.to(device) for t in pad_left(prompts, pad))  # (B, T)
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # padding takes no position
    cache = {cache_argument(): transformers.DynamicCache()}  # the model appends to it
    while True:
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1, **cache
        )
        chosen = _choose(out.logits[:, -1], lists, tokens, pad)  # (B,)
        if all(one.full for one in lists):
            return [one.items for one in lists]
        ids = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        positions = positions[:, -1:] + 1


def _choose(logits: Tensor, lists: list[_List], tokens: ListTokens, pad: int) -> Tensor:
    """Appends each user's best allowed token to the list and returns it, (B, V) -> (B,); ``pad`` for full lists."""
    logits = logits.float()
    # Treat EOS as a separator; otherwise 12 could never beat 123: training answers end after two items, with EOS
    logits[:, tokens.separator] = torch.logaddexp(logits[:, tokens.separator], logits[:, tokens.end])
    chosen = []
    for row, one in zip(logits, lists, strict=True):
        allowed = one.allowed(tokens.separator)
        if not allowed:
            chosen.append(pad)
            continue
        token = allowed[0] if len(allowed) == 1 else allowed[int(row[allowed].argmax())]
        one.append(token, tokens.separator)
        chosen.append(token)
    return torch.tensor(chosen, device=logits.device)
