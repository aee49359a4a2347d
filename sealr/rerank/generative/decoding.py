"""Constrained decoding: the LLM writes a list of encoded ids, or names, and can write nothing but unused candidates.

At each step only the tokens that continue some unused candidate are allowed, so every list is valid by construction:
no item outside the pool, none twice, always ``top_k`` long (or the whole pool when it is smaller).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sealr.rerank.llm import pad_left
from sealr.rerank.generative.prompts import ListTokens


@dataclass
class _List:
    """The list of one user while it is being written."""

    unused: dict[tuple[int, ...], int]  # tokens of a candidate -> item
    wanted: int
    written: list[int] = field(default_factory=list)
    prefix: tuple[int, ...] = ()  # tokens of the item being written

    def allowed(self, separator: int) -> list[int]:
        """Tokens that may come next; empty when the list is full."""
        if len(self.written) == self.wanted:
            return []
        n = len(self.prefix)
        tokens = {own[n] for own in self.unused if len(own) > n and own[:n] == self.prefix}
        if self.prefix in self.unused:
            tokens.add(separator)
        return sorted(tokens)

    def take(self, token: int, separator: int) -> None:
        if token == separator:
            self.written.append(self.unused.pop(self.prefix))
            self.prefix = ()
        else:
            self.prefix += (token,)


@torch.inference_mode()
def generate_lists(
    model: nn.Module, ids: ListTokens, prompts: list[list[int]], pools: list[list[int]], top_k: int, pad: int
) -> list[list[int]]:
    """Greedy lists of ``top_k`` items for a batch of B users, best first.

    prompts: B token lists. pools: B lists of distinct candidate items (catalogue indices), no two written alike.
    """
    lists = [_List({tuple(ids.of(item)): item for item in pool}, min(top_k, len(pool))) for pool in pools]
    device = next(model.parameters()).device
    tokens, mask = (t.to(device) for t in pad_left(prompts, pad))  # (B, T)
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # pads do not count
    cache = None
    while True:
        out = model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache = out.past_key_values
        chosen = _choose(out.logits[:, -1], lists, ids, pad)  # (B,)
        if all(len(one.written) == one.wanted for one in lists):
            return [one.written for one in lists]
        tokens = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(tokens)], 1)
        positions = positions[:, -1:] + 1


def _choose(logits: Tensor, lists: list[_List], ids: ListTokens, pad: int) -> Tensor:
    """The best allowed token of each user, (B, V) -> (B,); full lists get the pad token.

    An item is over at the separator or at the end of the list, and answers that were trained on are shorter than ``top_k``: so the
    end counts for the separator, or an item that another one begins with (12, 123) would go on for want of it.
    """
    logits = logits.float()
    logits[:, ids.separator] = torch.logaddexp(logits[:, ids.separator], logits[:, ids.end])
    chosen = []
    for row, one in zip(logits, lists, strict=True):
        allowed = one.allowed(ids.separator)
        if not allowed:
            chosen.append(pad)
            continue
        token = allowed[0] if len(allowed) == 1 else allowed[int(row[allowed].argmax())]
        one.take(token, ids.separator)
        chosen.append(token)
    return torch.tensor(chosen, device=logits.device)
