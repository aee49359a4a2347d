"""Scripts of benchmarks/ that need no training of note, on the toy model: what must hold whatever the speed."""

import gzip
import json
import re
import sys

import pytest

from benchmarks import efficiency, nights, plan
from benchmarks.speed import read_sequences
from sealr.data.sequences import SequenceError

SMALL = "data.demo_users=80 rerank.user_split=inductive rerank.finetune_share=0.5 rerank.layers=0 rerank.max_history=5"


@pytest.fixture
def ran(toy_llama, monkeypatch, capsys):
    """Runs a script's main with arguments, on the toy model, and returns what it printed."""

    def run(script, *arguments, overrides=""):
        settings = f"{SMALL} rerank.base={toy_llama} {overrides}"
        monkeypatch.setattr(sys, "argv", ["script", "--data", "demo", "--set", settings, *arguments])
        script.main()
        return capsys.readouterr().out

    return run


def cells(text):
    """Rows of a Markdown table as lists of cells."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_one_pass_reads_fewer_tokens_than_lists_and_every_list_is_valid(ran):
    header, _, *rows = cells(ran(efficiency, "--users", "6", "--batch", "4", "--batches", "1", "--candidates", "10"))
    table = [dict(zip(header, row, strict=True)) for row in rows]
    assert all(row["validity"] == "1.0000" for row in table) and {row["weights"] for row in table} == {"float32", "nf4"}
    same = [row for row in table if row["batch"] == "4" and row["weights"] == "float32"]
    tokens = {row["items as"]: float(row["tokens a user"]) for row in same}
    assert tokens["names"] > tokens["names, preference known"] > tokens["encoded ids"] > 5 * tokens["soft tokens"]
    assert 3 < tokens["soft tokens"] <= 5 < tokens["soft tokens, instruction with every user"]


@pytest.mark.parametrize("ranker", ["generative", "palr"])
def test_the_plan_beside_a_real_training(ran, ranker):
    text = ran(plan, "--steps", "2", overrides=f"rerank.ranker={ranker} rerank.batch_size=2 rerank.n_reranked=10")
    rows = {row[0]: row[1:] for row in cells(text)[2:]}
    assert rows["parameters"][0] == rows["parameters"][1] and rows["trained"][0] == rows["trained"][1]
    assert all(float(re.split(r" ", value)[0]) > 0 for value in rows["peak memory, GB"])


def test_read_sequences(tmp_path):
    path = tmp_path / "s.txt.gz"
    path.write_bytes(gzip.compress(b"2 10 9 1\n\n1 9 2\n"))
    sequences = read_sequences(path)
    assert sequences.users == ["2", "1"] and sequences.items == ["1", "2", "9", "10"]
    assert sequences.flat.tolist() == [4, 3, 1, 3, 2] and sequences.offsets.tolist() == [0, 3, 5]
    plain = tmp_path / "s.txt"
    plain.write_text("u b a\n")
    assert read_sequences(plain).items == ["a", "b"] and read_sequences(plain).flat.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2\n3\n", "line 2: a user without items"), ("1 2\n1 3\n", "line 2: user '1' again"), ("\n", "no sequences")],
)
def test_bad_sequence_files(tmp_path, text, message):
    path = tmp_path / "s.txt"
    path.write_text(text)
    with pytest.raises(SequenceError, match=message):
        read_sequences(path)


def test_a_night_reads_all_reviews_of_its_last_second_and_none_after_it():
    lines = [json.dumps({"unixReviewTime": second}) for second in (1, 2, 2, 3)]
    assert nights.until(lines, 0.25) == lines[:1] and nights.until(lines, 0.5) == lines[:3]
    assert nights.until(lines, 1) == lines
