"""The embedded labeller: its files, its checks, its training on a toy, and what the shipped one says."""

import gzip
import shutil

import numpy as np
import pytest

from sealr.data.manifest import file_digest
from sealr.data.tables import EMOTIONS, read_json
from sealr.emotion import network as net
from sealr.emotion.training import train
from sealr.emotion.backends import EMBEDDED
from sealr.emotion.label import EMPTY, Labeller, label_texts
from sealr.emotion.sentiment import to_sentiment
from sealr.settings import LabelConfig
from tests import toys
from tests.emotion.test_label import ODD


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toys.toy_encoder(tmp_path_factory.mktemp("base") / "encoder")


@pytest.fixture
def folder(base, tmp_path):
    return toys.toy_embedded(tmp_path / "labeller", base)


def test_the_merged_adapter_says_what_the_adapter_says(folder, base):
    import torch
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    merged, tokenizer, _ = net.load_network(folder)
    encoder, _ = net.load_base(str(base))
    network = net.EmotionNetwork(get_peft_model(encoder, PeftConfig.from_pretrained(str(folder))))
    set_peft_model_state_dict(network.encoder, load_file(folder / net.ADAPTER))
    network.head.load_state_dict(load_file(folder / net.HEAD))
    batch = tokenizer(["I love it", "no"], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(
            merged(batch.input_ids, batch.attention_mask),
            network.eval()(batch.input_ids, batch.attention_mask),
            atol=1e-3,
            rtol=1e-3,
        )


def change_adapter(folder, change):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / net.ADAPTER)
    save_file(change(state), folder / net.ADAPTER)


def test_a_missing_tensor_is_an_error(folder):
    change_adapter(folder, lambda state: dict(list(state.items())[1:]))
    with pytest.raises(net.AdapterError, match="1 tensors missing or left over"):
        net.load_network(folder)


def test_a_renamed_tensor_is_an_error(folder):
    change_adapter(folder, lambda state: {k.replace("layer.0", "layer.9"): v for k, v in state.items()})
    with pytest.raises(net.AdapterError, match="does not fit"):
        net.load_network(folder)


def test_an_adapter_without_effect_is_an_error(folder):
    change_adapter(folder, lambda state: {k: v * 0 for k, v in state.items()})
    with pytest.raises(net.AdapterError, match="does not change"):
        net.load_network(folder)


def test_absent_files_are_named(folder):
    (folder / net.HEAD).unlink()
    with pytest.raises(net.AdapterError, match=net.HEAD):
        net.load_network(folder)


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
    write_split(tmp_path / "a.tsv.gz", ['"open quote', "b"], ["1,27", "0"])
    texts, labels = train.read_split(tmp_path / "a.tsv.gz")
    assert texts == ['"open quote', "b"] and labels.sum() == 3 and labels[0, [1, 27]].all()
    write_split(tmp_path / "b.tsv.gz", ["a", "b"], ["1", "28"])
    with pytest.raises(train.EmotionDataError, match="line 2"):
        train.read_split(tmp_path / "b.tsv.gz")
    with pytest.raises(train.EmotionDataError, match="does not exist"):
        train.read_split(tmp_path / "c.tsv.gz")


