"""Folders that travel with the package: ``configs`` and ``expectations``. They stand at the top of a checkout."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path


@functools.cache
def folder(name: str) -> Path:
    """The folder of ``sealr.configs`` or ``sealr.expectations``, in a checkout or in an installed package."""
    return Path(str(resources.files(f"sealr.{name}")))
