"""What travels with the package: the folders ``configs`` and ``expectations``, and its requirements."""

from __future__ import annotations

import functools
import tomllib
from importlib import metadata, resources
from pathlib import Path


@functools.cache
def folder(name: str) -> Path:
    """The folder of ``sealr.configs`` or ``sealr.expectations``, in a checkout or in an installed package."""
    return Path(str(resources.files(f"sealr.{name}")))


@functools.cache
def requirements(extra: str = "") -> tuple[str, ...]:
    """Dependencies of the package, or of one of its extras, as pyproject.toml lists them.

    Reads the checkout, else the installed distribution. Raises metadata.PackageNotFoundError if there is neither.
    """
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        return tuple(table["optional-dependencies"][extra] if extra else table["dependencies"])
    found = metadata.requires("sealr") or []
    wanted = f'extra == "{extra}"' if extra else "extra =="
    return tuple(line.partition(";")[0].strip() for line in found if (wanted in line) == bool(extra))
