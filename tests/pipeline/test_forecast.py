"""What `sealr run --dry-run` says a job takes."""

from dataclasses import replace

import pandas as pd
import pytest

from sealr.cli import main
from sealr.config import load_config
from sealr.data.sequences import build
from sealr.pipeline import forecast as module
from sealr.pipeline.forecast import Expected, TextRates, epoch_seconds, expected_epochs, forecast, table
from sealr.rerank.plan import Plan, Rates
from sealr.settings import RetrieveConfig

RATES = Rates(1e9, 1e9, "a test")
LLM = Plan(1, 1, 0, 0, 0, 0, step_seconds=2.0, check_seconds=0.5, hours=0.1)
REVIEWS = pd.DataFrame(
    [(f"u{u:02}", f"i{(u + p) % 7}", u * 10 + p, 5.0, f"text {u} {p % 2}", p) for u in range(20) for p in range(6)],
    columns=["user", "item", "timestamp", "rating", "text", "position"],
)


@pytest.fixture
def stages(monkeypatch):
    """Seconds of stages, with rates that are easy to multiply: 2 s to load, .5 s a text, 3 s an epoch."""
    monkeypatch.setattr(module, "labelling", lambda texts, config: TextRates(2.0, 0.5))
    monkeypatch.setattr(module, "read_texts", lambda texts, config: TextRates(2.0, 0.25))
    monkeypatch.setattr(module, "epoch_seconds", lambda config, sequences, rates: 3.0)

    def made(overrides):
        config = load_config("demo", "smollm2-135m", overrides)
        refit = replace(LLM, hours=0.05)
        return {s.stage: s.seconds for s in forecast(config, REVIEWS, build(REVIEWS), 7.0, LLM, refit, RATES)}

    return made


def test_each_stage_is_its_rate_times_its_work(stages):
    found = stages("retrieve.content=none rerank.scoring.content=none retrieve.epochs=10 rerank.batch_size=4")
    assert found["ingest"] == 7.0 + 2 * module.CHECKS
    assert found["label"] == 2.0 + 40 * 0.5 + module.CHECKS  # 40 of the 120 texts are distinct
    assert found["satisfaction"] == module.CHECKS  # it reads no texts, because nothing else does
    assert found["retriever sasrec"] == 3.0 * (10 + module.RANKINGS) + module.RUN and "content" not in found
    assert found["refit-retriever sasrec"] == 3.0 * 10 + module.RUN
    load = module.LLM_LOAD
    assert (found["finetune"], found["refit-finetune"]) == pytest.approx((load + 360, load + 180))
    assert found["rerank"] == load + 40 * 0.5 / 4  # lists of 20 test users, and of 20 validation or gate users
    lists = stages("rerank.ranker=palr rerank.user_split=inductive rerank.batch_size=4")
    assert lists["rerank"] > found["rerank"]  # fewer users, but each list is written word by word
    assert "register" in found and "register" not in stages("rerank.sentiment=shuffled")


def test_texts_are_read_once_and_the_decision_on_them_is_two_more_trainings(stages):
    found = stages("retrieve.epochs=10")
    assert found["satisfaction"] == 2.0 + 40 * 0.25 + module.CHECKS and found["content"] == 2.0 + module.RUN
    assert found["retriever sasrec, content none"] == found["retriever sasrec, content shuffled"] > 30
    fused = stages("retrieve.model=fusion 'retrieve.parts=[{model: sasrec}, {model: gru4rec}, {model: ease}]'")
    names = [name for name in fused if name.startswith("retriever")]
    assert names[:3] == ["retriever sasrec", "retriever gru4rec", "retriever ease"] and len(names) == 5
    assert fused["refit-retriever ease"] == 3.0 + module.RUN


def test_a_teacher_is_trained_before_its_pupil(stages):
    teacher = "'retrieve.teacher=[{model: sasrec}, {model: ease}]'"
    found = stages(f"retrieve.content=none {teacher}")
    names = [name for name in found if name.startswith("retriever")]
    assert names == ["retriever sasrec", "retriever ease", "retriever sasrec, taught"]
    assert {"refit-retriever sasrec", "refit-retriever ease", "refit-retriever sasrec, taught"} <= found.keys()
    again = [name for name in stages(teacher) if ", content" in name]
    assert len(again) == 6 and "retriever ease, content none" in again, "each choice of texts has its teacher"


def test_an_epoch_of_a_pupil_takes_longer():
    plain = RetrieveConfig(epochs=3, eval_every=1, hidden=8)
    taught = replace(plain, teacher=({"model": "bsarec"}, {"model": "ease"}))
    sequences = build(REVIEWS)
    alone, pupil = (min(epoch_seconds(c, sequences, RATES) for _ in range(3)) for c in (plain, taught))
    assert pupil > alone > 0


def test_early_stopping_is_expected():
    config = RetrieveConfig(epochs=200, patience=10, eval_every=2)
    assert (expected_epochs(config), expected_epochs(config, refit=True)) == (module.BEST_EPOCH + 20, module.BEST_EPOCH)
    assert expected_epochs(replace(config, epochs=30)) == expected_epochs(replace(config, epochs=30), refit=True) == 30


def test_an_epoch_is_measured_on_some_users_and_grows_with_all(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(module, "busy_seconds", lambda: float(next(clock)))  # a second passes between two epochs
    monkeypatch.setattr(module, "USERS", 5)
    small = RetrieveConfig(hidden=8, max_len=4, eval_every=1)
    assert epoch_seconds(small, build(REVIEWS), RATES) == 20 / 5
    assert epoch_seconds(RetrieveConfig(model="ease"), build(REVIEWS), RATES) == 2 * 7**3 / 1e9 + 1


def test_the_table_ends_with_the_sum():
    lines = table([Expected("label", 90.04, "texts"), Expected("register", 30.0, "")]).splitlines()
    assert [line.split()[:2] for line in lines] == [["label", "90.0"], ["register", "30.0"], ["total", "120.0"]]
    assert "2.0 minutes" in lines[-1]


@pytest.mark.slow
def test_the_command_predicts_every_stage_and_tracks_nothing(tmp_path, monkeypatch, capsys, toy_llama, toy_labeller):
    monkeypatch.setenv("SEALR_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    settings = f"data.demo_users=40 rerank.base={toy_llama} label.model={toy_labeller} rerank.layers=0"
    with pytest.raises(SystemExit) as end:
        main(["run", "--dry-run", "--data", "demo", "--set", settings + " retrieve.content=none"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    stages = [line.split()[0] for line in out.split("\n\n")[0].splitlines()]
    assert [s for s in stages if s not in ("start", "content", "total")] == [
        *("ingest", "label", "satisfaction", "retriever", "candidates", "finetune", "rerank", "evaluate"),
        *("refit-retriever", "refit-satisfaction", "refit-finetune", "register"),
    ]
    assert "peak memory" in out and not list(tmp_path.iterdir())
