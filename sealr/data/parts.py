"""A data set in one file, or in a folder of parts."""

from __future__ import annotations

from pathlib import Path


def parts(path: Path) -> list[Path]:
    """The file itself, or the files within a folder, in the order of their paths.

    Names that start with a dot or an underscore, such as Spark's ``_SUCCESS``, are no parts.
    """
    if not path.is_dir():
        return [path]
    found = [p for p in path.rglob("*") if p.is_file()]
    return sorted(p for p in found if not any(n.startswith((".", "_")) for n in p.relative_to(path).parts))
