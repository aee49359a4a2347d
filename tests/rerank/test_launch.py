"""Two processes on the CPU against one process, on a toy."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from sealr.config import ConfigError, load_config, to_dict
from sealr.data.manifest import StageResult
from sealr.data.tables import read_json
from sealr.rerank.generative.finetune import Encoder, finetune
from sealr.rerank.launch import Processes, launch
from sealr.rerank.llm import load_tokenizer
from sealr.rerank.scoring.train import train_scoring
from sealr.retrieve.retriever import save
from sealr.settings import LoraSettings, RerankConfig, ScoringSettings
from tests.rerank.test_finetune import requests
from tests.rerank.test_scoring import retriever, walks
from tests.toys import timeless

ROOT = Path(__file__).resolve().parents[2]
# 10 prompts in batches of 3: the last batch of an epoch has one prompt, so one of two processes has none
TRAIN, VALID = requests(10), requests(5)
JOB = """
import json, sys
from pathlib import Path
from sealr.config import from_dict
from sealr.settings import RerankConfig
from tests.rerank.test_launch import tune

rows, metrics, epochs = tune(from_dict(RerankConfig, json.loads(sys.argv[1])), Path(sys.argv[2]))
print("result " + json.dumps([rows, metrics, epochs]))
"""


@pytest.fixture(scope="module")
def config(toy_llama):
    # Without dropout, whose masks differ between processes
    lora = LoraSettings(r=8, dropout=0.0)
    return RerankConfig(
        "generative",
        base=str(toy_llama),
        lora=lora,
        lr=1e-2,
        batch_size=3,
        epochs=3,
        patience=9,
        processes=2,
        user_split="inductive",
    )


def tune(config, folder):
    """Row counts, metrics and the reported epochs of a fine-tuning."""
    epochs = []
    encoder = Encoder(load_tokenizer(config.base), config, "things")

    def on_epoch(epoch, scores):
        epochs.append([epoch, {name: value for name, value in scores.items() if name != "seconds"}])

    arguments = (TRAIN, VALID, config, encoder, folder)
    output = launch(finetune, *arguments, processes=config.processes, on_epoch=on_epoch)
    return output.rows, timeless(output.metrics), epochs


def start(config, folder):
    """The job in a process that can be killed."""
    settings = json.dumps(to_dict(config))
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", JOB, settings, str(folder)]
    return subprocess.Popen(
        command, env=env, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    line = next(line for line in out.splitlines() if line.startswith("result "))
    return json.loads(line.removeprefix("result "))


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def two(config, tmp_path_factory):
    """The folder and the results of two undisturbed processes."""
    folder = tmp_path_factory.mktemp("two") / "stage"
    return folder, result(start(config, folder))


@pytest.mark.slow
def test_two_processes_train_what_one_does(config, two, tmp_path):
    folder, (rows, metrics, epochs) = two
    one_rows, one_metrics, _ = tune(replace(config, processes=1), tmp_path)
    assert rows == one_rows and metrics == pytest.approx(one_metrics, rel=1e-4)
    history = read_json(tmp_path / "history.json")
    assert [n for n, _ in epochs] == [1, 2, 3]
    assert [scores for _, scores in epochs] == [pytest.approx(entry, rel=1e-4) for entry in history]
    assert history[-1]["valid_loss"] < 0.9 * history[0]["valid_loss"], "nothing was learned, so nothing was compared"
    one, other = adapter(tmp_path), adapter(folder)
    assert one.keys() == other.keys()
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, rtol=1e-2, atol=1e-4)  # Adam magnifies what is near 0
    visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert visible == {"adapter", "checkpoint", "history.json"}


@pytest.mark.slow
def test_a_kill_ends_the_processes_and_the_next_ones_finish_with_the_same_adapter(config, two, tmp_path):
    folder, expected = two
    stage = tmp_path / "stage"
    victim = start(config, stage)
    checkpoint = stage / "checkpoint" / "finetune.pt"
    while not checkpoint.exists() and victim.poll() is None:
        time.sleep(0.01)
    workers = psutil.Process(victim.pid).children(recursive=True)
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=120)
    assert len(workers) >= 2 and not (stage / "adapter").exists(), "killed too late to test anything"
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    rows, metrics, epochs = result(start(config, stage))
    assert [rows, metrics] == expected[:2] and epochs == expected[2][3 - len(epochs) :]
    one, other = adapter(folder), adapter(stage)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_two_processes_train_the_scoring_ranker_as_one_does(config, tmp_path):
    save(retriever(), tmp_path / "retriever", {})
    sequences, feelings = walks(24)
    users, made = (list(range(20)), list(range(20, 24))), {}
    for processes in (1, 2):
        settings = replace(config, ranker="scoring", processes=processes, scoring=ScoringSettings(dropout=0.0))
        arguments = (settings, "things", sequences, feelings, users, tmp_path / "retriever", None)
        made[processes] = launch(train_scoring, *arguments, tmp_path / str(processes), processes=processes)
    assert made[1].rows == made[2].rows
    assert timeless(made[2].metrics) == pytest.approx(timeless(made[1].metrics), rel=1e-2)
    first, second = (load_file(tmp_path / n / "adapter" / "soft_tokens.safetensors") for n in ("1", "2"))
    for name, values in first.items():
        torch.testing.assert_close(second[name], values, rtol=5e-2, atol=5e-3)  # Adam magnifies what is near 0


def summed(on_epoch=None, processes=None):
    total = processes.sum_gradients([], torch.tensor(1.0 + processes.rank))
    return StageResult({"size": processes.size, "sum": int(total)})


def test_two_processes_are_one_group():
    assert launch(summed, processes=2).rows == {"size": 2, "sum": 3}


def process_id(on_epoch=None, processes=None):
    return StageResult({"process": os.getpid()})


def test_one_process_is_this_one():
    assert launch(process_id).rows == {"process": os.getpid()}


def failure(kind, on_epoch=None, processes=None):
    """Process 1 fails while process 0 waits for its gradients."""
    if processes.rank == 0:
        processes.sum_gradients([], torch.zeros(1))
    if kind == "exit":
        os._exit(3)
    raise {"value": ValueError, "diverged": FloatingPointError, "other": KeyError}[kind]("the reason")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, error, match",
    [
        ("value", ValueError, "^the reason$"),
        ("diverged", FloatingPointError, "^the reason$"),
        ("other", ChildProcessError, "in 2 processes.*KeyError: 'the reason'"),
        ("exit", ChildProcessError, "in 2 processes.*exit code 3|in 2 processes.*closed"),
    ],
)
def test_the_failure_of_one_process_ends_all_with_its_message(kind, error, match):
    with pytest.raises(error, match=f"(?s){match}"):
        launch(failure, kind, processes=2)


def test_more_processes_than_prompts_in_a_batch_are_refused():
    with pytest.raises(ConfigError, match="rerank.processes .20. is more than rerank.batch_size .4."):
        load_config("demo", "smollm2-135m", "rerank.processes=20 rerank.batch_size=4")


def test_shards_are_a_partition():
    parts = []
    for number in range(3):
        one = Processes.__new__(Processes)
        one.rank, one.size = number, 3
        parts += [*one.shard([1, 2, 3, 4]), *one.shard([5])]
    assert sorted(parts) == [1, 2, 3, 4, 5]
