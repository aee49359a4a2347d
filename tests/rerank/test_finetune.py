import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sealr.rerank.generative.finetune import Encoder, answer_loss, finetune
from sealr.rerank.fit import fit, schedule
from sealr.rerank.llm import AdapterError, add_lora, load_adapter
from sealr.rerank.generative.prompts import RerankInput
from sealr.settings import LoraSettings, RerankConfig
from tests.toys import timeless


def requests(n):
    """Users whose answer is always the candidate 7 after the history 3, 4: something to learn."""
    return [RerankInput([3, 4, 10 + i % 5], [2, -1, 0], [7, 11, 12, 13, 20 + i % 9], answer=[7, 11]) for i in range(n)]


@pytest.fixture
def config(toy_llama):
    return RerankConfig(base=str(toy_llama), lora=LoraSettings(r=8), lr=1e-2, batch_size=4, epochs=4, checkpoint_steps=1)


def encoder(config):
    return Encoder(AutoTokenizer.from_pretrained(config.base), config, "things")


def test_loss_goes_down_and_the_adapter_round_trips(config, tmp_path):
    losses = []
    output = finetune(requests(24), requests(6), config, encoder(config), tmp_path, lambda _, m: losses.append(m["valid_loss"]))
    assert losses[-1] < losses[0] * 0.8
    assert output.metrics["valid_loss"] == min(losses)
    model = load_adapter(config, tmp_path / "adapter")
    with torch.inference_mode():
        loss = answer_loss(model, *encoder(config).batch(requests(6))).mean().item()
    assert loss == pytest.approx(min(losses), rel=1e-3)


def test_only_answer_tokens_carry_loss(config):
    writer = encoder(config)
    batch = [RerankInput([1], [0], [7, 8], answer=[7, 8]), RerankInput([1, 2], [0, 1], [123, 8], answer=[123])]
    ids, mask, labels = writer.batch(batch)
    torch.manual_seed(0)
    model = add_lora(config).eval()
    per_token = answer_loss(model, ids, mask, labels)
    assert len(per_token) == len(writer.ids.answer([7, 8])) + len(writer.ids.answer([123]))
    with torch.no_grad():
        logits = model(input_ids=ids[1:], attention_mask=mask[1:]).logits.log_softmax(-1)
    answer = writer.ids.answer([123])
    by_hand = [-logits[0, ids.shape[1] - len(answer) - 1 + i, token].item() for i, token in enumerate(answer)]
    assert per_token[-len(answer) :].tolist() == pytest.approx(by_hand, abs=1e-4)


def test_candidate_order_hides_the_retriever(config):
    """Shuffled orders change between epochs; the retriever's order is kept when asked for."""
    request = RerankInput([1, 2], [0, 0], list(range(30, 50)))
    shuffled = encoder(config)
    assert shuffled.prompt(request, 0) == shuffled.prompt(request, 0) != shuffled.prompt(request, 1)
    kept = encoder(replace(config, candidate_order="retriever"))
    assert "Candidate list: " + ",".join(map(str, range(30, 50))) in kept.tokenizer.decode(kept.prompt(request))


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
    output = finetune(requests(8), requests(4), replace(config, quantization="nf4", epochs=2), encoder(config), tmp_path)
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


def test_a_gradient_that_is_not_finite_ends_the_training(tmp_path):
    class Root:
        model, weight_decay = torch.nn.Linear(1, 1, bias=False), 0.0

        def batches(self, epoch):
            return [np.arange(1)]

        def loss(self, rows, batch, epoch):
            return (0 * self.model.weight).sqrt().sum()  # 0, with a slope that is no number

    with pytest.raises(FloatingPointError, match="lower rerank.lr"):
        fit(Root(), RerankConfig(), tmp_path)
    assert not (tmp_path / "checkpoint").exists()


KILLED = """
import sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from sealr.settings import RerankConfig, LoraSettings
from sealr.rerank.generative.finetune import finetune
from tests.rerank.test_finetune import encoder, requests
config = RerankConfig(base=sys.argv[1], lora=LoraSettings(r=8), lr=1e-2, batch_size=4, epochs=4, checkpoint_steps=1, patience=9)
output = finetune(requests(24), requests(6), config, encoder(config), Path(sys.argv[2]))
print(json.dumps(output.metrics))
"""


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
