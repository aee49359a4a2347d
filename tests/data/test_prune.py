from filelock import FileLock

from sealr.data.manifest import StageResult, run_stage
from sealr.data.prune import remove, unused


def stage(state, name, size, inputs=None):
    def work(folder):
        (folder / f"{name}.parquet").write_text(f"{name} {size}" * size)
        return StageResult()

    return run_stage(name, "demo", {"size": size}, inputs or {}, ("data/prune.py",), work, state=state)


def test_what_nothing_refers_to_is_found_and_removed(tmp_path):
    kept, old = stage(tmp_path, "ingest", 10), stage(tmp_path, "ingest", 20)
    checks = [stage(tmp_path, "gate-reviews", 1, {"table": m.path("ingest.parquet")}) for m in (kept, old)]
    half = tmp_path / "demo" / "label" / "0123456789abcdef" / "checkpoint"
    half.mkdir(parents=True)
    found = unused([kept.key], tmp_path)
    assert {f.path for f in found} == {old.folder, checks[1].folder} and found[-1].bytes > 100
    assert remove(found) == found
    assert kept.folder.exists() and checks[0].folder.exists() and half.exists() and not old.folder.exists()
    assert unused([kept.key], tmp_path) == []


def test_what_a_kept_folder_was_made_from_is_kept(tmp_path):
    first, other = stage(tmp_path, "ingest", 10), stage(tmp_path, "ingest", 20)
    second = stage(tmp_path, "retriever", 5, {"reviews": first})
    third = stage(tmp_path, "retrieve", 5, {"retriever": second})
    assert [f.path for f in unused([third.key], tmp_path)] == [other.folder]


def test_a_folder_that_a_job_holds_is_left(tmp_path):
    old = stage(tmp_path, "ingest", 20)
    with FileLock(old.folder.with_suffix(".lock")):
        assert remove(unused([], tmp_path)) == []
    assert old.folder.exists() and old.path("ingest.parquet").read_text()
