"""Labelling with toy weights: windows, batches, odd texts, parts and interruptions."""

import csv
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sealr import progress
from sealr.data import cache as caching
from sealr.data.ingest import ingest
from sealr.data.tables import EMOTIONS, read_table
from sealr.emotion import label as label_stage
from sealr.emotion import labeller as labelling
from sealr.emotion.backends import LabellerError, resolve_labeller
from sealr.emotion.label import REASONS, label, label_texts
from sealr.emotion.labeller import EMPTY, NO_WORDS, Labeller, clean, labeller_id, split_windows
from sealr.emotion.plots import distribution_plot
from sealr.settings import Columns, DataConfig, LabelConfig
from tests import toys

ROOT = Path(__file__).resolve().parents[2]
ODD = {
    "emoji": "😀😀",
    "entities": "&lt;b&gt; I&#39;m happy",
    "arabic": "الجودة ممتازة",
    "chinese": "很好用",
    "surrogate": "bad \ud800 sign",
    "book": "word " * 2_000_000,
    "one long word": "x" * 10_000_000,
    "nul": "a\x00b",
    "zero-width": "a\u200bb",
    "controls": "good\x01\x02\x1b[31m bad\x7f",
    "right to left": "\u202egood\u202c",
    "hindi": "बहुत अच्छा",
    "many entities": "good" + "&amp;" * 100_000,
    "bad entity": "&#xD800; &#99999999; fine",
    "lines": "a\r\nb\u2028c",
}
NULL = {"emotion": None, "score": None, "sentiment": None, "expected": None}


@pytest.fixture(scope="module")
def labeller(toy_labeller):
    return small(toy_labeller)


def small(model):
    """A labeller with small windows and batches."""
    backend = Labeller.from_config(LabelConfig(model=str(model))).backend
    return Labeller(backend, LabelConfig(model=str(model)), window_tokens=16, max_windows=3, batch_tokens=128)


def reviews(n=60):
    texts = [f"review {i % 50} " + "good bad " * (i % 50 % 7) for i in range(n)]
    texts[3], texts[4] = "", "  \n"
    return pd.DataFrame(
        {
            "user": [f"u{i // 5}" for i in range(n)],
            "position": [i % 5 for i in range(n)],
            "text": texts,
            "rating": [i % 5 + 1.0 for i in range(n)],
        }
    )


