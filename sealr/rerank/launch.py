"""Fine-tuning in ``rerank.processes`` processes, one a GPU, through ``accelerate launch``; in one process without it.

The stage stays one piece of work in one process, which holds its lock and writes its manifest. Here it hands its inputs
over in files and waits. The processes run the trainer on the same folder; number 0 writes checkpoints and
adapter, so a run that was killed continues as one in a single process does.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import distributed

from sealr.config import from_dict, to_dict
from sealr.data.manifest import CHECKPOINT, StageResult
from sealr.data.sequences import Sequences
from sealr.data.tables import atomic_path, read_json, write_json
from sealr.rerank.generative import finetune as trainer
from sealr.rerank import parallel
from sealr.rerank.scoring import train as scoring
from sealr.rerank.fit import OnEpoch
from sealr.rerank.llm import load_tokenizer
from sealr.rerank.generative.prompts import RerankInput
from sealr.retrieve.train import load
from sealr.settings import RerankConfig

log = logging.getLogger(__name__)
JOB, RESULT = "launch.json", "launched.json"  # in the checkpoint folder: what is to be done, and what came out
LAST_WORDS = 30.0  # seconds that the processes have to end


def finetune(
    train: Sequence[RerankInput],
    valid: Sequence[RerankInput],
    config: RerankConfig,
    category: str,
    folder: Path,
    on_epoch: OnEpoch | None = None,
) -> StageResult:
    """`sealr.rerank.generative.finetune.finetune` with encoded ids, in as many processes as configured."""
    if config.processes == 1:
        return _generative(train, valid, config, category, folder, on_epoch)
    prompts = {name: [vars(r) for r in part] for name, part in (("train", train), ("valid", valid))}
    return _in_processes(config, category, folder, prompts, {}, on_epoch)


def train_scoring(
    config: RerankConfig,
    category: str,
    sequences: Sequences,
    feelings: np.ndarray | None,
    users: tuple[list[int], list[int]],
    retriever: Path,
    content: np.ndarray | None,
    folder: Path,
    on_epoch: OnEpoch | None = None,
) -> StageResult:
    """`sealr.rerank.scoring.train.train_scoring`, in as many processes as configured. retriever: the folder of a trained one."""
    if config.processes == 1:
        texts = None if content is None else torch.from_numpy(content)
        return scoring.train_scoring(config, category, sequences, feelings, users, load(retriever), texts, folder, on_epoch)
    arrays = {"flat": sequences.flat, "offsets": sequences.offsets, "items": np.array(sequences.items)}
    arrays |= {name: values for name, values in (("feelings", feelings), ("content", content)) if values is not None}
    return _in_processes(config, category, folder, {"users": users, "retriever": str(retriever)}, arrays, on_epoch)


def _generative(
    train: Sequence[RerankInput],
    valid: Sequence[RerankInput],
    config: RerankConfig,
    category: str,
    folder: Path,
    on_epoch: OnEpoch | None = None,
) -> StageResult:
    encoder = trainer.Encoder(load_tokenizer(config.base), config, category)
    return trainer.finetune(train, valid, config, encoder, folder, on_epoch)


def _in_processes(
    config: RerankConfig,
    category: str,
    folder: Path,
    inputs: dict[str, Any],
    arrays: dict[str, np.ndarray],
    on_epoch: OnEpoch | None,
) -> StageResult:
    """Hands the work over in files and waits; epochs are reported at the end.

    Raises what the processes raised, ValueError or FloatingPointError, and ChildProcessError where they ended without a word.
    """
    if torch.cuda.is_available() and config.processes > torch.cuda.device_count():
        raise ValueError(f"rerank.processes is {config.processes}, but this machine has {torch.cuda.device_count()} GPUs")
    job, result = folder / CHECKPOINT / JOB, folder / CHECKPOINT / RESULT
    result.unlink(missing_ok=True)
    with atomic_path(job.with_suffix(".npz")) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    write_json({"config": to_dict(config), "category": category, "folder": str(folder)} | inputs, job)
    code = launch(config.processes, job)
    said = read_json(result) if result.exists() else {}
    for kind, error in (("error", ValueError), ("diverged", FloatingPointError)):
        if kind in said:
            raise error(said[kind])
    if code or not said:
        raise ChildProcessError(f"fine-tuning in {config.processes} processes ended with code {code}; what they said is above")
    for epoch, scores in enumerate(read_json(folder / "history.json"), start=1):
        if on_epoch:
            on_epoch(epoch, scores)
    return StageResult(**said)


def launch(processes: int, job: Path) -> int:
    """Runs `main` on a job in that many processes of this machine and returns the exit code. They end when this one does."""
    options = {"num_processes": processes, "num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}
    # Port 0: a free one. Without a GPU the same option starts processes that talk over the CPU's backend (gloo)
    flags = ["--multi_gpu", "--main_process_port=0", *(f"--{name}={value}" for name, value in options.items())]
    arguments = [sys.executable, "-m", "accelerate.commands.launch", *flags, "-m", __name__, str(job)]
    child = subprocess.Popen(arguments, stdin=subprocess.PIPE)
    try:
        return child.wait()
    finally:
        child.stdin.close()
        try:
            child.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            child.kill()


def leave_with_parent() -> None:
    """Ends this process when the one that launched it has ended, even by SIGKILL: its end of the pipe is closed then."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def main(job: Path) -> None:
    """One of the processes."""
    threading.Thread(target=leave_with_parent, daemon=True, name="leave").start()
    PartialState()  # joins the process group and chooses this process's GPU
    if parallel.rank() == 0:
        logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
        logging.getLogger("sealr").setLevel(logging.INFO)
    try:
        said = vars(work(job))
    except (ValueError, FloatingPointError) as error:
        said = {"error" if isinstance(error, ValueError) else "diverged": str(error)}
    if parallel.rank() == 0:
        write_json(said, job.with_name(RESULT))
    distributed.destroy_process_group()


def work(job: Path) -> StageResult:
    """What was handed over, in this process."""
    values = read_json(job)
    config, category, folder = from_dict(RerankConfig, values["config"]), values["category"], Path(values["folder"])
    if config.ranker != "scoring":
        train, valid = ([RerankInput(**r) for r in values[name]] for name in ("train", "valid"))
        return _generative(train, valid, config, category, folder)
    with np.load(job.with_suffix(".npz"), allow_pickle=False) as file:
        arrays = dict(file)
    offsets = arrays["offsets"]
    sequences = Sequences([str(u) for u in range(len(offsets) - 1)], arrays["items"].tolist(), arrays["flat"], offsets)
    texts = torch.from_numpy(arrays["content"]) if "content" in arrays else None
    retriever = load(Path(values["retriever"]))
    return scoring.train_scoring(
        config, category, sequences, arrays.get("feelings"), tuple(values["users"]), retriever, texts, folder
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
