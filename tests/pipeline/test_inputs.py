"""Who is learned from and who is evaluated, in both settings and for the LLM and the retriever alike."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sealr.config import ConfigError, load_config
from sealr.data.sequences import gate_draw
from sealr.pipeline import inputs
from sealr.pipeline.job import Job
from sealr.pipeline.retrievers import identity
from tests.retrieve.toy_sequences import make_sequences

ALL = "evaluate.gate_share=0"
INDUCTIVE = f"{ALL} rerank.user_split=inductive rerank.finetune_share=0.5 rerank.valid_share=0.1"


@pytest.fixture
def sequences():
    return make_sequences([[1, 2, 3, 4, 5]] * 40, 5)


def job(overrides: str) -> Job:
    return Job(load_config("demo", "smollm2-135m", overrides), "run")


def test_transductive_nobody_is_learned_from_whole(sequences):
    split = inputs.user_split(job(f"{ALL} rerank.user_split=transductive"), sequences)
    assert not split.train and not split.valid and len(split.evaluate) == 40


def test_another_seed_trains_otherwise_on_the_same_users(sequences):
    first, second = (inputs.user_split(job(f"{INDUCTIVE} rerank.seed={seed}"), sequences) for seed in (0, 1))
    assert first == second != inputs.user_split(job(f"{INDUCTIVE} evaluate.seed=1"), sequences)
    assert (len(first.train), len(first.valid), len(first.evaluate)) == (14, 6, 20)  # .3 of 20: too few for .1
    assert len(inputs.user_split(job(f"{INDUCTIVE} rerank.max_users=5"), sequences).train) == 5


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
def test_a_user_judges_or_chooses_and_everybody_is_tested_as_before(setting):
    plain = make_sequences([[1, 2, 3, 4, 5]] * 300, 5)
    settings = f"{INDUCTIVE} rerank.user_split={setting}"
    before, now = job(settings), job(f"{settings} evaluate.gate_share=0.25")
    sequences = plain.with_gate(0.25)
    split, gate = inputs.user_split(now, sequences), inputs.gate_users(now, sequences)
    assert set(gate) == {user for user in sequences.users if gate_draw(user) < 0.25} and 50 < len(gate) < 100
    choosing = {*split.train, *split.valid, *inputs.weight_users(now, sequences)}
    choosing |= {sequences.users[row] for row in sequences.split("valid").users} - set(split.train)
    assert not choosing & set(gate) and len(choosing | set(gate)) == 300
    assert inputs.evaluated_users(now, sequences) == inputs.evaluated_users(before, plain)
    tuned = len(split.train) + len(split.valid)
    assert len(split.valid) == round(0.3 * tuned) and (tuned > 100) == (setting == "inductive")
    whole = replace(now.config.retrieve, tuning_users="whole")
    assert not inputs.retriever_sequences(now, sequences, whole).whole & sequences.gate


def test_a_limit_keeps_the_gate_users_who_are_lowest_whoever_joins():
    few, many = (make_sequences([[1, 2, 3, 4]] * n, 4).with_gate(0.25) for n in (200, 300))
    limited = job("evaluate.valid_users=10")
    first, later = (inputs.gate_users(limited, sequences) for sequences in (few, many))
    assert len(first) == len(later) == len(inputs.weight_users(limited, few)) == 10
    assert all(user in first or int(user[1:]) >= 200 for user in later)


def test_another_gate_share_is_another_retriever():
    one, other = (job(f"evaluate.gate_share={share}") for share in (0.2, 0.3))
    assert identity(one, one.config.retrieve) != identity(other, other.config.retrieve)


def test_a_refit_holds_nothing_out(sequences):
    for overrides in (INDUCTIVE, f"{INDUCTIVE} retrieve.tuning_users=whole", "rerank.user_split=transductive"):
        again = replace(job(overrides), refit=True)
        learned = inputs.retriever_sequences(again, sequences, again.config.retrieve)
        assert (learned.split("train").ends - learned.split("train").starts).tolist() == [5] * 40
        assert not len(learned.split("valid")) and not len(learned.split("test"))
    twin, again = (inputs.user_split(replace(job(INDUCTIVE), refit=r), sequences) for r in (False, True))
    assert again.train == [*twin.train, *twin.valid] and again.valid == [] and again.evaluate == twin.evaluate
    few = replace(job(f"{INDUCTIVE} rerank.max_users=5"), refit=True)
    assert len(inputs.user_split(few, sequences).train) == 5


def test_the_retriever_may_learn_what_the_llm_learns(sequences):
    whole = job(f"{INDUCTIVE} retrieve.tuning_users=whole")
    learned = inputs.retriever_sequences(whole, sequences, whole.config.retrieve)
    split, train = inputs.user_split(whole, sequences), learned.split("train")
    lengths = dict(zip((learned.users[u] for u in train.users), train.ends - train.starts, strict=True))
    assert {user for user, length in lengths.items() if length == 5} == set(split.train)
    assert {user for user, length in lengths.items() if length == 3} == {*split.valid, *split.evaluate}
    assert not {learned.users[u] for u in learned.split("valid").users} & set(split.train)
    plain = inputs.retriever_sequences(whole, sequences, replace(whole.config.retrieve, tuning_users="train"))
    assert plain is sequences and np.array_equal(plain.split("test").users, np.arange(40))


def test_such_a_retriever_is_another_one_for_another_split():
    whole, other = (job(f"{INDUCTIVE} retrieve.tuning_users=whole evaluate.seed={seed}") for seed in (0, 1))
    plain, same = (job(f"{INDUCTIVE} evaluate.seed={seed}") for seed in (0, 1))
    assert identity(whole, whole.config.retrieve) != identity(other, other.config.retrieve)
    assert identity(plain, plain.config.retrieve) == identity(same, same.config.retrieve)


def test_a_retriever_must_not_learn_what_everybody_is_evaluated_on():
    with pytest.raises(
        ConfigError, match="tuning_users=whole would train on items that rerank.user_split=transductive"
    ):
        job("rerank.user_split=transductive retrieve.tuning_users=whole")


def test_a_split_by_time_is_of_the_reviews_timestamps_and_of_its_own_retrievers():
    rows = [(f"u{n}", f"i{p}", p, 10 * n + p) for n in range(10) for p in range(4)]
    frame = pd.DataFrame(rows, columns=["user", "item", "position", "timestamp"])
    plain, timely = job(ALL), job(f"{ALL} evaluate.split=time")
    assert inputs.job_sequences(plain, frame).cuts is None
    sequences = inputs.job_sequences(timely, frame)
    assert sequences.cuts.moments == (73, 83) and sequences.split("test").users.tolist() == [9]
    assert identity(plain, plain.config.retrieve) != identity(timely, timely.config.retrieve)
