"""Asks an exported LLM that reads soft tokens. Needs torch, transformers and safetensors, and nothing of SEALR.

    python ask.py INDEX INDEX INDEX     # a history of item indices, oldest first; prints the ten best next items

The indices are those of ../retriever/items.json: the first item there has index 1.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn.functional import layer_norm
from transformers import AutoModelForCausalLM

UNKNOWN = 5  # row of an item without a sentiment, after -2..2


class LLM:
    """The folder of an exported LLM."""

    def __init__(self, folder: Path) -> None:
        self.card = json.loads((folder / "soft_tokens.json").read_text(encoding="utf-8"))
        self.soft = load_file(folder / "soft_tokens.safetensors")
        self.backbone = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").model.eval()

    @torch.no_grad()
    def scores(self, history: list[int], feelings: list[tuple[float, float]] | None = None) -> torch.Tensor:
        """Scores (items + 1,) of all items as the next one; index 0 is padding.

        history: indices, oldest first. feelings: of each item the sentiment class from -2 to 2 and the expected
        sentiment, NaN if unknown; not read unless there are sentiment tokens.
        """
        newest = history[-self.card["max_history"] :]
        tokens = self.soft["item_table"][newest] @ self.soft["in_weight"].T  # (L, H)
        if "sentiment_tokens" in self.soft:
            felt = torch.tensor([(float("nan"),) * 2] * len(history) if feelings is None else feelings)[-len(newest) :]
            classes = felt[:, 0].nan_to_num(UNKNOWN - 2).long() + 2
            tokens = tokens + self.soft["sentiment_tokens"][classes]
            tokens = tokens + felt[:, 1:].nan_to_num(0.0) * self.soft["expected_token"]
        words = self.backbone.embed_tokens(torch.tensor(self.card["instruction_tokens"]))
        inputs = torch.cat([words, tokens.to(words.dtype)])[None]  # (1, P + L, H)
        state = self.backbone(inputs_embeds=inputs).last_hidden_state[0, -1].float()
        query = self.soft["out_weight"] @ layer_norm(state, state.shape) + self.soft["out_bias"]
        return self.soft["item_table"] @ query


if __name__ == "__main__":
    found = LLM(Path(__file__).parent).scores([int(index) for index in sys.argv[1:]])
    found[0] = -torch.inf
    for score, index in zip(*found.topk(min(10, len(found) - 1)), strict=True):
        print(f"{int(index)}\t{float(score):.4f}")
