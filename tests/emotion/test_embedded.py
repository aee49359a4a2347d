"""The embedded labeller: its files and checks, and what the shipped one says."""

import shutil

import numpy as np
import pytest

from sealr.data.manifest import file_digest
from sealr.data.tables import EMOTIONS, read_json
from sealr.emotion import network as net
from sealr.emotion.backends import EMBEDDED
from sealr.emotion.label import label_texts
from sealr.emotion.labeller import Labeller
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
        pytest.skip(f"the weights of {net.BASE} are not in the local cache: run sealr weights {net.BASE}")
    try:
        return Labeller.from_config(LabelConfig(model="embedded"))
    except WeightsError as error:
        pytest.skip(f"the weights of {net.BASE} are not here: {error}")


FEELINGS = {
    "I am so happy with this, what a joy to play!": {"joy", "admiration", "excitement", "love"},
    "Thank you so much, this helped me a lot.": {"gratitude"},
    "I absolutely love this guitar.": {"love"},
    "This makes me furious. I hate the seller, what a rip-off!": {"anger", "annoyance"},
    "I cried. I am so sad that it is gone.": {"sadness", "grief"},
    "Yuck, it smells disgusting.": {"disgust"},
    "It is 20 cm long and has two screws.": {"neutral"},
    "Does anyone know how this works?": {"curiosity", "confusion"},
}
TEXTS = list(FEELINGS)


@pytest.mark.parametrize(("text", "emotions"), FEELINGS.items())
def test_clear_feelings_are_recognised(shipped, text, emotions):
    p = shipped.probabilities([text])[0]
    assert EMOTIONS[int(p.argmax())] in emotions


def test_the_default_precision_says_what_float32_says(shipped):
    """docs/labelling.md: int8 differs by .002 on average, and a text's batch changes less than .01."""
    exact = Labeller.from_config(LabelConfig(model="embedded"), "float32")
    p, q = exact.probabilities(TEXTS), shipped.probabilities(TEXTS)
    assert np.abs(p - q).mean() < 0.004 and (p.argmax(1) == q.argmax(1)).all()
    np.testing.assert_allclose(q, np.concatenate([shipped.probabilities([t]) for t in TEXTS]), atol=0.01)


def test_expected_sentiment_has_the_right_sign(shipped):
    good = ["I love it!", "Thanks, great product.", "So proud and happy, it works perfectly."]
    bad = ["I hate it!", "Terrible. It broke and I am angry.", "So sad and disappointed, it is awful."]
    _, expected = to_sentiment(shipped.probabilities(good + bad))
    assert (expected[:3] > 0.5).all() and (expected[3:] < -0.3).all()


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b\u200d", "\x00\x01\x02", "&nbsp;&#160;", None])
def test_the_shipped_labeller_gives_nothing_to_read_a_reason(shipped, text):
    (record,) = label_texts([text], shipped)
    assert record["emotion"] is None and record["reason"] == "empty text"


UNKNOWN = {"chinese", "one long word"}  # in ODD: no tokens of MiniLM's vocabulary


@pytest.mark.parametrize("name", [n for n in ODD if n not in UNKNOWN])
def test_the_shipped_labeller_takes_odd_texts(shipped, name):
    (record,) = label_texts([ODD[name]], shipped)
    assert record["emotion"] in EMOTIONS and 0 < record["score"] <= 1 and -2 <= record["expected"] <= 2
    assert record["reason"] is None


@pytest.mark.parametrize("text", [ODD["chinese"], ODD["one long word"], "좋아요!", "ดีมาก", "12345", "......"])
def test_a_text_of_unknown_tokens_is_not_neutral(shipped, text):
    (record,) = label_texts([text], shipped)
    assert record["emotion"] is None and record["expected"] is None and record["reason"] == "no known words"


EMOJI = {"❤️❤️❤️": {"love"}, "😡": {"anger"}, "👍🏽": {"admiration"}, "😂": {"joy", "amusement"}, "😭": {"sadness"}}


@pytest.mark.parametrize(("text", "emotions"), [*EMOJI.items(), ("좋아요 ❤️", {"love"}), (":)", {"joy"})])
def test_emoji_without_english_words_are_read(shipped, text, emotions):
    (record,) = label_texts([text], shipped)
    assert record["emotion"] in emotions and abs(record["expected"]) > 1


def test_emoji_of_opposite_meaning_have_opposite_signs(shipped):
    good, bad = "❤️ 👍 😍 🔥 🙏 🎉".split(), "💔 👎 😡 🤮 😒 💩".split()
    _, expected = to_sentiment(shipped.probabilities(good + bad))
    assert (expected[:6] > 0.5).all() and (expected[6:] < -0.5).all()


def test_entities_and_controls_do_not_change_a_feeling(shipped):
    plain, entities, controls = shipped.probabilities(
        ["I'm so happy <3", "I&#39;m so happy &lt;3", "I'm so\x00 happy\x01 <3"]
    )
    np.testing.assert_array_equal(plain, entities)
    assert np.abs(plain - controls).max() < 0.05


def test_the_adapter_matters_on_disk(shipped, tmp_path):
    copy = shutil.copytree(EMBEDDED, tmp_path / "copy")
    change_adapter(copy, lambda state: {k: v * 0 for k, v in state.items()})
    with pytest.raises(net.AdapterError, match="does not change"):
        net.load_network(copy)
