import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sealr.data import manifest as stages
from sealr.data.manifest import CHECKPOINT, StageResult, code_digest, file_digest, run_stage

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
    assert (second.key, second.digest, second.rows, second.metrics) == (
        first.key,
        first.digest,
        {"rows": 3},
        {"share": 0.5},
    )
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


def test_code_is_what_this_process_read_first(package):
    (package / "a.py").write_text("x = 1")
    before = code_digest(("a.py",))
    (package / "a.py").write_text("x = 2")
    assert code_digest(("a.py",)) == before
    stages._parsed.cache_clear()  # as in a new process
    assert code_digest(("a.py",)) != before


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "PACKAGE", tmp_path)
    return tmp_path


def test_comments_and_layout_do_not_count_as_code(package):
    (package / "a.py").write_text("def f(x):\n    return x + 1\n")
    (package / "b.py").write_text("# a comment\ndef f(x):\n\n    return (x + 1)  # another\n")
    (package / "c.py").write_text("def f(x):\n    return x - 1\n")
    parsed = [stages._parsed(package / f"{name}.py") for name in "abc"]
    assert parsed[0] == parsed[1] != parsed[2]


def test_a_changed_source_file_changes_the_key(tmp_path, package):
    (package / "data").mkdir()
    (package / "data" / "work.py").write_text("x = 1")
    first = run(tmp_path, Work())
    (package / "data" / "work.py").write_text("x = 2")
    stages._parsed.cache_clear()  # as in a new process
    second = run(tmp_path, Work())
    assert first.key != second.key and not second.reused


def test_code_digest_is_stable_and_tells_packages_apart():
    assert code_digest(("data",)) == code_digest(("data",)) != code_digest(("data", "rerank"))


def test_a_part_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="no code in sealr/data/moved.py"):
        code_digest(("data/moved.py",))


def test_importing_it_reads_no_source_and_nothing_heavy():
    code = "import sys, sealr.data.manifest as m; print(m._parsed.cache_info().currsize, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]
