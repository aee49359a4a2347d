from dataclasses import replace

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from sealr.config import ConfigError
from sealr.data.sequences import Sequences
from sealr.rerank.generative.finetune import Encoder, answer_loss
from sealr.rerank.generative.prompts import RerankInput
from sealr.rerank.llm import add_lora
from sealr.rerank.plan import (
    SHAPES,
    Rates,
    Workload,
    machine_rates,
    plan,
    shape_of,
    text,
    token_counter,
    workload,
)
from sealr.settings import Config, DataConfig, EvaluateConfig, LoraSettings, RerankConfig

RATES = Rates(1e11, 1e10, "a test")
LLAMA = "meta-llama/Llama-2-7b-hf"


def work(**changes):
    values = {
        "prompts": 100,
        "valid_prompts": 5,
        "tokens": 300.0,
        "answer": 10.0,
        "choices": 32000,
        "width": 4096,
        "soft": 0,
    }
    return Workload(**(values | {"read_once": 0.0, "source": "a test"} | changes))


@pytest.fixture
def config(toy_llama):
    return RerankConfig(base=str(toy_llama), ranker="generative", lora=LoraSettings(r=8, alpha=16, dropout=0.05))


def test_counts_of_the_papers_model_are_the_published_ones():
    """6.74 billion parameters; LoRA of rank 8 on all linear layers trains 20 million."""
    llama = RerankConfig(base=LLAMA, quantization="nf4", dtype="bfloat16", lora=LoraSettings(r=8, alpha=16))
    made = plan(llama, SHAPES[LLAMA], work(), RATES)
    assert made.parameters - made.trainable == 6_738_415_616
    assert made.trainable == 19_988_480
    assert 3.5e9 < made.weight_bytes < 4.2e9
    full = plan(replace(llama, quantization="none"), SHAPES[LLAMA], work(), RATES)
    assert full.weight_bytes == 2 * 6_738_415_616


@pytest.mark.parametrize("layers", [0, 1])
def test_parameters_are_those_of_the_model(config, layers):
    config = replace(config, layers=layers)
    model = add_lora(config)
    made = plan(config, shape_of(config.base), work(), RATES)
    assert made.parameters == sum(p.numel() for p in model.parameters())
    assert made.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_kept_bytes_are_what_autograd_keeps(config):
    """Frozen weights, which are kept as well, are there anyway and do not count."""
    encoder = Encoder(AutoTokenizer.from_pretrained(config.base), config, "things")
    batch = [RerankInput(list(range(1, 30)), [[0, 0]] * 29, list(range(40, 90)), answer=[41, 42])] * 4
    ids, mask, labels = encoder.batch(batch)
    model = add_lora(config).train()
    weights, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        answer_loss(model, ids, mask, labels).mean()
    shape = shape_of(config.base)
    tokens, answer = float(mask.sum() / 4), float(labels.shape[1])
    known = work(prompts=4, tokens=tokens, answer=answer, choices=shape.vocab_size)
    counted = sum(size for size, _ in kept.values())
    assert plan(config, shape, known, RATES).kept_bytes == pytest.approx(counted, rel=0.2)


def test_time_and_memory_grow_with_the_work():
    shape, config = SHAPES["HuggingFaceTB/SmolLM2-135M-Instruct"], RerankConfig(ranker="generative")
    small = plan(config, shape, work(), RATES)
    assert plan(config, shape, work(prompts=200), RATES).hours > 1.8 * small.hours
    assert plan(config, shape, work(tokens=600.0), RATES).kept_bytes > 1.9 * small.kept_bytes
    assert plan(replace(config, layers=15), shape, work(), RATES).step_seconds < 0.6 * small.step_seconds
    assert plan(config, shape, work(read_once=200.0), RATES).hours > small.hours
    with_table = plan(config, shape, work(soft=10**6), RATES)
    assert (
        with_table.trainable == small.trainable + 10**6 and with_table.adapter_bytes == small.adapter_bytes + 16 * 10**6
    )


def test_a_base_that_is_neither_here_nor_known_is_an_error():
    with pytest.raises(ConfigError, match="nobody/nothing is not known"):
        shape_of("nobody/nothing")


def test_rates_are_measured_and_the_text_has_everything(config):
    shape = shape_of(config.base)
    rates = machine_rates(config, shape, seconds=0.01)
    assert rates.flops > 0 and rates.bytes > 0
    made, again = plan(config, shape, work(), rates), replace(plan(config, shape, work(), rates), hours=7.0)
    said = text(config, made, work(), rates, again)
    assert all(part in said for part in ("LoRA r 8 alpha 16", "GFLOP/s", "hours", "100 prompts", "GB"))
    assert said.splitlines()[-1].endswith("at most about 7.00 hours more, for what is served")


NO_GATE = EvaluateConfig(gate_share=0)


def data(users=60):
    flat = torch.arange(users * 6).numpy() % 40 + 1
    names = [f"i{n:02}" for n in range(40)]
    titles = [f"a soap with a long name, {n}" for n in names]
    items = pd.DataFrame({"item": names, "title": titles, "brand": None, "categories": None})
    return Sequences([f"u{n:02}" for n in range(users)], names, flat, torch.arange(0, users * 6 + 1, 6).numpy()), items


def test_workload_counts_the_prompts_that_training_reads(config):
    def of(**changes):
        return workload(
            Config(
                DataConfig("d"), rerank=replace(config, finetune_share=0.5, n_reranked=10, **changes), evaluate=NO_GATE
            ),
            shape_of(config.base),
            *data(),
        )

    ids, names, soft = of(), of(ranker="palr"), of(ranker="scoring")
    assert (ids.prompts, ids.valid_prompts) == (28, 2) and of(max_users=8).prompts == 8
    assert names.tokens > 2 * ids.tokens > 10 * soft.tokens
    assert soft.choices == 40 and soft.soft > 41 * 64 and names.read_once > 32
    assert "by the tokenizer" in ids.source
    later = of(
        ranker="scoring", user_split="transductive"
    )  # histories of 5 items as a rule, of 3 without the two held out
    assert (later.prompts, later.answer, soft.answer) == (60, 3, 5)


def test_a_refit_reads_the_validation_users_too_or_whole_histories(config):
    def of(**changes):
        rerank = replace(config, finetune_share=0.5, n_reranked=10, **changes)
        return workload(
            Config(DataConfig("d"), rerank=rerank, evaluate=NO_GATE), shape_of(config.base), *data(), refit=True
        )

    soft, names = of(ranker="scoring", user_split="transductive"), of(ranker="palr")
    assert (soft.prompts, soft.valid_prompts, soft.answer) == (60, 0, 5)
    assert (names.prompts, names.valid_prompts, names.read_once) == (30, 0, 0) and of(max_users=8).prompts == 8


def test_the_rough_token_count_is_close_to_a_tokenizers(config):
    rough, _ = token_counter("nobody/nothing")
    exact, how = token_counter(config.base)
    numbers = ",".join(map(str, range(100, 200)))
    assert rough(numbers) == exact(numbers) and how == "by the tokenizer"
