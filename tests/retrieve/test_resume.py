"""A training that is killed and started again ends with the same bits as one that was not."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from sealr.config import to_dict
from sealr.data.manifest import CHECKPOINT
from sealr.data.tables import read_json
from sealr.retrieve.train import train

SCRIPT = """
import json, sys, time
from pathlib import Path
import numpy as np
from sealr.config import from_dict
from sealr.settings import RetrieveConfig
from sealr.data.sequences import Sequences
from sealr.retrieve import train as module
loss = module.softmax_loss
def slow_loss(*tensors):
    time.sleep(0.05)  # 5 steps an epoch: the signal comes in the middle of one
    return loss(*tensors)
module.softmax_loss = slow_loss
given = json.load(sys.stdin)
config = from_dict(RetrieveConfig, given["config"])
sequences = Sequences(given["users"], given["items"], np.array(given["flat"]), np.array(given["offsets"]))
module.train(config, sequences, Path(sys.argv[1]), lambda epoch, metrics: print(epoch, flush=True))
"""


@pytest.mark.slow
def test_sigkill_and_resume_is_bit_identical(tmp_path, cycle, quick):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # as many threads as here: the partial sums of two threads are not those of one
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    given = {
        "config": to_dict(quick),
        "users": cycle.users,
        "items": cycle.items,
        "flat": cycle.flat.tolist(),
        "offsets": cycle.offsets.tolist(),
    }
    command = [sys.executable, "-c", SCRIPT, str(killed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        process.stdin.write(json.dumps(given).encode())
        process.stdin.close()
        expected = train(quick, cycle, whole)
        for line in process.stdout:
            if int(line) == 5:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert (killed / CHECKPOINT).exists() and not (killed / "retriever.json").exists()
    epochs = []
    assert train(quick, cycle, killed, lambda epoch, _: epochs.append(epoch)) == expected
    assert epochs[0] >= 6 and epochs[-1] == expected.metrics["epochs"]  # it went on, it did not start anew
    for name in ("sasrec.safetensors", "history.json", "retriever.json", "popularity.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_finished_training_is_not_repeated(tmp_path, cycle, quick):
    first = train(quick, cycle, tmp_path)
    history, called = read_json(tmp_path / "history.json"), []
    assert train(quick, cycle, tmp_path, lambda *_: called.append(1)) == first
    assert not called and read_json(tmp_path / "history.json") == history
