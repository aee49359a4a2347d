"""Compares ``sealr run --dry-run`` with a short real training, for the rankers that write lists.

    python -m benchmarks.plan --data demo --set "rerank.ranker=generative rerank.user_split=inductive"

Prints a Markdown table with predicted and measured parameters, seconds per step and peak memory of the process. On a
CPU, seconds are CPU time per thread.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import numpy as np
import torch

from sealr.config import load_config
from sealr.evaluate.protocols import split_users
from sealr.pipeline.dryrun import local_tables
from sealr.rerank.generative.finetune import Instructions
from sealr.rerank.llm import add_lora, count_parameters, load_base
from sealr.rerank.plan import busy_seconds, machine_rates, plan, shape_of, workload
from sealr.rerank.rankers import load_encoder
from sealr.rerank.requests import RerankInput
from sealr.rerank.training import CLIP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--set", default="rerank.ranker=generative", help="overrides")
    parser.add_argument("--steps", type=int, default=5, help="training steps measured, after a first one that is not")
    options = parser.parse_args()
    config = load_config(options.data, options.base, options.set)
    rerank, shape = config.rerank, shape_of(config.rerank.base)
    sequences, items = local_tables(config.data)
    work = workload(config, shape, sequences, items)
    before = machine_rates(rerank, shape)

    encoder = load_encoder(rerank, config.data.category, items)
    train = requests(config, sequences)[: (options.steps + 1) * rerank.batch_size]
    encoder.prepare(train, lambda: load_base(rerank).eval())
    task = Instructions(add_lora(rerank), encoder, train, train[:1])
    trained = [p for p in task.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rerank.lr)
    task.model.train()
    seconds, wall = [], []
    for rows in task.batches(0):
        started = time.perf_counter(), busy_seconds()
        task.loss(rows, rows, 0)[0].backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wall.append(time.perf_counter() - started[0])
        seconds.append(busy_seconds() - started[1])
    after = machine_rates(rerank, shape)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    counted = count_parameters(task.model)
    kept = [plan(rerank, shape, work, rates) for rates in (before, after)]
    steps = " to ".join(f"{s:.2f}" for s in sorted(p.step_seconds for p in kept))
    print(
        f"{rerank.base}, {rerank.ranker}, {rerank.dtype}, quantization {rerank.quantization}, "
        f"batch {rerank.batch_size}, ",
        end="",
    )
    print(
        f"{work.tokens:.0f} tokens per prompt; {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, ",
        end="",
    )
    print(f"{np.median(wall[1:]):.2f} s per step by the clock\n")
    print("| | predicted | measured |\n|---|---:|---:|")
    print(f"| parameters | {kept[0].parameters:,} | {counted['parameters']:,} |")
    print(f"| trained | {kept[0].trainable:,} | {counted['trainable_parameters']:,} |")
    print(
        f"| seconds per step | {steps} | {np.median(seconds[1:]):.2f} "
        f"({min(seconds[1:]):.2f} to {max(seconds[1:]):.2f}) |"
    )
    print(f"| peak memory, GB | {kept[0].peak_bytes / 1e9:.2f} | {peak / 1e9:.2f} |")


def requests(config, sequences) -> list[RerankInput]:
    """Training requests of the inductive split; candidates are random because only their number matters."""
    names = [sequences.users[u] for u in sequences.split("test").users]
    rng = np.random.default_rng(0)
    split = split_users(names, config.rerank.finetune_share, config.rerank.valid_share, config.evaluate.seed)
    made = []
    for row in sequences.rows(split.train):
        *history, second, last = sequences.sequence(row).tolist()
        pool = rng.choice(sequences.n_items, min(config.rerank.n_reranked, sequences.n_items), replace=False) + 1
        made.append(RerankInput(history, np.full((len(history), 2), 2), pool.tolist(), answer=[last, second]))
    return made


if __name__ == "__main__":
    main()
