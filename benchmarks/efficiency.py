"""Compares the cost of a list for three ways to write items.

``python -m benchmarks.efficiency --data demo --users 64`` prints Markdown. Names (PALR), encoded ids (the paper) and
soft tokens (SEALR's default) rank the same users' candidates with the same LLM in one process, in two rounds of
opposite order. Adapters are fine-tuned on a few users, because the cost of a list does not depend on what the LLM has
learned. The count of positions includes padding.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from sealr.config import load_config
from sealr.data.sequences import Sequences
from sealr.evaluate.report import markdown_table
from sealr.pipeline.dryrun import local_tables
from sealr.rerank.generative.finetune import finetune
from sealr.rerank.llm import ADAPTER
from sealr.rerank.plan import busy_seconds
from sealr.rerank.rankers import Ranker, load_encoder, load_ranker
from sealr.rerank.requests import RerankInput
from sealr.rerank.scoring.train import train_scoring
from sealr.retrieve.train import train
from sealr.settings import Config, RerankConfig, RetrieveConfig

RANKERS = {"palr": "names", "generative": "encoded ids", "scoring": "soft tokens"}
TRAINED = 4  # users that the adapters are fine-tuned on


@dataclass(frozen=True)
class Way:
    """One way to rank: a ranker and how it is run."""

    ranker: str
    batch: int
    prefix: bool = True  # scoring: the instruction's keys and values are computed once
    precision: str = "float32"

    @property
    def name(self) -> str:
        extra = "" if self.prefix else ", instruction with every user"
        return f"{RANKERS[self.ranker]}{extra}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--set", default="", help='overrides, e.g. "rerank.layers=8"')
    parser.add_argument("--users", type=int, default=64, help="users ranked in each measurement")
    parser.add_argument("--batch", type=int, default=16, help="users a batch where batches are not what is compared")
    parser.add_argument("--batches", default="1,4,16,64", help="batch sizes compared")
    parser.add_argument("--candidates", type=int, default=50)
    options = parser.parse_args()
    # Rankers that write lists learn from users' last two items, so they rank other users
    overrides = f"rerank.user_split=inductive {options.set} rerank.n_reranked={options.candidates}"
    overrides += f" rerank.max_users={TRAINED}"
    config = load_config(options.data, options.base, overrides)
    sequences, items = local_tables(config.data)
    asked = requests(config, sequences, options.users)
    ways = [Way(ranker, options.batch) for ranker in RANKERS]
    ways += [Way("scoring", options.batch, prefix=False)]
    ways += [Way(ranker, int(b)) for ranker in ("generative", "scoring") for b in options.batches.split(",")]
    ways += [Way(ranker, options.batch, precision="nf4") for ranker in ("generative", "scoring")]
    ways = list(dict.fromkeys(ways))
    with tempfile.TemporaryDirectory() as folder:
        adapters = prepare(config, sequences, items, asked[:TRAINED], Path(folder))
        rows = [row for way in ways for row in measure(config, way, adapters, items, asked)]
        again = [row for way in reversed(ways) for row in measure(config, way, adapters, items, asked)]
    print(report(config, options, rows, again))


def requests(config: Config, sequences: Sequences, count: int) -> list[RerankInput]:
    """Test requests of the first users, with sentiments and candidates drawn at random: only their sizes matter."""
    rng, made = np.random.default_rng(0), []
    size = min(config.rerank.n_reranked, sequences.n_items)
    for user in sequences.split("test").users[:count]:
        *history, second, last = sequences.sequence(int(user)).tolist()
        pool = rng.choice(sequences.n_items, size, replace=False) + 1
        pool[:2] = [last, second] if last != second else pool[:2]
        pool = list(dict.fromkeys(pool.tolist()))
        made.append(RerankInput(history, rng.integers(-2, 3, (len(history), 2)), pool, answer=pool[:2]))
    return made


def prepare(
    config: Config, sequences: Sequences, items: pd.DataFrame, few: Sequence[RerankInput], folder: Path
) -> dict[str, Path]:
    """An adapter for each ranker, fine-tuned on the same few users."""
    category, made = config.data.category, {}
    for name in RANKERS:
        rerank = replace(config.rerank, ranker=name, epochs=1, batch_size=TRAINED, user_split="inductive")
        where = folder / name
        if name != "scoring":
            finetune(few, few[:1], rerank, load_encoder(rerank, category, items), where)
        else:
            train(RetrieveConfig(model="popularity", hidden=config.retrieve.hidden), sequences, folder / "retriever")
            users = (
                [int(u) for u in sequences.split("test").users[:TRAINED]],
                [int(sequences.split("test").users[TRAINED])],
            )
            felt = np.random.default_rng(0).integers(-2, 3, (len(sequences.flat), 2)).astype(np.float32)
            known = felt if rerank.sentiment != "none" else None
            train_scoring(rerank, category, sequences, known, users, folder / "retriever", None, where)
        made[name] = where / ADAPTER
    return made


def measure(
    config: Config, way: Way, adapters: dict[str, Path], items: pd.DataFrame, asked: Sequence[RerankInput]
) -> Iterator[dict[str, object]]:
    """One row per measurement. PALR is measured twice: while it writes the preferences, and with known preferences."""
    quantization = "nf4" if way.precision == "nf4" else "none"
    rerank = replace(config.rerank, ranker=way.ranker, decode_batch=way.batch, quantization=quantization)
    ranker = load_ranker(rerank, config.data.category, adapters[way.ranker], items)
    if way.ranker == "scoring":
        ranker.model.cache_prefix = way.prefix
    ranker.score(asked[:1])  # the first call loads and allocates
    if way.ranker == "palr":
        ranker.encoder.preferences.texts.clear()
    for known in (False, True) if way.ranker == "palr" else (True,):
        with positions(ranker) as counted:
            started = time.perf_counter(), busy_seconds()
            scored = ranker.score(asked)
            seconds, busy = time.perf_counter() - started[0], busy_seconds() - started[1]
        yield {
            "items as": way.name + (", preference known" if way.ranker == "palr" and known else ""),
            "batch": way.batch,
            "weights": way.precision,
            "tokens a user": counted[0] / len(asked),
            "users a second": len(asked) / seconds,
            "ms a user": 1000 * busy / len(asked),
            "validity": float(np.mean([s.validity for s in scored])),
        }


@contextmanager
def positions(ranker: Ranker) -> Iterator[list[int]]:
    """Counts the positions that go through the LLM's layers, (1,) list."""
    model = ranker.model.llm if isinstance(ranker.model, nn.Module) and hasattr(ranker.model, "llm") else ranker.model
    counted = [0]

    def count(module: nn.Module, arguments: tuple[object, ...], named: dict[str, torch.Tensor]) -> None:
        given = named.get("inputs_embeds") if named.get("inputs_embeds") is not None else named.get("input_ids")
        given = arguments[0] if given is None else given
        counted[0] += given.shape[0] * given.shape[1]

    hook = model.get_base_model().model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counted
    finally:
        hook.remove()


