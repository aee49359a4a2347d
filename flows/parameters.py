"""What the form for a run in the Prefect UI says about the parameters that flows share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field

from sealr import resources

Work = TypeVar("Work", bound=Callable[..., object])


def explained(work: Work) -> Work:
    """Adds help and choices for the parameters data, base and overrides to a flow.

    Prefect looks for help in the docstring, and for choices in the annotations.
    """
    work.__annotations__ |= {"data": choice(named("data")), "base": choice(named("rerank"))}
    help_of = {
        "data": "Data set: a packaged one, or the path of a YAML file.",
        "base": "Base model: a packaged one, or the path of a YAML file.",
        "overrides": "Settings, such as retrieve.epochs=20 rerank.lr=1e-4. Empty: as in the files.",
    }
    arguments = "".join(f"    {name}: {text}\n" for name, text in help_of.items())
    work.__doc__ = f"{inspect.cleandoc(work.__doc__ or '')}\n\nArgs:\n{arguments}"
    return work


def choice(names: list[str]) -> Any:
    """The type of one of some names, or of any other text."""
    literal: Any = Literal
    return Annotated[literal[tuple(names)], Field(title="packaged")] | Annotated[str, Field(title="YAML file")]


def named(section: str) -> list[str]:
    """Names of the packaged configurations of data sets, "data", or of base models, "rerank"."""
    files = sorted(resources.folder("configs").glob("*.yaml"))
    read = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}
    return [name for name, values in read.items() if section in values and (section == "data" or "data" not in values)]
