"""Files of many formats become registered models with no configuration but the one that `sealr inspect` writes."""

import subprocess
import sys

import pytest
import yaml

from benchmarks import exports, formats
from sealr.data.tables import read_table
from tests.e2e.jobs import ROOT, environment
from tests.toys import toy_encoder


def test_there_are_ten_formats_and_more():
    assert len(exports.FORMATS) >= 10


@pytest.mark.parametrize("write", exports.FORMATS.values(), ids=lambda write: write.__name__)
def test_every_row_is_a_review_or_a_rejected_row(write, tmp_path, monkeypatch):
    monkeypatch.setenv("SEALR_DATA", str(tmp_path / "data"))
    if write is exports.excel:
        pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'sealr[excel]'")
    export = write(tmp_path)
    formats.look(export, tmp_path / "written.yaml")
    rows = formats.read(tmp_path / "written.yaml", tmp_path).rows
    assert rows["read"] == export.rows == rows["reviews"] + rows["rejected"] and rows["rejected"] == export.bad
    found, wanted = read_table(tmp_path / "reviews.parquet", "reviews"), exports.reviews()
    wanted = sorted(wanted, key=lambda r: (r["user"], r["time"]))  # stable, as the order of the table is
    if write is exports.zstd:  # its ids are numbers
        assert sorted(found["item"].astype(int)) == sorted(int(r["item"][1:]) for r in wanted)
        found["user"] = [f"u{int(user):04}" for user in found["user"]]
        found = found.sort_values(["user", "timestamp"], kind="stable")
    else:
        assert found["item"].tolist() == [r["item"] for r in wanted]
    zone = 7 * 3600 if write is exports.goodreads else 0  # its dates are in -0700
    read = list(zip(found["user"], found["timestamp"], strict=True))
    assert read == [(r["user"], r["time"] + zone) for r in wanted]
    means = found.groupby([r["stars"] for r in wanted])["rating"].mean().dropna()
    assert means.is_monotonic_increasing and means.iloc[0] < 1.5 and means.iloc[-1] == 5
    assert all(r["text"][-12:] in text for r, text in zip(wanted, found["text"], strict=True))


@pytest.mark.slow
def test_two_go_through_the_whole_job_and_are_registered(tmp_path, toy_llama, toy_labeller):
    """benchmarks/tables/formats.md has all of them."""
    encoder = toy_encoder(tmp_path / "encoder")
    small = {
        "label": {"model": str(toy_labeller)},
        "content": {"reader": str(encoder)},
        "rerank": {"base": str(toy_llama), "finetune_share": 0.3, "max_history": 4, "epochs": 1, "n_reranked": 12},
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(small))
    command = [sys.executable, "-m", "benchmarks.formats", "--base", str(tmp_path / "toy.yaml")]
    settings = "retrieve.epochs=1 retrieve.hidden=16 evaluate.bootstrap=100"
    command += ["--set", settings, "--only", "parts", "--only", "sql"]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["folder of parts", "SQL query"]
    assert all(row[5].endswith(" 1") for row in rows)  # of models of their own
