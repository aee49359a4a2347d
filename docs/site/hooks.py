"""MkDocs hooks: the repository's pages and pictures as pages of the site, and the reference, written from the code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "*.md",
    "docs/*.md",
    "docs/*.svg",
    "docs/pictures/*.png",
    "benchmarks/**/*.md",
    "benchmarks/plots/*.png",
    "examples/*.ipynb",
)
sys.path.insert(0, str(Path(__file__).parent))

import reference  # noqa: E402


def on_files(files: Files, config: Any) -> Files:
    """Adds the files of PAGES under their own paths, and the pages of `reference`."""
    found = {path.relative_to(ROOT).as_posix(): path for pattern in PAGES for path in ROOT.glob(pattern)}
    for name, path in sorted(found.items()):
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for name, text in {"commands": reference.commands(), "settings": reference.settings()}.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files
