"""A disk that fills up within a stage: an error, no partial file, and the same result once there is space."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sealr.data.manifest import file_digest

ROOT = Path(__file__).resolve().parents[2]
INGEST = """
import resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # a write beyond it fails, as on a full disk
from sealr.settings import DataConfig
from sealr.data.ingest import ingest, input_files
from sealr.data.manifest import run_stage
config = DataConfig("small", demo_users=60)
made = run_stage("ingest", "small", config, {}, ("data",), lambda folder: ingest(config, folder, input_files(config)))
print(made.digest)
"""


def ingest(state, limit):
    done = subprocess.run(
        [sys.executable, "-c", INGEST, str(limit)],
        cwd=ROOT,
        env=os.environ | {"SEALR_HOME": str(state)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout.strip(), done.stderr


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written_and_loses_nothing(tmp_path):
    code, expected, err = ingest(tmp_path / "free", 10**9)
    assert code == 0, err
    largest = max(p.stat().st_size for p in (tmp_path / "free").rglob("*.parquet"))
    code, _, err = ingest(tmp_path / "full", largest // 2)
    assert code == 1 and "File too large" in err
    whole = {p.name: file_digest(p) for p in (tmp_path / "free").rglob("*.parquet")}
    left = [p for p in (tmp_path / "full").rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert all(whole.get(p.name) == file_digest(p) for p in left), left  # no manifest, no temporary or partial file
    code, digest, err = ingest(tmp_path / "full", 10**9)
    assert (code, digest) == (0, expected), err
