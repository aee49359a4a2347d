"""Who is learned from and who is evaluated, in both settings and for the LLM and the retriever alike."""

from dataclasses import replace

import numpy as np
import pytest

from sealr.config import ConfigError, load_config
from sealr.pipeline import inputs
from sealr.pipeline.job import Job
from sealr.pipeline.retrievers import identity
from tests.retrieve.toy_sequences import make_sequences

INDUCTIVE = "rerank.user_split=inductive rerank.finetune_share=0.5 rerank.valid_share=0.1"


@pytest.fixture
def sequences():
    return make_sequences([[1, 2, 3, 4, 5]] * 40, 5)


def job(overrides: str) -> Job:
    return Job(load_config("demo", "smollm2-135m", overrides), "run")


def test_transductive_nobody_is_learned_from_whole(sequences):
    split = inputs.user_split(job("rerank.user_split=transductive"), sequences)
    assert not split.train and not split.valid and len(split.evaluate) == 40


def test_another_seed_trains_otherwise_on_the_same_users(sequences):
    first, second = (inputs.user_split(job(f"{INDUCTIVE} rerank.seed={seed}"), sequences) for seed in (0, 1))
    assert first == second != inputs.user_split(job(f"{INDUCTIVE} evaluate.seed=1"), sequences)
    assert (len(first.train), len(first.valid), len(first.evaluate)) == (14, 6, 20)  # .3 of 20: too few for .1
    assert len(inputs.user_split(job(f"{INDUCTIVE} rerank.max_users=5"), sequences).train) == 5


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