def test_bucketed_batches_hold_every_row_once():
    lengths = np.random.default_rng(0).integers(1, 60, 1000)
    batches = train.bucketed(lengths, 16, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert np.mean([np.ptp(lengths[b]) for b in batches]) < 10


def test_training_learns_resumes_and_reports(tiny_data, base, tmp_path, monkeypatch):
    from sealr.emotion.training import card, evaluate

    arguments = train.TrainArguments(base=str(base), epochs=3, batch=4, lr=1e-2, rank=4, average=0.8)
    whole = train.fit(tiny_data, tmp_path / "whole", arguments)
    assert whole["history"][-1]["dev_loss"] < whole["history"][0]["dev_loss"]
    calls, real = [], train.dev_loss

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:  # twice an epoch: in the second one, before its checkpoint
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train, "dev_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.fit(tiny_data, tmp_path / "resumed", arguments)
    monkeypatch.setattr(train, "dev_loss", real)
    resumed = train.fit(tiny_data, tmp_path / "resumed", arguments)
    seen: list[dict] = []
    train.fit(tiny_data, tmp_path / "resumed", arguments, seen.append)  # nothing left to do: what was is told again
    assert seen == resumed["history"]
    assert [h["dev_loss"] for h in resumed["history"]] == [h["dev_loss"] for h in whole["history"]]
    assert file_digest(tmp_path / "resumed" / net.ADAPTER) == file_digest(tmp_path / "whole" / net.ADAPTER)
    with pytest.raises(train.EmotionDataError, match="other arguments"):
        train.fit(tiny_data, tmp_path / "whole", train.TrainArguments(epochs=4))
    values = card.finish(tiny_data, tmp_path / "whole", train.asdict(arguments), whole)
    assert values["figures"]["test"]["per_class"]["love"]["f1"] > 0.6
    again = evaluate.evaluate(tiny_data, tmp_path / "whole")
    assert again["test"] == values["figures"]["test"]
    text = (tmp_path / "whole" / "MODEL_CARD.md").read_text()
    assert "Apache-2.0" in text and "| grief |" in text and str(tmp_path) not in text.replace(str(base), "")


def test_two_builds_give_the_same_bytes_and_a_log(tiny_data, base, tmp_path, monkeypatch):
    arguments = train.TrainArguments(base=str(base), epochs=2, batch=8, rank=2)
    real = train.dev_loss

    def interrupted(*given):
        monkeypatch.setattr(train, "dev_loss", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "dev_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.build(tiny_data, tmp_path / "a", arguments)
    cards = [train.build(tiny_data, tmp_path / name, arguments) for name in ("a", "b", "b")]
    assert cards[0]["sha256"] == cards[1]["sha256"] == cards[2]["sha256"] and len(cards[0]["sha256"]) == 3
    assert all(digest in (tmp_path / "a" / "MODEL_CARD.md").read_text() for digest in cards[0]["sha256"].values())
    text = (tmp_path / "b" / train.LOG).read_text()
    assert text.count("epoch 1:") == text.count("epoch 2:") == 1  # of the last build only
    assert "macro-F1" in text and cards[0]["sha256"][net.HEAD] in text and not (tmp_path / "b" / train.CHECKPOINT).exists()


def test_a_head_alone_learns_loads_and_needs_no_adapter(tiny_data, base, tmp_path):
    out = tmp_path / "head"
    options = ["--base", str(base), "--head-only", "--data", str(tiny_data), "--out", str(out)]
    train.main(options)
    card = read_json(out / net.CARD)
    assert card["adapter"] is False and not (out / net.ADAPTER).exists() and set(card["sha256"]) == {net.HEAD}
    assert card["training"]["history"][-1]["train_loss"] < card["training"]["history"][0]["train_loss"]
    assert card["figures"]["test"]["per_class"]["love"]["f1"] > 0.6  # a random encoder still tells four words apart
    assert "adapter" not in (out / "MODEL_CARD.md").read_text()
    labeller = Labeller.from_config(LabelConfig(model=str(out)))
    assert "LoRA" not in labeller.name and np.isfinite(labeller.probabilities(["I am love 1"])).all()
    (out / net.ADAPTER).write_bytes(b"")
    with pytest.raises(train.EmotionDataError, match="another folder"):
        train.main(options)


def test_the_report_warns_writes_and_draws(tiny_data, base, tmp_path):
    from sealr.data.tables import write_json
    from sealr.emotion.training.evaluate import evaluate, report

    folder, out = toys.toy_embedded(tmp_path / "labeller", base), tmp_path / "out"
    text = report(tiny_data, folder, out)
    assert "warning" not in text and str(out) in text and "| Strong Negative |" in text and "| ambiguous |" in text
    assert {p.name for p in out.iterdir()} == {"figures.json", "confusion_dev.png", "confusion_test.png"}
    figures = read_json(out / "figures.json")
    assert figures == evaluate(tiny_data, folder) and "uncalibrated" in figures["test"]
    figures["dev"]["macro_f1"] += 0.01
    write_json(read_json(folder / net.CARD) | {"figures": figures}, folder / net.CARD)
    assert text.count("macro-F1") + 1 == report(tiny_data, folder, out).count("macro-F1")


def test_confusions_by_true_emotion():
    from sealr.emotion.plots import confusion

    gold, p = np.zeros((3, 28)), np.zeros((3, 28))
    gold[0, [1, 2]] = gold[1, 1] = 1
    p[0, 2] = p[1, 1] = p[2, 27] = 1
    shares = confusion(p, gold)
    assert shares[1, 1] == shares[1, 2] == 0.5 and shares[2, 2] == 1 and shares.sum() == 2


def test_figures_on_a_worked_example():
    from sealr.emotion.training.evaluate import calibration_error, figures, tune_temperature, tune_thresholds

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


# --- the shipped labeller ---


def test_the_shipped_files_are_those_of_the_card():
    card = read_json(EMBEDDED / net.CARD)
    assert {name: file_digest(EMBEDDED / name) for name in card["sha256"]} == card["sha256"]
    assert tuple(card["labels"]) == EMOTIONS and set(card["thresholds"]) == set(EMOTIONS)
    assert sum(p.stat().st_size for p in EMBEDDED.iterdir()) < 4_000_000
    assert f"{card['figures']['test']['macro_f1']:.4f}" in (EMBEDDED / "MODEL_CARD.md").read_text()


def test_files_that_the_card_does_not_describe_are_refused(shipped, tmp_path):
    """As a training leaves them that was cut off between an epoch and its card."""
    copy = shutil.copytree(EMBEDDED, tmp_path / "copy")
    change_adapter(copy, lambda state: {k: v * 2 for k, v in state.items()})
    with pytest.raises(net.AdapterError, match="is not the file that labeller.json describes"):
        Labeller.from_config(LabelConfig(model=str(copy)))


@pytest.fixture(scope="module")
def shipped():
    from sealr.weights import WeightsError, _incomplete, weights_cache

    cached = weights_cache() / net.BASE.replace("/", "--")
    if _incomplete(cached):  # a test must not download
        pytest.skip(f"the weights of {net.BASE} are not in the local cache: run python -m sealr.weights {net.BASE}")
    try:
        return Labeller.from_config(LabelConfig(model="embedded"))
    except WeightsError as error:
        pytest.skip(f"the weights of {net.BASE} are not here: {error}")


@pytest.mark.parametrize(
    ("text", "emotions"),
    [
        ("I am so happy with this, what a joy to play!", {"joy", "admiration", "excitement", "love"}),
        ("Thank you so much, this helped me a lot.", {"gratitude"}),
        ("I absolutely love this guitar.", {"love"}),
        ("This makes me furious. I hate the seller, what a rip-off!", {"anger", "annoyance"}),
        ("I cried. I am so sad that it is gone.", {"sadness", "grief"}),
        ("Yuck, it smells disgusting.", {"disgust"}),
        ("It is 20 cm long and has two screws.", {"neutral"}),
        ("Does anyone know how this works?", {"curiosity", "confusion"}),
    ],
)
def test_clear_feelings_are_recognised(shipped, text, emotions):
    p = shipped.probabilities([text])[0]
    assert EMOTIONS[int(p.argmax())] in emotions


def test_expected_sentiment_has_the_right_sign(shipped):
    good = ["I love it!", "Thanks, great product.", "So proud and happy, it works perfectly."]
    bad = ["I hate it!", "Terrible. It broke and I am angry.", "So sad and disappointed, it is awful."]
    _, expected = to_sentiment(shipped.probabilities(good + bad))
    assert (expected[:3] > 0.5).all() and (expected[3:] < -0.3).all()


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b\u200d", "\x00\x01\x02", "&nbsp;&#160;", None])
def test_the_shipped_labeller_gives_nothing_to_read_a_reason(shipped, text):
    (record,) = label_texts([text], shipped)
    assert record["emotion"] is None and record["reason"] == EMPTY


@pytest.mark.parametrize("name", list(ODD))
def test_the_shipped_labeller_takes_odd_texts(shipped, name):
    (record,) = label_texts([ODD[name]], shipped)
    assert record["emotion"] in EMOTIONS and 0 < record["score"] <= 1 and -2 <= record["expected"] <= 2
    assert record["reason"] is None


def test_entities_and_controls_do_not_change_a_feeling(shipped):
    plain, entities, controls = shipped.probabilities(["I'm so happy <3", "I&#39;m so happy &lt;3", "I'm so\x00 happy\x01 <3"])
    np.testing.assert_array_equal(plain, entities)
    assert np.abs(plain - controls).max() < 0.05


def test_the_adapter_matters_on_disk(shipped, tmp_path):
    copy = shutil.copytree(EMBEDDED, tmp_path / "copy")
    change_adapter(copy, lambda state: {k: v * 0 for k, v in state.items()})
    with pytest.raises(net.AdapterError, match="does not change"):
        net.load_network(copy)
