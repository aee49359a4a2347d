"""Training and evaluating a labeller on a toy: reading, resuming, cards, figures."""

import gzip

import numpy as np
import pytest

from sealr.data.manifest import file_digest
from sealr.data.tables import read_json, write_json
from sealr.emotion import network as net
from sealr.emotion.labeller import Labeller
from sealr.emotion.plots import confusion
from sealr.emotion.training import build, train
from sealr.emotion.training.evaluate import (
    calibration_error,
    evaluate,
    figures,
    report,
    tune_temperature,
    tune_thresholds,
)
from sealr.emotion.training.goemotions import EmotionDataError, read_split
from sealr.emotion.training.train import TrainArguments
from sealr.settings import LabelConfig
from sealr.trainer import CheckpointError
from tests import toys


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toys.toy_encoder(tmp_path_factory.mktemp("base") / "encoder")


def write_split(path, texts, ids):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{t}\t{i}\tc{n}\n" for n, (t, i) in enumerate(zip(texts, ids, strict=True)))


@pytest.fixture
def tiny_data(tmp_path):
    folder = tmp_path / "goemotions"
    folder.mkdir()
    words = {"love": 18, "angry": 2, 'so "sad"': 25, "thanks": 15}
    for split, n in (("train", 96), ("dev", 24), ("test", 24)):
        rows = [(f"I am {w} {i}", v) for i in range(n // len(words)) for w, v in words.items()]
        write_split(folder / f"{split}.tsv.gz", *zip(*rows, strict=True))
    return folder


def test_reading_keeps_quotes_and_names_bad_lines(tmp_path):
    write_split(tmp_path / "train.tsv.gz", ['"open quote', "b"], ["1,27", "0"])
    texts, labels = read_split(tmp_path, "train")
    assert texts == ['"open quote', "b"] and labels.sum() == 3 and labels[0, [1, 27]].all()
    write_split(tmp_path / "dev.tsv.gz", ["a", "b"], ["1", "28"])
    with pytest.raises(EmotionDataError, match="line 2"):
        read_split(tmp_path, "dev")
    with pytest.raises(EmotionDataError, match="does not exist"):
        read_split(tmp_path, "test")


def test_bucketed_batches_hold_every_row_once():
    lengths = np.random.default_rng(0).integers(1, 60, 1000)
    batches = train.bucketed(lengths, 16, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert np.mean([np.ptp(lengths[b]) for b in batches]) < 10


@pytest.fixture
def interrupted(monkeypatch):
    """Interrupts the n-th validation."""

    def start(n):
        calls, real = [], train.LabellerTask.validate

        def validate(task):
            calls.append(1)
            if len(calls) == n:
                raise KeyboardInterrupt
            return real(task)

        monkeypatch.setattr(train.LabellerTask, "validate", validate)

    return start


def test_training_learns_resumes_and_reports(tiny_data, base, tmp_path, interrupted):
    arguments = TrainArguments(base=str(base), epochs=3, batch=4, lr=1e-2, rank=4, average=0.8)
    whole = train.fit(tiny_data, tmp_path / "whole", arguments)
    assert whole["history"][-1]["dev_loss"] < whole["history"][0]["dev_loss"]
    interrupted(4)  # two validations an epoch: in the second one, before its checkpoint
    with pytest.raises(KeyboardInterrupt):
        train.fit(tiny_data, tmp_path / "resumed", arguments)
    resumed = train.fit(tiny_data, tmp_path / "resumed", arguments)
    seen: list[dict] = []
    train.fit(tiny_data, tmp_path / "resumed", arguments, seen.append)  # nothing left to do: past epochs are reported
    assert seen == resumed["history"] == whole["history"]
    assert file_digest(tmp_path / "resumed" / net.ADAPTER) == file_digest(tmp_path / "whole" / net.ADAPTER)
    with pytest.raises(CheckpointError, match="another configuration"):
        train.fit(tiny_data, tmp_path / "whole", TrainArguments(base=str(base), epochs=4))
    values = build.finish(tiny_data, tmp_path / "whole", train.asdict(arguments), whole)
    assert values["figures"]["test"]["per_class"]["love"]["f1"] > 0.6
    assert evaluate(tiny_data, tmp_path / "whole")["test"] == values["figures"]["test"]
    text = (tmp_path / "whole" / "MODEL_CARD.md").read_text()
    assert "Apache-2.0" in text and "| grief |" in text and str(tmp_path) not in text.replace(str(base), "")
    labeller = Labeller.from_config(LabelConfig(model=str(tmp_path / "whole")))
    assert "LoRA" in labeller.name and np.isfinite(labeller.probabilities(["I am love 1"])).all()


def test_two_builds_give_the_same_bytes_and_a_log(tiny_data, base, tmp_path, interrupted):
    arguments = TrainArguments(base=str(base), epochs=2, batch=8, rank=2)
    interrupted(1)
    with pytest.raises(KeyboardInterrupt):
        build.build(tiny_data, tmp_path / "a", arguments)
    cards = [build.build(tiny_data, tmp_path / name, arguments) for name in ("a", "b", "b")]
    assert cards[0]["sha256"] == cards[1]["sha256"] == cards[2]["sha256"] and len(cards[0]["sha256"]) == 3
    card = (tmp_path / "a" / "MODEL_CARD.md").read_text()
    assert all(digest in card for digest in cards[0]["sha256"].values())
    text = (tmp_path / "b" / build.LOG).read_text()
    assert text.count("epoch 1:") == text.count("epoch 2:") == 1  # of the last build only
    assert "macro-F1" in text and cards[0]["sha256"][net.HEAD] in text
    assert not (tmp_path / "b" / train.CHECKPOINT).exists()


def test_the_report_warns_writes_and_draws(tiny_data, base, tmp_path):
    folder, out = toys.toy_embedded(tmp_path / "labeller", base), tmp_path / "out"
    text = report(tiny_data, folder, out)
    assert "warning" not in text and str(out) in text and "| Strong Negative |" in text and "| ambiguous |" in text
    assert {p.name for p in out.iterdir()} == {"figures.json", "confusion_dev.png", "confusion_test.png"}
    stored = read_json(out / "figures.json")
    assert stored == evaluate(tiny_data, folder) and "uncalibrated" in stored["test"]
    stored["dev"]["macro_f1"] += 0.01
    write_json(read_json(folder / net.CARD) | {"figures": stored}, folder / net.CARD)
    assert text.count("macro-F1") + 1 == report(tiny_data, folder, out).count("macro-F1")


def test_confusions_by_true_emotion():
    gold, p = np.zeros((3, 28)), np.zeros((3, 28))
    gold[0, [1, 2]] = gold[1, 1] = 1
    p[0, 2] = p[1, 1] = p[2, 27] = 1
    shares = confusion(p, gold)
    assert shares[1, 1] == shares[1, 2] == 0.5 and shares[2, 2] == 1 and shares.sum() == 2


def test_figures_on_a_worked_example():
    gold, p = np.zeros((4, 28)), np.full((4, 28), 0.01)
    gold[0, 17] = gold[1, 17] = gold[2, 2] = gold[3, 27] = 1
    p[0, 17], p[1, 27], p[2, 2], p[3, 27] = 0.9, 0.8, 0.9, 0.7
    result = figures(p, gold, np.full(28, 0.5))
    assert result["per_class"]["joy"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "support": 2,
        "threshold": 0.5,
    }
    assert result["micro_f1"] == 0.75 and result["argmax_accuracy"] == 0.75
    assert result["groups"]["positive"]["recall"] == 0.5 and result["sentiments"]["Strong Negative"]["f1"] == 1.0
    assert calibration_error(np.array([0.95, 0.95]), np.array([True, False])) == pytest.approx(0.45)
    assert tune_thresholds(p, gold)[2] <= 0.9
    logits = np.random.default_rng(0).normal(size=(2000, 28))
    truth = np.random.default_rng(1).random((2000, 28)) < 1 / (1 + np.exp(-logits))
    assert tune_temperature(logits * 1.5, truth) == pytest.approx(1.5, abs=0.05)