def test_columns_follow_the_labels_not_their_order(toy_labeller, labeller):
    """The toy's labels are in reverse order."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(toy_labeller).eval(),
        AutoTokenizer.from_pretrained(toy_labeller),
    )
    with torch.no_grad():
        direct = torch.sigmoid(model(**tokenizer("I love it", return_tensors="pt")).logits)[0].numpy()
    by_name = [direct[model.config.label2id[e]] for e in EMOTIONS]
    np.testing.assert_allclose(labeller.probabilities(["I love it"])[0], by_name, atol=1e-5)


def test_windows_cover_the_tokens_evenly():
    assert split_windows([], 4) == [[]]
    assert split_windows([1, 2, 3, 4], 4) == [[1, 2, 3, 4]]
    assert split_windows(list(range(9)), 4) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [len(w) for w in split_windows(list(range(10)), 4)] == [3, 3, 4]


def test_a_long_text_is_the_weighted_mean_of_its_windows(labeller):
    text = " ".join(f"w{i}" for i in range(12))
    ids = labeller.backend.tokenizer(text, add_special_tokens=False).input_ids[: labeller.window_size * 3]
    windows = split_windows(ids, labeller.window_size)
    assert len(windows) == 3
    each = labeller.predict_tokens(windows)  # each window as a text of its own
    expected = np.average(each, axis=0, weights=[len(w) for w in windows])
    np.testing.assert_allclose(labeller.probabilities([text])[0], expected, atol=1e-6)


def test_what_is_beyond_the_last_window_is_not_read(labeller):
    text = "abc " * 200
    assert np.array_equal(labeller.probabilities([text]), labeller.probabilities([text + "something else"]))


def test_batches_are_padded_without_effect_and_bounded(labeller, monkeypatch):
    texts = [("good bad " * i).strip() or "x" for i in range(12)]
    alone = np.concatenate([labeller.probabilities([t]) for t in texts])
    sizes, run = [], labeller.backend.engine.run
    monkeypatch.setattr(
        labeller.backend.engine,
        "run",
        lambda batches, workers: sizes.extend(b[0].size for b in batches) or run(batches),
    )
    np.testing.assert_allclose(labeller.probabilities(texts), alone, atol=1e-5)
    assert len(sizes) > 1 and max(sizes) <= 128


def test_identical_texts_run_once(labeller, monkeypatch):
    seen, predict = [], labeller.predict_tokens
    monkeypatch.setattr(labeller, "predict_tokens", lambda tokens, workers: seen.append(len(tokens)) or predict(tokens))
    p = labeller.probabilities(["same", "other", "same", " same "])
    assert seen == [2] and np.array_equal(p[0], p[2]) and np.array_equal(p[0], p[3])


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u200b\u200d", "\x00\x01", "&nbsp;", None, float("nan")])
def test_nothing_to_read_is_a_null_label_with_a_reason(labeller, text):
    assert np.isnan(labeller.probabilities([text])).all()
    record = label_texts([text], labeller)[0]
    assert np.isnan(record.pop("probabilities")).all() and record == NULL | {"reason": "empty text"}


@pytest.mark.parametrize("text", ["......", "12345", "10/10", "!!!???", "\u0301\u0301", "#1"])
def test_a_text_without_letters_is_a_null_label_with_a_reason(labeller, text):
    (record,) = label_texts([text], labeller)
    assert np.isnan(record.pop("probabilities")).all() and record == NULL | {"reason": "no known words"}


def test_null_labels_stand_where_their_texts_stand(labeller, tmp_path):
    texts = ["good", "...", "", "good", "bad", "!"]
    codes, unique = labeller.clean(texts)
    assert codes.tolist() == [0, NO_WORDS, EMPTY, 0, 1, NO_WORDS] and unique == ["good", "bad"]
    frame = reviews(6).assign(text=texts)
    assert label(frame, labeller.config, tmp_path, labeller).rows == {"labelled": 3, "null": 3}
    table = read_table(tmp_path / "labels.parquet", "labels")
    reasons = [None, "no known words", "empty text", None, None, "no known words"]
    assert table["reason"].astype(object).where(table["reason"].notna(), None).tolist() == reasons
    assert table["p_joy"].isna().tolist() == [r is not None for r in reasons]
    assert table["p_joy"][0] == table["p_joy"][3] != table["p_joy"][4]
    again = label(frame, labeller.config, tmp_path, labeller, cache=tmp_path / "cache")
    assert again.metrics["cache.misses"] == 2
    again = label(frame, labeller.config, tmp_path, labeller, cache=tmp_path / "cache")
    assert again.metrics["cache.misses"] == 0


@pytest.mark.parametrize("name", list(ODD))
def test_odd_texts_get_a_label(labeller, name):
    started = time.monotonic()
    p = labeller.probabilities([ODD[name]])
    assert p.shape == (1, 28) and p.dtype == np.float32 and ((p >= 0) & (p <= 1)).all()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_odd_texts_of_a_file_are_labelled_or_null_with_a_reason(labeller, tmp_path, suffix):
    """From a user's file through ingest to the table: no row is lost, and each has a label or a reason."""
    texts = [t for name, t in ODD.items() if name != "surrogate"] + [
        "",
        " ",
        "\x01\x02",
        "\u200b",
        "&nbsp;",
        "!!!",
        "NaN",
    ]
    path = tmp_path / f"odd{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
        rows.writerow(["who", "what", "when", "stars", "comment"])
        rows.writerows(["u", f"i{n}", 1_400_000_000 + n, 5, t] for n, t in enumerate(texts))
    config = DataConfig(
        name="odd", source="columns", k_core=1, columns=Columns("who", "what", "when", "stars", "comment")
    )
    rows = ingest(config, tmp_path, {"reviews": path}).rows
    assert (rows["reviews"], rows["rejected"]) == (len(texts), 0)
    frame = read_table(tmp_path / "reviews.parquet", "reviews")
    assert label(frame, labeller.config, tmp_path, labeller).rows == {"labelled": len(texts) - 6, "null": 6}
    table = read_table(tmp_path / "labels.parquet", "labels")
    assert (table["emotion"].isna() == table["reason"].isin(REASONS.values())).all()


def test_entities_are_resolved():
    assert clean("it&#39;s  &lt;ok&gt;", 100) == "it's <ok>"
    assert clean("abcdef", 3) == "abc"


