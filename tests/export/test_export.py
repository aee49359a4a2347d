"""Models as files for other tools: they answer without SEALR, and agree with the served model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sealr import cli
from sealr.config import to_dict
from sealr.export import ask_llm, ask_retriever, llm, write
from sealr.export.retriever import ExportError, History, compare, write_retriever
from sealr.export.write import export, sample
from sealr.rerank.llm import load_adapter
from sealr.rerank.rankers import ScoringRanker
from sealr.rerank.requests import RerankInput
from sealr.retrieve.models import MODELS, build
from sealr.retrieve.retriever import Retriever, load
from sealr.settings import RetrieveConfig

ALONE = """
import importlib.abc, runpy, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sealr":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
path, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_path(path, run_name="__main__")
"""


def alone(script: Path, *arguments: str) -> list[list[str]]:
    """What an exported script prints in a process that cannot import SEALR."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(script), *arguments], capture_output=True, text=True, cwd=script.parent
    )
    assert not done.returncode, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def exported(model_folder, tmp_path_factory):
    """The command's export of a model with an LLM that writes lists."""
    out = tmp_path_factory.mktemp("export") / "shop"
    with pytest.raises(SystemExit) as end:
        cli.main(["export", "--model", str(model_folder), "--out", str(out)])
    assert not end.value.code
    return out


def test_the_retriever_answers_without_sealr(exported, parts):
    served = load(parts.retriever)
    history = served.items[:3]
    scores = served.score([history])[0]
    scores[[1, 2, 3]] = -np.inf  # retrieve.exclude_seen
    best = np.argsort(-scores, kind="stable")[:9]
    found = alone(exported / "retriever" / "ask.py", *history)
    assert [item for item, _ in found] == [served.items[i - 1] for i in best]
    assert [float(score) for _, score in found] == pytest.approx(scores[best].tolist(), abs=2e-4)


def test_an_empty_history_gets_popular_items_and_a_long_one_its_newest(exported, parts):
    served, written = load(parts.retriever), ask_retriever.Retriever(exported / "retriever")
    popular = np.argsort(-served.popularity, kind="stable")[:10]
    assert [item for item, _ in written.recommend([])] == [served.items[i - 1] for i in popular]
    long = [1, 5, 9, 2, 6, 10, 3, 7]
    assert len(long) > served.config.max_len
    assert np.allclose(written.scores(np.array([long]))[0, 1:], served.score([long])[0, 1:], atol=1e-5)


def test_the_merged_llm_is_the_served_one(exported, parts):
    import transformers

    ids = torch.tensor([[5, 6, 7, 8]])
    merged = transformers.AutoModelForCausalLM.from_pretrained(exported / "llm").eval()
    served = load_adapter(parts.config.rerank, parts.stages["adapter"] / "adapter")
    with torch.inference_mode():
        assert torch.allclose(merged(ids).logits, served(ids).logits, atol=1e-4)
        with served.disable_adapter():
            assert not torch.allclose(merged(ids).logits, served(ids).logits, atol=1e-2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "llm")
    assert tokenizer.decode(tokenizer("1,2")["input_ids"]).endswith("1,2")


def test_pages_say_what_the_files_are(exported):
    page, inner = ((exported / name).read_text() for name in ("README.md", "llm/README.md"))
    assert "On 24 stored histories" in page and "The model is `sasrec`, trained." in page
    assert "z(retriever) + 1 * z(LLM) + 0.5 * satisfaction" in page
    assert "Candidate list: {candidates}" in inner and "{category}" not in inner and "Recommend ten products" in inner
    card = json.loads((exported / "export.json").read_text())
    assert card["retriever"]["histories"] == 24 and card["llm"]["histories"] == 8
    assert not [f for f in exported.parent.iterdir() if f.name.startswith(".")]


@pytest.mark.slow
def test_a_model_without_an_llm_says_so(parts, tmp_path, capsys):
    packed = parts.pack(tmp_path / "packed", 0.0)
    with pytest.raises(SystemExit) as end:
        cli.main(["export", "--model", str(packed), "--out", str(tmp_path / "out")])
    assert not end.value.code
    assert "llm: it has weight 0 in this version, so it is not exported" in capsys.readouterr().out
    assert "The LLM has weight 0 in this version, so it is not exported." in (tmp_path / "out/README.md").read_text()
    assert (tmp_path / "out/retriever/retriever.onnx").is_file() and not (tmp_path / "out/llm").exists()