def report(
    config: Config, options: argparse.Namespace, rows: list[dict[str, object]], again: list[dict[str, object]]
) -> str:
    """One table: means of both rounds, and speed and length relative to encoded ids and names in the same batch."""
    frame = pd.concat([pd.DataFrame(rows), pd.DataFrame(again)])
    key = ["items as", "batch", "weights"]
    spread = frame.groupby(key)["ms a user"].agg(lambda v: v.max() / v.min())
    mean = frame.groupby(key, sort=False).mean().reset_index()

    def reference(name: str) -> pd.Series:
        wanted = (mean["items as"] == name) & (mean["batch"] == options.batch) & (mean["weights"] == "float32")
        return mean[wanted].iloc[0]

    for name, short in ((RANKERS["generative"], "ids"), (RANKERS["palr"], "names")):
        to = reference(name)
        mean[f"faster than {short}"] = to["ms a user"] / mean["ms a user"]
        mean[f"fewer tokens than {short}"] = to["tokens a user"] / mean["tokens a user"]
    rerank: RerankConfig = config.rerank
    depth = f"first {rerank.layers} layers" if rerank.layers else "all layers"
    lines = [
        f"{options.users} users of {config.data.name}, {options.candidates} candidates, lists of {rerank.top_k}, "
        f"histories of at most {rerank.max_history} items; {rerank.base}, {depth}, float32 unless noted. "
        f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads, load "
        f"{os.getloadavg()[0]:.1f} at the end. Means of two rounds of opposite order, which differ by a factor of at "
        f"most {spread.max():.2f}. Users per second are wall-clock; ms per user and speed-ups are CPU time per thread "
        f"(wall-clock with a GPU). Ratios refer to a batch of {options.batch}.\n",
        markdown_table(mean),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