def test_the_table(labeller, tmp_path):
    frame = reviews()
    output = label(frame, labeller.config, tmp_path, labeller)
    table = read_table(tmp_path / "labels.parquet", "labels")
    assert output.rows == {"labelled": 58, "null": 2}
    assert table["user"].tolist() == frame["user"].tolist() and table["position"].tolist() == frame["position"].tolist()
    assert table["reason"].isna().sum() == 58 and set(table["reason"].dropna()) == {REASONS[EMPTY]}
    assert table.loc[3].drop(["user", "position", "reason"]).isna().all()
    p = table[[f"p_{e}" for e in EMOTIONS]].to_numpy()
    known = ~np.isnan(p).any(axis=1)
    assert (table["emotion"][known] == np.array(EMOTIONS)[p[known].argmax(1)]).all()
    np.testing.assert_array_equal(table["score"][known], p[known].max(1))
    shares = [v for k, v in output.metrics.items() if k.startswith("share.emotion.")]
    assert len(shares) == 28 and sum(shares) == pytest.approx(1)
    assert sum(v for k, v in output.metrics.items() if k.startswith("share.sentiment.")) == pytest.approx(1)
    assert {"pearson_rating", "spearman_rating", "mean_score", "reviews_per_second"} <= set(output.metrics)
    assert output.metrics["language.texts"] == 50 and "share.language.en" in output.metrics
    records = label_texts(frame["text"].tolist(), labeller)
    assert [r["emotion"] for r in records if r["emotion"]] == table["emotion"].dropna().tolist()


def test_the_sentiment_map_of_the_configuration_counts(toy_labeller, tmp_path):
    config = LabelConfig(model=str(toy_labeller), sentiment_map=dict.fromkeys(EMOTIONS, 1))
    label(reviews(), config, tmp_path)
    assert set(read_table(tmp_path / "labels.parquet", "labels")["sentiment"].dropna()) == {1}


def test_no_reviews_and_no_ratings(labeller, tmp_path):
    output = label(reviews()[["user", "position", "text"]], labeller.config, tmp_path / "a", labeller)
    assert "pearson_rating" not in output.metrics
    empty = label(reviews().iloc[:0], labeller.config, tmp_path / "b", labeller)
    assert empty.rows == {"labelled": 0, "null": 0}
    only_empty = reviews().assign(text="")
    assert label(only_empty, labeller.config, tmp_path / "c", labeller).rows == {"labelled": 0, "null": 60}
    distribution_plot(read_table(tmp_path / "c" / "labels.parquet", "labels"), tmp_path / "c.png", only_empty["rating"])


def interrupt(monkeypatch, labeller, at):
    """The at-th part is interrupted; returns the sizes of the parts computed."""
    calls, real = [], labeller.predict_texts

    def predict_texts(texts, workers=1):
        calls.append(len(texts))
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(texts, workers)

    monkeypatch.setattr(labeller, "predict_texts", predict_texts)
    return calls


@pytest.mark.parametrize("shared", [False, True])
def test_an_interrupted_call_continues_with_the_same_bytes(labeller, tmp_path, monkeypatch, shared):
    cache = tmp_path / "cache" if shared else None
    whole = tmp_path / "whole"
    label(reviews(), labeller.config, whole, labeller, part_rows=7)
    calls = interrupt(monkeypatch, labeller, at=4)
    with pytest.raises(KeyboardInterrupt):
        label(reviews(), labeller.config, tmp_path / "part", labeller, cache=cache, part_rows=7)
    assert not (tmp_path / "part" / "labels.parquet").exists()
    output = label(reviews(), labeller.config, tmp_path / "part", labeller, cache=cache, part_rows=7)
    assert len(calls) == 4 + 8 - 3  # 50 different texts in parts of 7: none is computed twice
    assert output.metrics["cache.hits"] == 21 and output.metrics["cache.misses"] == 29
    assert (tmp_path / "part" / "labels.parquet").read_bytes() == (whole / "labels.parquet").read_bytes()
    assert output.rows["labelled"] == 58


def test_workers_change_nothing(labeller):
    """Whole batches go to the threads, so every one is computed as it would be alone."""
    import torch

    threads, texts = torch.get_num_threads(), [t for t in reviews()["text"] if t.strip()]
    one, three = labeller.predict_texts(texts, 1), labeller.predict_texts(texts, 3)
    np.testing.assert_allclose(one, three, atol=1e-6)
    assert torch.get_num_threads() == threads


