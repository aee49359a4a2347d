import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sealr.rerank import training
from sealr.rerank.generative.finetune import Encoder, answer_loss, finetune
from sealr.rerank.generative.prompts import answer_tokens
from sealr.rerank.llm import AdapterError, add_lora, load_adapter
from sealr.rerank.requests import RerankInput
from sealr.rerank.training import schedule
from sealr.settings import LoraSettings, RerankConfig
from tests.toys import timeless


def requests(n):
    """Users whose answer is always the candidate 7 after the history 3, 4: something to learn."""
    felt = [[2, 1.8], [-1, -1.2], [0, 0.1]]
    return [RerankInput([3, 4, 10 + i % 5], felt, [7, 11, 12, 13, 20 + i % 9], answer=[7, 11]) for i in range(n)]


@pytest.fixture
def config(toy_llama):
    return RerankConfig(base=str(toy_llama), lora=LoraSettings(r=8), lr=1e-2, batch_size=4, epochs=4)


def encoder(config):
    return Encoder(AutoTokenizer.from_pretrained(config.base), config, "things")


def test_loss_goes_down_and_the_adapter_round_trips(config, tmp_path):
    losses = []
    output = finetune(
        requests(24), requests(6), config, encoder(config), tmp_path, lambda _, m: losses.append(m["valid_loss"])
    )
    assert losses[-1] < losses[0] * 0.8
    assert output.metrics["valid_loss"] == min(losses)
    model = load_adapter(config, tmp_path / "adapter")
    with torch.inference_mode():
        loss = answer_loss(model, *encoder(config).batch(requests(6))).mean().item()
    assert loss == pytest.approx(min(losses), rel=1e-3)


def test_a_number_of_epochs_replaces_the_users_to_validate_on(config, tmp_path):
    config = replace(config, patience=9)
    output = finetune(requests(24), requests(6), config, encoder(config), tmp_path / "a", lambda *_: None)
    known = finetune(requests(24), [], config, encoder(config), tmp_path / "b", stop=int(output.metrics["best_epoch"]))
    assert known.rows["valid_users"] == 0 and known.metrics["epochs"] == output.metrics["best_epoch"]
    one, other = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="users for training and for validation, got 24 and 0"):
        finetune(requests(24), [], config, encoder(config), tmp_path / "c")


def test_only_answer_tokens_carry_loss(config):
    writer = encoder(config)
    one, two = [[0, 0]], [[0, 0], [1, 1]]
    batch = [RerankInput([1], one, [7, 8], answer=[7, 8]), RerankInput([1, 2], two, [123, 8], answer=[123])]
    ids, mask, labels = writer.batch(batch)
    torch.manual_seed(0)
    model = add_lora(config).eval()
    per_token = answer_loss(model, ids, mask, labels)
    assert len(per_token) == len(answer_tokens(writer.ids, [7, 8])) + len(answer_tokens(writer.ids, [123]))
    with torch.no_grad():
        logits = model(input_ids=ids[1:], attention_mask=mask[1:]).logits.log_softmax(-1)
    answer = answer_tokens(writer.ids, [123])
    by_hand = [-logits[0, ids.shape[1] - len(answer) - 1 + i, token].item() for i, token in enumerate(answer)]
    assert per_token[-len(answer) :].tolist() == pytest.approx(by_hand, abs=1e-4)


def test_candidate_order_hides_the_retriever(config):
    """The order of a prompt changes between epochs, and only then."""
    request = RerankInput([1, 2], [[0, 0], [0, 0]], list(range(30, 50)))
    writer = encoder(config)
    assert writer.prompt(request, 0) == writer.prompt(request, 0) != writer.prompt(request, 1)
    orders = [writer.shuffled_pool(request, epoch) for epoch in range(3)]
    assert all(sorted(order) == request.pool != order for order in orders)


def test_untrained_adapter_is_refused(config, tmp_path):
    add_lora(config).save_pretrained(str(tmp_path))
    with pytest.raises(AdapterError, match="changes nothing"):
        load_adapter(config, tmp_path)


