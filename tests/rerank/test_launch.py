"""Two processes of `accelerate launch` on the CPU against one process, on a toy."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sealr.config import ConfigError, load_config, to_dict
from sealr.data.tables import read_json
from sealr.rerank import launch, parallel
from sealr.rerank.launch import finetune
from sealr.retrieve.retriever import save
from sealr.settings import LoraSettings, RerankConfig, ScoringSettings
from tests.rerank.test_finetune import requests
from tests.rerank.test_scoring import retriever
from tests.toys import timeless

ROOT = Path(__file__).resolve().parents[2]
# 10 prompts in batches of 3: the last batch of an epoch has one prompt, and one of the two processes none
TRAIN, VALID = requests(10), requests(5)
JOB = """
import json, sys
from dataclasses import replace
from pathlib import Path
from sealr.config import from_dict
from sealr.settings import RerankConfig
from sealr.rerank.launch import finetune
from tests.rerank.test_launch import TRAIN, VALID
epochs = []
config = from_dict(RerankConfig, json.loads(sys.argv[1]))
output = finetune(TRAIN, VALID, config, "things", Path(sys.argv[2]), lambda epoch, scores: epochs.append([epoch, scores]))
print("result " + json.dumps([output.rows, output.metrics, epochs]))
"""


@pytest.fixture(scope="module")
def config(toy_llama):
    # Without dropout: its masks are drawn by each process for itself
    return RerankConfig(
        "generative",
        base=str(toy_llama),
        lora=LoraSettings(r=8, dropout=0.0),
        lr=1e-2,
        batch_size=3,
        epochs=3,
        patience=9,
        checkpoint_steps=1,
        processes=2,
    )


def start(config, folder):
    """The job in a process that may be killed, as a stage's process may."""
    settings = json.dumps(to_dict(config))
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", JOB, settings, str(folder)]
    return subprocess.Popen(command, env=env, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    said = next(line for line in out.splitlines() if line.startswith("result "))
    rows, metrics, *epochs = json.loads(said.removeprefix("result "))
    return rows, timeless(metrics), *epochs


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def two(config, tmp_path_factory):
    """What two processes made, undisturbed."""
    folder = tmp_path_factory.mktemp("two") / "stage"
    return folder, result(start(config, folder))


def test_two_processes_train_what_one_does(config, two, tmp_path):
    folder, (rows, metrics, epochs) = two
    alone = finetune(TRAIN, VALID, replace(config, processes=1), "things", tmp_path)
    assert rows == alone.rows and metrics == pytest.approx(timeless(alone.metrics), rel=1e-4)
    history = read_json(tmp_path / "history.json")
    assert [n for n, _ in epochs] == [1, 2, 3]
    assert [s for _, s in epochs] == [pytest.approx(h, rel=1e-4) for h in history]
    assert history[-1]["valid_loss"] < 0.9 * history[0]["valid_loss"], "nothing was learned, so nothing was compared"
    one, other = adapter(tmp_path), adapter(folder)
    assert one.keys() == other.keys()
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, rtol=1e-2, atol=1e-4)  # Adam magnifies what is near 0
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {"adapter", "checkpoint", "history.json"}


def test_a_kill_takes_the_processes_along_and_the_next_two_end_the_same(config, two, tmp_path):
    folder, expected = two
    stage = tmp_path / "stage"
    victim = start(config, stage)
    checkpoint = stage / "checkpoint" / "finetune.pt"
    while not checkpoint.exists() and victim.poll() is None:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=120)  # its processes hold the other ends of the pipes
    assert not (stage / "adapter").exists(), "killed too late to test anything"
    deadline = time.monotonic() + 60
    while processes := workers(stage):
        assert time.monotonic() < deadline, f"still running: {processes}"
        time.sleep(0.1)
    assert result(start(config, stage)) == expected
    one, other = adapter(folder), adapter(stage)
    assert all(torch.equal(one[name], other[name]) for name in one)


def workers(stage):
    """Processes that work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if str(stage) in line and "sealr.rerank.launch" in line:
            found.append(line.replace("\0", " "))
    return found


def test_one_process_needs_no_launch(config, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "launch", None)
    seen = []
    one = replace(config, processes=1, epochs=1)
    output = launch.finetune(TRAIN, VALID, one, "things", tmp_path, lambda epoch, _: seen.append(epoch))
    assert output.metrics["epochs"] == 1 and seen == [1] and not (tmp_path / "checkpoint" / "launch.json").exists()


def test_what_the_processes_found_wrong_is_the_error(config, tmp_path, monkeypatch):
    def ends(said, code):
        def launched(processes, job):
            if said:
                job.with_name(launch.RESULT).write_text(said)
            return code

        monkeypatch.setattr(launch, "launch", launched)
        return lambda: launch.finetune(TRAIN, VALID, config, "things", tmp_path)

    with pytest.raises(ValueError, match="lower rerank.lr"):
        ends('{"error": "not so: lower rerank.lr"}', 0)()
    with pytest.raises(FloatingPointError, match="not finite"):
        ends('{"diverged": "the loss is not finite"}', 0)()
    with pytest.raises(ChildProcessError, match="2 processes ended with code 1"):
        ends("", 1)()


def test_more_processes_than_prompts_in_a_batch_are_refused():
    with pytest.raises(ConfigError, match="rerank.processes .20. is more than rerank.batch_size .4."):
        load_config("demo", "smollm2-135m", "rerank.processes=20 rerank.batch_size=4")


def test_shares_are_a_partition(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 3)
    parts = []
    for number in range(3):
        monkeypatch.setattr(parallel, "rank", lambda n=number: n)
        parts += [*parallel.share([1, 2, 3, 4]), *parallel.share([5])]
    assert sorted(parts) == [1, 2, 3, 4, 5]


SCORING = """
import json, sys
from pathlib import Path
from sealr.config import from_dict
from sealr.settings import RerankConfig
from sealr.rerank.launch import train_scoring
from tests.rerank.test_scoring import walks
sequences, feelings = walks(24)
users = list(range(20)), list(range(20, 24))
config = from_dict(RerankConfig, json.loads(sys.argv[1]))
output = train_scoring(config, "things", sequences, feelings, users, Path(sys.argv[3]), None, Path(sys.argv[2]))
print("result " + json.dumps([output.rows, output.metrics]))
"""


def test_two_processes_train_the_scoring_ranker_as_one_does(config, tmp_path):
    save(retriever(), tmp_path / "retriever", {})
    made = {}
    for processes in (1, 2):
        chosen = replace(config, ranker="scoring", processes=processes, scoring=ScoringSettings(dropout=0.0))
        command = [sys.executable, "-c", SCORING, json.dumps(to_dict(chosen)), str(tmp_path / str(processes)), str(tmp_path / "retriever")]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        made[processes] = result(subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    assert made[1][0] == made[2][0] and made[2][1] == pytest.approx(made[1][1], rel=1e-2)
    first, second = (load_file(tmp_path / n / "adapter" / "soft_tokens.safetensors") for n in ("1", "2"))
    for name, values in first.items():
        torch.testing.assert_close(second[name], values, rtol=5e-2, atol=5e-3)  # Adam magnifies what is near 0
