import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sealr.data import manifest as stages
from sealr.data.manifest import CHECKPOINT, StageResult, code_digest, file_digest, run_stage, work_digest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    size: int = 1


class Work:
    """Writes one file, counts its calls, and dies while ``fail`` is set, leaving a checkpoint."""

    def __init__(self, text="result"):
        self.calls, self.fail, self.text, self.found = 0, False, text, False

    def __call__(self, folder):
        self.calls += 1
        checkpoint = folder / CHECKPOINT / "half.txt"
        self.found = checkpoint.exists()
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_text("half")
        if self.fail:
            raise RuntimeError("killed")
        (folder / "out.txt").write_text(self.text)
        return StageResult({"rows": 3}, {"share": 0.5})


def run(tmp_path, work, config=Settings(), inputs=None):
    return run_stage("ingest", "tiny", config, inputs or {}, ("data",), work, state=tmp_path / "state")


def test_an_unchanged_stage_is_skipped(tmp_path):
    work = Work()
    first, second = run(tmp_path, work), run(tmp_path, work)
    assert work.calls == 1 and not first.reused and second.reused
    assert (second.key, second.digest, second.rows, second.metrics) == (first.key, first.digest, {"rows": 3}, {"share": 0.5})
    assert second.path("out.txt").read_text() == "result"
    with pytest.raises(FileNotFoundError, match="stage ingest did not write nothing.txt"):
        second.path("nothing.txt")


def test_a_stage_that_died_is_resumed_with_its_checkpoint(tmp_path):
    work = Work()
    work.fail = True
    with pytest.raises(RuntimeError):
        run(tmp_path, work)
    work.fail = False
    manifest = run(tmp_path, work)
    assert work.calls == 2 and work.found and not manifest.reused
    assert not (manifest.folder / CHECKPOINT).exists() and list(manifest.files) == ["out.txt"]


def test_the_key_depends_on_config_and_inputs(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("one")
    work = Work()
    first = run(tmp_path, work, inputs={"source": source})
    assert run(tmp_path, work, Settings(2), {"source": source}).key != first.key
    source.write_text("two")
    assert run(tmp_path, work, inputs={"source": source}).key != first.key
    assert work.calls == 3


def test_the_next_stages_key_depends_on_content_not_on_the_key(tmp_path):
    one, two = (run(tmp_path, Work(), Settings(size)) for size in (1, 2))
    other = run(tmp_path, Work("else"), Settings(3))
    assert one.digest == two.digest != other.digest
    assert file_digest(one.path("out.txt")) == one.files["out.txt"]


def test_code_is_what_this_process_began_with(monkeypatch):
    path = stages.PACKAGE / "evaluate" / "metrics.py"
    before = code_digest(("evaluate/metrics.py",))
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: "edited = True")
    assert code_digest(("evaluate/metrics.py",)) == before
    monkeypatch.setitem(stages.SOURCES, path, "edited = True")
    assert code_digest(("evaluate/metrics.py",)) != before


def test_code_digest_is_stable_and_tells_packages_apart():
    assert code_digest(("data",)) == code_digest(("data",)) != code_digest(("data", "rerank"))


SOURCE = """
def helper(x):
    return x {sign} 1

def make(limit):
    def work(folder):
        return [helper(x) for x in range(limit) if x in {{"a", "b", "c"}}]  {comment}
    return work
"""


def compiled(sign="+", comment=""):
    scope = {"__name__": "written_here"}
    exec(SOURCE.format(sign=sign, comment=comment), scope)  # two versions of one module
    return scope["make"](3)


def test_the_key_depends_on_the_work_and_its_helpers_but_not_on_comments_or_warmth():
    work = compiled()
    first = work_digest(work)
    for _ in range(100):
        work(None)  # specialises the byte code
    assert work_digest(work) == first == work_digest(compiled(comment="# said"))
    assert work_digest(compiled(sign="-")) != first


def test_the_digest_of_work_is_the_same_in_another_process():
    code = "from tests.data.test_manifest import compiled, work_digest; print(work_digest(compiled()))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {work_digest(compiled())}