def test_where_no_histories_are_stored_random_ones_are_compared(parts, tmp_path):
    packed = parts.pack(tmp_path / "packed", 0.0)
    write.pd.read_parquet(packed / "histories.parquet").head(0).to_parquet(packed / "histories.parquet")
    histories, stored = sample(packed, 12, 6)
    assert not stored and len(histories) == write.SAMPLE
    assert {len(h.items) for h in histories} == {1, 2, 3, 4, 5, 6} and max(h.items.max() for h in histories) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "nowhere is neither a folder nor of the form"),
        (["--model", "{empty}"], "holds no model"),
        (["--out", "{there}"], "exists: name another folder, or add --overwrite"),
        (["--out", "{there}", "--overwrite"], "is not an export (it has no export.json)"),
        (["--what", "onnx"], "'onnx' is not one of"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, parts, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("empty", "there")}
    for place in places.values():
        place.mkdir()
    given = {"--model": str(parts.pack(tmp_path / "packed", 0.0)), "--out": str(tmp_path / "out")}
    words = [word.format(**places) for word in arguments]
    given |= dict(zip(words[::2], words[1::2], strict=False))
    with pytest.raises(SystemExit) as end:
        cli.main(["export", *sum(map(list, given.items()), []), *(["--overwrite"] if "--overwrite" in words else [])])
    said = capsys.readouterr().err
    assert end.value.code == 2 and message in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists() and not list(places["there"].iterdir())


def test_a_missing_library_names_the_extra(parts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError) as missing:
        export("toy", parts.pack(tmp_path / "packed", 0.0), tmp_path / "out")
    assert cli.explain(missing.value)[1].endswith("pip install 'sealr[export]'")
    assert not (tmp_path / "out").exists()


def test_a_graph_that_does_not_agree_is_refused(exported, parts, monkeypatch):
    served, written = load(parts.retriever), ask_retriever.Retriever(exported / "retriever")
    known, real = sample(parts.pack(exported.with_name("packed"), 0.0), 12, 6)[0], written.scores
    assert compare(served, written, known)["largest_difference"] < 1e-5
    monkeypatch.setattr(written, "scores", lambda *given: real(*given) * 1.001)
    with pytest.raises(ExportError, match="standard deviations at a history of"):
        compare(served, written, known)

    def broken(*given):  # one score of the last place
        scores = real(*given)
        scores[np.arange(len(scores)), scores[:, 1:].argmin(axis=1) + 1] = np.nan
        return scores

    monkeypatch.setattr(written, "scores", broken)
    with pytest.raises(ExportError, match="by nan standard deviations"):
        compare(served, written, known)


def test_overwriting_replaces_an_export_and_an_error_leaves_the_old_one(parts, tmp_path, monkeypatch):
    packed, out = parts.pack(tmp_path / "packed", 0.0), tmp_path / "out"

    def stub(served, known, folder):
        folder.mkdir()
        return {"histories": 1, "largest_difference": 0.0, "tolerance": 1.0, "top": 10}

    def fail(served, known, folder):
        folder.mkdir()
        raise ExportError("not the same")

    monkeypatch.setattr(write, "write_retriever", fail)
    with pytest.raises(ExportError):
        export("first", packed, out)
    assert [f.name for f in tmp_path.iterdir()] == ["packed"]
    monkeypatch.setattr(write, "write_retriever", stub)
    export("first", packed, out)
    monkeypatch.setattr(write, "write_retriever", fail)
    with pytest.raises(ExportError):
        export("second", packed, out, overwrite=True)
    assert json.loads((out / "export.json").read_text())["model"] == "first"
    monkeypatch.setattr(write, "write_retriever", stub)
    export("second", packed, out, overwrite=True)
    assert json.loads((out / "export.json").read_text())["model"] == "second"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out", "packed"]


