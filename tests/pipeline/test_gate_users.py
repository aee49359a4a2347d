"""Nothing is chosen on gate users: with other validation targets of theirs, every choice stays the same.

Each test changes the validation targets of as many other users, too, and finds that the choice can change.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sealr.config import load_config
from sealr.data.tables import read_json
from sealr.pipeline import inputs
from sealr.pipeline.job import Job
from sealr.rerank.rankers import Scored
from sealr.rerank.requests import Pools, finetuning_requests
from sealr.rerank.rerank import FUSED, rerank
from sealr.rerank.scoring.train import training_windows
from sealr.retrieve.candidates import target_ranks, write_candidates
from sealr.retrieve.fusion import shortlist
from sealr.retrieve.train import load, train
from sealr.settings import RetrieveConfig
from tests.retrieve.toy_sequences import make_sequences

QUICK = RetrieveConfig(hidden=8, layers=1, max_len=8, epochs=6, eval_every=1, patience=2, n_retrieved=30)


def job(setting: str) -> Job:
    settings = f"rerank.user_split={setting} rerank.finetune_share=0.5 evaluate.gate_share=0.25"
    return Job(load_config("demo", "", settings), "run")


@pytest.fixture(scope="module")
def sequences():
    """160 users in eight groups; each takes the items of its group in random order, then two of any group."""
    rng = np.random.default_rng(0)
    lists = [[*(user % 8 * 5 + 1 + rng.permutation(5)), *rng.integers(1, 41, 2)] for user in range(160)]
    return make_sequences(lists, 40).with_gate(0.25)


def with_targets(sequences, rows):
    """The same sequences, but each of these users has the next item for a validation target."""
    flat = sequences.flat.copy()
    places = sequences.offsets[np.asarray(rows) + 1] - 2
    flat[places] = flat[places] % 40 + 1
    return replace(sequences, flat=flat)


@pytest.fixture(scope="module")
def versions(sequences):
    """As it is, with other targets of all gate users, and with other targets of as many other users."""
    judges = sorted(sequences.gate)
    others = sequences.split("valid").users[: len(judges)]
    return sequences, with_targets(sequences, judges), with_targets(sequences, others)


def test_they_choose_no_epoch_of_a_retriever_and_no_decision_on_texts(versions, tmp_path):
    """The decision on texts compares the ranks of "valid"."""
    histories, weights, ranks = [], [], []
    for number, made in enumerate(versions):
        train(QUICK, made, tmp_path / str(number))
        histories.append(read_json(tmp_path / str(number) / "history.json"))
        weights.append((tmp_path / str(number) / "sasrec.safetensors").read_bytes())
        ranks.append(target_ranks(load(tmp_path / str(number)), made, "valid", True).tolist())
    assert histories[0] == histories[1] != histories[2]
    assert weights[0] == weights[1] and ranks[0] == ranks[1] != ranks[2]


def test_they_choose_no_weight_of_a_fusion(versions, tmp_path):
    for model in ("sasrec", "ease", "cooccurrence"):
        train(replace(QUICK, model=model), versions[0], tmp_path / model)
    parts = [load(tmp_path / model) for model in ("sasrec", "ease", "cooccurrence")]
    tried = [shortlist(parts, made, True).try_weights([1.0, 1.0, 1.0], 1).mean(0).tolist() for made in versions]
    assert tried[0] == tried[1] != tried[2]


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
def test_they_choose_no_epoch_of_the_llm(versions, setting):
    """What the LLM trains and validates on; inductive training also answers with test items."""
    task, asked = job(setting), []
    for made in versions:
        split = inputs.user_split(task, made)
        rows = [made.rows(users).tolist() for users in (split.train, split.valid)]
        parts = training_windows(made, *rows, task.config.rerank)
        asked.append([made.flat[s:e].tolist() for part in parts for s, e in zip(part.starts, part.ends, strict=True)])
        assert not {*rows[0], *rows[1]} & made.gate
    assert asked[0] == asked[1] != asked[2]


class Reversed:
    """A ranker that knows the target of every user whose target is an even item."""

    name = "reversed"

    def score(self, requests):
        return [Scored(np.asarray(r.pool, dtype=np.float32) % 2) for r in requests]


def test_they_choose_no_weight_of_the_llm_and_get_their_lists_last(versions, tmp_path):
    task, chosen, lists = job("transductive"), [], []
    train(QUICK, versions[0], tmp_path)
    for number, made in enumerate(versions):
        folder = tmp_path / str(number)
        write_candidates(load(tmp_path), made, QUICK, folder)
        pools = Pools(pd.read_parquet(folder / "candidates.parquet"), made, 30)
        valid, judges = (made.rows(users(task, made)).tolist() for users in (inputs.weight_users, inputs.gate_users))
        assert set(judges) == made.gate and not set(valid) & made.gate
        feelings = np.zeros((len(made.flat), 2), np.float32)
        rerank(Reversed(), valid[:5], valid, made, feelings, pools, 64, folder, gate_rows=judges)
        fusion = read_json(folder / "fusion.json")
        chosen.append([fusion["weight"], fusion["validation_ndcg_at_10"]])
        table = pd.read_parquet(folder / "rankings.parquet")
        lists.append(table[table["split"] == "gate"])
    assert chosen[0] == chosen[1] != chosen[2]
    assert set(lists[0]["ranker"]) == {FUSED} and not lists[0]["item"].equals(lists[1]["item"])


def test_prompts_of_a_generated_list_leave_them_out(versions, tmp_path):
    task = job("inductive")
    train(QUICK, versions[0], tmp_path)
    answers = []
    for made in versions:
        write_candidates(load(tmp_path), made, QUICK, tmp_path)
        pools = Pools(pd.read_parquet(tmp_path / "candidates.parquet"), made, 30)
        split = inputs.user_split(task, made)
        rows = made.rows([*split.train, *split.valid]).tolist()
        feelings = np.zeros((len(made.flat), 2), np.float32)
        answers.append([r.answer for r in finetuning_requests(rows, made, feelings, pools)])
    assert answers[0] == answers[1] != answers[2]