def test_adapter_of_other_layers_is_refused(config, tmp_path):
    finetune(requests(8), requests(4), replace(config, epochs=1), encoder(config), tmp_path)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    from safetensors.torch import save_file

    save_file({k.replace("layers.0", "layers.9"): v for k, v in load_file(weights).items()}, weights)
    with pytest.raises(AdapterError, match="does not fit"):
        load_adapter(config, tmp_path / "adapter")


def test_nothing_to_train_on_is_an_error(config, tmp_path):
    with pytest.raises(ValueError, match="raise rerank.finetune_share"):
        finetune([], requests(1), config, encoder(config), tmp_path)


def test_four_bit_base_trains(config, tmp_path):
    output = finetune(
        requests(8), requests(4), replace(config, quantization="nf4", epochs=2), encoder(config), tmp_path
    )
    assert output.metrics["valid_loss"] > 0 and (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_four_bit_gradients_are_the_same_after_a_validation(config):
    """bitsandbytes may repack weights when they are used without gradients, to what has no backward pass."""
    model = add_lora(replace(config, quantization="nf4", lora=replace(config.lora, dropout=0.0)))
    ids = torch.arange(1, 21)[None]

    def gradients():
        model.zero_grad()
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    before = gradients()
    with torch.inference_mode():
        model.eval()(input_ids=ids)
    assert before.abs().sum() > 0 and torch.equal(gradients(), before)


def test_schedule_warms_up_then_decays():
    values = [schedule(s, 100) for s in range(100)]
    assert values[0] == pytest.approx(0.1) and max(values) == 1.0 and values[9] == 1.0 and values[-1] < 0.15


def test_a_loss_that_is_not_finite_names_the_setting(config, tmp_path):
    with pytest.raises(FloatingPointError, match="lower rerank.lr"):
        finetune(requests(24), requests(4), replace(config, lr=1e30), encoder(config), tmp_path)


def test_a_run_that_is_interrupted_within_an_epoch_ends_with_the_same_adapter(config, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", 2)
    expected = finetune(requests(24), requests(6), config, encoder(config), tmp_path / "a")

    class Interrupted(Encoder):
        batches = 0

        def batch(self, requests, epoch=0):
            self.batches += 1
            if (
                self.batches == 12
            ):  # the fourth step of the second epoch: six steps and two validation batches precede it
                raise KeyboardInterrupt
            return super().batch(requests, epoch)

    tokenizer = AutoTokenizer.from_pretrained(config.base)
    with pytest.raises(KeyboardInterrupt):
        finetune(requests(24), requests(6), config, Interrupted(tokenizer, config, "things"), tmp_path / "b")
    assert torch.load(tmp_path / "b" / "checkpoint" / "finetune.pt")["progress"]["step"] == 8
    again = finetune(requests(24), requests(6), config, encoder(config), tmp_path / "b")
    assert timeless(again.metrics) == timeless(expected.metrics)
    one, other = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)


KILLED = """
import sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from sealr.settings import RerankConfig, LoraSettings
from sealr.rerank.generative.finetune import finetune
from tests.rerank.test_finetune import encoder, requests
config = RerankConfig(base=sys.argv[1], lora=LoraSettings(r=8), lr=1e-2, batch_size=4, epochs=4, patience=9)
output = finetune(requests(24), requests(6), config, encoder(config), Path(sys.argv[2]))
print(json.dumps(output.metrics))
"""


@pytest.mark.slow
def test_sigkill_in_the_middle_then_the_same_adapter(toy_llama, tmp_path):
    root = str(Path(__file__).resolve().parents[2])

    def start(folder):
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(toy_llama), str(folder), root], stdout=subprocess.PIPE, cwd=root
        )

    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    expected = json.loads(start(undisturbed).communicate()[0])
    victim = start(disturbed)
    checkpoint = disturbed / "checkpoint" / "finetune.pt"
    while not checkpoint.exists() and victim.poll() is None:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not (disturbed / "adapter").exists(), "killed too late to test anything"
    assert timeless(json.loads(start(disturbed).communicate()[0])) == timeless(expected)
    one, other = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (undisturbed, disturbed))
    assert all(torch.equal(one[k], other[k]) for k in one)