KILLED = """
import sys, time
from pathlib import Path
from sealr.emotion.label import label
from tests.emotion.test_label import reviews, small
labeller = small(sys.argv[1])
progress = lambda done, total: (print(done, flush=True), time.sleep(0.2))
label(reviews(), labeller.config, Path(sys.argv[2]), labeller, progress, part_rows=7)
"""


def test_sigkill_then_the_same_bytes(labeller, toy_labeller, tmp_path):
    folder = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(toy_labeller), str(folder)],
        stdout=subprocess.PIPE,
        env=environment,
        cwd=ROOT,
    )
    for _ in range(3):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (folder / "labels.parquet").exists()
    resumed = label(reviews(), labeller.config, folder, labeller, part_rows=7)
    assert 21 <= resumed.metrics["cache.hits"] < 50
    label(reviews(), labeller.config, tmp_path / "whole", labeller, part_rows=7)
    assert (folder / "labels.parquet").read_bytes() == (tmp_path / "whole" / "labels.parquet").read_bytes()


def test_progress_and_plot(labeller, tmp_path):
    seen = []
    progress = lambda done, total: seen.append((done, total))  # noqa: E731
    label(reviews(), labeller.config, tmp_path, labeller, progress, part_rows=20)
    assert seen == [(20, 50), (40, 50), (50, 50)]
    table = read_table(tmp_path / "labels.parquet", "labels")
    for ratings in (None, reviews()["rating"]):
        distribution_plot(table, tmp_path / "labels.png", ratings)
        assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")


def test_the_identity_names_the_weights(toy_labeller, labeller, tmp_path):
    config = LabelConfig(model=str(toy_labeller))
    identity = Labeller.from_config(config).identity
    assert labeller_id(config) == f"{labeller.name} {identity}" and labeller.identity != identity  # of other windows
    assert labeller_id(LabelConfig(model=str(toys.toy_labeller(tmp_path / "other", seed=1)))).split()[-1] != identity


def test_the_identity_names_the_cleaning(toy_labeller, labeller, monkeypatch):
    config = LabelConfig(model=str(toy_labeller))
    before = labeller_id(config)
    monkeypatch.setattr("sealr.emotion.labeller.VERSION", "another")
    assert labeller_id(config) != before and small(toy_labeller).identity != labeller.identity


def test_a_model_without_the_28_emotions_or_without_a_head_is_refused(toy_labeller, tmp_path):
    import json
    import shutil

    other = shutil.copytree(toy_labeller, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["id2label"]["0"] = "happiness"
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(LabellerError, match="does not label the 28"):
        Labeller.from_config(LabelConfig(model=str(other)))
    encoder = toys.toy_encoder(tmp_path / "encoder")
    with pytest.raises(LabellerError, match="not a trained classifier"):
        Labeller.from_config(LabelConfig(model=str(encoder)))


def test_auto_falls_back_to_the_embedded_labeller(monkeypatch):
    from sealr.emotion import backends
    from sealr.weights import WeightsError

    def no_hub(name):
        if name == backends.HUB:
            raise WeightsError("no hub")
        return Path("/nowhere")

    monkeypatch.setattr(backends, "resolve", no_hub)
    resolve_labeller.cache_clear()
    try:
        assert resolve_labeller("auto") == resolve_labeller("embedded") and resolve_labeller("auto").embedded
        assert backends.pinned_name("auto") == "embedded"
    finally:
        resolve_labeller.cache_clear()  # other tests shall not see these weights


def test_also_what_comes_before_the_model_tells_a_log_how_far_it_is(toy_labeller, tmp_path, monkeypatch, caplog):
    """Of ten million texts, cleaning and looking up take minutes."""
    caplog.set_level(logging.INFO, "sealr")
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    labeller = small(toy_labeller)
    label(reviews(), labeller.config, tmp_path / "few", labeller)
    assert not re.search("clean:|look up", caplog.text)
    for module in (labelling, caching, label_stage):
        monkeypatch.setattr(module, "QUICK", 10)
    label(reviews(), labeller.config, tmp_path / "many", labeller)
    lines = [
        "60 reviews are read\n",
        "cleaning 60 texts\n",
        "clean: ",
        "looking up 50 texts\n",
        "look up known texts: ",
    ]
    for words in lines:
        assert words in caplog.text
