"""Removing stage folders that nothing refers to."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sealr.data.manifest import state_dir
from sealr.data.tables import read_json
from sealr.data.validate import CHECK_STAGE


@dataclass(frozen=True)
class Folder:
    path: Path  # <state>/<data set>/<stage>/<key>
    bytes: int


def unused(keys: Iterable[str], state: Path | None = None) -> list[Folder]:
    """Finished stage folders that are neither among ``keys`` nor direct or indirect inputs of those.

    Unfinished folders are never listed, because an interrupted job resumes in them.
    """
    finished = {p.parent: read_json(p) for p in sorted((state or state_dir()).glob("*/*/*/manifest.json"))}
    kept, new = set(), {folder for folder in finished if folder.name in set(keys)}
    while new:
        kept |= new
        inputs = {digest for folder in new for digest in finished[folder]["inputs"].values()}
        new = {folder for folder, made in finished.items() if made["digest"] in inputs} - kept
    tables = {digest for folder in kept for digest in finished[folder]["files"].values()}
    gone = []
    for folder, made in finished.items():
        checks = made["stage"].startswith(CHECK_STAGE) and tables & set(made["inputs"].values())
        if folder not in kept and not checks:
            gone.append(Folder(folder, sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())))
    return gone


def remove(folders: Iterable[Folder]) -> list[Folder]:
    """Removes the folders that no running job has locked, and returns them."""
    removed = []
    for folder in folders:
        lock = FileLock(folder.path.with_suffix(".lock"), timeout=0)
        try:
            with lock:  # manifest first: after a kill, the rest must not count as complete
                (folder.path / "manifest.json").unlink(missing_ok=True)
                shutil.rmtree(folder.path)
        except Timeout:
            continue
        removed.append(folder)
    return removed
