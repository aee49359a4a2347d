"""A trained fusion teaches one network, which then serves alone, in one forward pass (Hinton et al. 2015).

Besides the next item, the network learns to order the whole catalogue as the teacher does. It would learn little from
the teacher's answers to the training histories, whose next items the teacher knows. So it asks about changed ones, from
which random items are left out: nobody can have learned what follows them by heart.
``benchmarks/studies/single-model.md`` has the gain and its controls.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sealr.data.sequences import Sequences
from sealr.retrieve.retriever import Retriever, pad

log = logging.getLogger(__name__)
WHOLE = 0.3  # chance of a history to stay as it is
DROPPED = 0.3  # chance of an item of the others to be left out
EARLIER = 0.3  # further chance of their newest items
SHARPNESS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)
USERS = 2000  # on whom the sharpness is found
BLOCK_ROWS = 256


@dataclass(frozen=True)
class Teacher:
    """retriever: a trained fusion. sharpness: softmax(sharpness * its scores) are its probabilities."""

    retriever: Retriever
    sharpness: float

    def lesson(self, model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the model against the teacher over the catalogue, for changed histories.

        inputs, targets: (B, L), of a training batch. Uses torch's global generator.
        """
        rows = changed(torch.cat([inputs[:, :1], targets], dim=1))[:, -self.retriever.config.max_len :]  # (B, L)
        with torch.no_grad():
            answers = self.sharpness * asked(self.retriever, rows)  # (B, items)
        logits = model.encode_last(rows) @ model.item_weights()[1:].T  # (B, items)
        logits = logits.masked_fill(answers == -torch.inf, -1e9)  # finite: 0 times -inf is no number
        return -(answers.softmax(1) * logits.log_softmax(1)).sum(1).mean()

    def digest(self) -> str:
        """SHA-256 of what it teaches."""
        state = self.retriever.model.state_dict()
        made = hashlib.sha256(f"{self.sharpness} {self.retriever.config}".encode())
        for name in sorted(state):
            made.update(name.encode() + state[name].detach().cpu().contiguous().numpy().tobytes())
        return made.hexdigest()


def asked(retriever: Retriever, rows: Tensor) -> Tensor:
    """(B, L) -> scores (B, n_items), -inf at the items of a row if they are no candidates."""
    scores = retriever.model.score(rows).float()
    if retriever.config.exclude_seen:
        scores.scatter_(1, rows, -torch.inf)  # padding, too
    return scores[:, 1:]


def changed(rows: Tensor) -> Tensor:
    """(B, L) histories, zeros to the right -> histories without some of their items, zeros to the left."""
    draws = torch.rand(len(rows), 2, device=rows.device)
    whole = draws[:, :1] < WHOLE  # (B, 1)
    real = rows > 0
    last = real & (real.flip(1).cumsum(1).flip(1) == 1)  # (B, L) True at the newest item
    left_out = (torch.rand(rows.shape, device=rows.device) < DROPPED) | (last & (draws[:, 1:] < EARLIER))
    kept = real & (whole | ~left_out)
    kept |= real & ~kept.any(1, keepdim=True)  # a history that would lose everything stays as it is
    order = kept.int().sort(dim=1, stable=True).indices
    return rows.masked_fill(~kept, 0).gather(1, order)


@torch.no_grad()
def find_sharpness(retriever: Retriever, sequences: Sequences) -> float:
    """The sharpness with which the validation items of up to USERS users are most probable."""
    part = sequences.split("valid")
    drawn = np.sort(np.random.default_rng(0).permutation(len(part))[:USERS])
    losses = torch.zeros(len(SHARPNESS), dtype=torch.float64)
    for users in np.array_split(drawn, max(1, len(drawn) // BLOCK_ROWS)):
        rows = pad([part.history(user) for user in users], retriever.config.max_len).to(retriever.device)
        scores, targets = asked(retriever, rows), torch.from_numpy(part.targets[users]).to(retriever.device)[:, None]
        for place, sharpness in enumerate(SHARPNESS):
            logs = (sharpness * scores).log_softmax(1).gather(1, targets - 1)
            losses[place] -= logs[logs.isfinite()].double().sum().cpu()  # a target that was taken before has none
    best = SHARPNESS[int(losses.argmin())]
    log.info("taught by a fusion: its scores become probabilities with sharpness %g", best)
    return best