def shown(config: RetrieveConfig, n_items: int = 20) -> Retriever:
    """A retriever of random weights, and for closed forms random neighbours."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(config, n_items).eval()
        for value in model.parameters():
            value.data.normal_(std=0.3)
        for part in getattr(model, "parts", [model]):
            if hasattr(part, "indices"):
                part.indices.random_(0, n_items + 1)
                part.weights.normal_()
            if hasattr(part, "counts"):
                part.counts.random_(1, 50)
        if config.model == "fusion":
            model.weights.copy_(torch.linspace(1, 0.3, len(model.parts)))
    return Retriever(config, [f"i{n}" for n in range(n_items)], model, np.ones(n_items + 1, np.float32))


def histories(longest: int, n_items: int = 20) -> list[History]:
    rng, made = np.random.default_rng(1), []
    for length in [1, 2, 3, longest] * 4:
        feelings = np.stack([rng.integers(-2, 3, length), rng.uniform(-2, 2, length)], 1).astype(np.float32)
        feelings[0] = np.nan
        made.append(History(rng.integers(1, n_items + 1, length), feelings))
    return made


@pytest.mark.slow
def test_a_fusion_of_everything_is_one_graph(tmp_path):
    shorter = ({"model": "cooccurrence", "max_len": 5}, {"model": "bert4rec", "max_len": 7})
    kinds = sorted(set(MODELS) - {"fusion", "cooccurrence", "bert4rec"})
    parts = (*({"model": kind} for kind in kinds), *shorter)
    config = RetrieveConfig(model="fusion", hidden=16, layers=2, max_len=9, sentiment="class", parts=parts)
    found = write_retriever(shown(config), histories(9), tmp_path / "fused")
    assert found["histories"] == 16 and found["largest_difference"] < 1e-5
    card = json.loads((tmp_path / "fused/retriever.json").read_text())
    counted = {p["model"] for p in card["parts"] if not p["trained"]}
    assert counted == {"ease", "popularity", "transition", "cooccurrence"}


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_llm_of_soft_tokens_answers_without_sealr(quantization, parts, tmp_path, capsys):
    """Trained, packed and exported as a job does; the exported script gives the served ranker's order."""
    from sealr.data.sequences import Sequences
    from sealr.data.tables import read_json, write_json
    from sealr.rerank.scoring.train import train_scoring

    rerank = replace(parts.config.rerank, ranker="scoring", quantization=quantization, lr=1e-2, epochs=2)
    sequences: Sequences = parts.sequences
    felt = np.random.default_rng(0).integers(-2, 3, (len(sequences.flat), 2)).astype(np.float32)
    users = (range(16), range(16, 24))
    train_scoring(rerank, "products", sequences, felt, users, parts.retriever, None, tmp_path / "stage")
    packed = parts.pack(tmp_path / "packed")
    write.shutil.rmtree(packed / "adapter")
    write.shutil.copytree(tmp_path / "stage" / "adapter", packed / "adapter")
    values = read_json(packed / "model.json")
    values["config"]["rerank"] = to_dict(rerank)
    write_json(values, packed / "model.json")
    card = export("toy", packed, tmp_path / "out")
    assert card["llm"]["histories"] == 8
    page = (tmp_path / "out/llm/README.md").read_text()
    assert "This is no model that writes" in page and ("4-bit" in page) == (quantization == "nf4")
    ranker = ScoringRanker(rerank, "products", packed / "adapter")
    history, feelings = [1, 5, 3, 3], np.array([[2, 1.5], [-2, -1], [np.nan, np.nan], [0, 0]], np.float32)
    served = ranker.score([RerankInput(history, feelings, list(range(1, 13)))])[0].values
    told = ask_llm.LLM(tmp_path / "out/llm").scores(history, feelings.tolist())[1:].numpy()
    assert np.allclose(told, served, atol=1e-3 * served.std())
    silent = ranker.score([RerankInput(history, np.full((4, 2), np.nan), list(range(1, 13)))])[0].values
    assert not np.allclose(silent, served, atol=1e-3 * served.std())
    found = alone(tmp_path / "out/llm/ask.py", *map(str, history))
    assert [int(index) for index, _ in found] == (1 + np.argsort(-silent, kind="stable")[:10]).tolist()


def test_an_llm_that_does_not_agree_is_refused(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(llm, "attach", lambda base, *given: load_adapter(parts.config.rerank, given[0]))
    monkeypatch.setattr(llm, "merged", lambda config, adapter: llm.load_base(config))  # the adapter is lost
    monkeypatch.setattr(write, "write_retriever", lambda *given: {})
    with pytest.raises(ExportError, match="the merged LLM differs"):
        export("toy", parts.pack(tmp_path / "packed"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
