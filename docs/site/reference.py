"""The reference of commands and settings as Markdown, from the command line's own help and the comments of settings."""

from __future__ import annotations

import dataclasses
import inspect
import io
import tokenize
from typing import Any

import click
import typer

from sealr import settings as found
from sealr.cli import app


def commands() -> str:
    """Every command with its arguments, options, defaults and example."""
    root = typer.main.get_command(app)
    context = click.Context(root, info_name="sealr")
    parts = ["# Commands\n\n`sealr COMMAND --help` prints the same.\n"]
    for name, command in sorted(_commands(root, context).items()):
        parts.append(_command(name, command))
    return "\n".join(parts)


def _commands(group: Any, context: click.Context, before: str = "sealr") -> dict[str, click.Command]:
    made: dict[str, click.Command] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command.hidden:
            continue
        title = f"{before} {name}"
        made |= _commands(command, context, title) if hasattr(command, "commands") else {title: command}
    return made


def _command(name: str, command: click.Command) -> str:
    lines = [f"## {name}\n", inspect.cleandoc(command.help or ""), ""]
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    if shown:
        lines += ["| | default | |", "|---|---|---|"]
        for param in shown:
            option = param.param_type_name == "option"  # typer has a click of its own
            title = ", ".join(f"`{flag}`" for flag in param.opts) if option else f"`{(param.name or '').upper()}`"
            lines.append(f"| {title} | {_default(param)} | {_cell(getattr(param, 'help', '') or '')} |")
    if command.epilog:
        lines += ["", f"`{command.epilog.removeprefix('Example: ')}`"]
    return "\n".join([*lines, ""])


def _default(param: click.Parameter) -> str:
    value = param.default() if callable(param.default) else param.default
    if param.required:
        return "required"
    return f"`{value}`" if isinstance(value, (str, int, float)) and value not in ("", False) else ""


def settings() -> str:
    """Every setting with its type, default and comment, section by section."""
    parts = [
        "# Settings\n\n`sealr config show` prints all settings of a job; `--set retrieve.epochs=20` changes one.\n"
    ]
    for field in dataclasses.fields(found.Config):
        parts.append(_section(field.name, _class(field.type), 2))
    return "\n".join(parts)


def _section(name: str, kind: type, depth: int) -> str:
    lines, inner = [f"{'#' * depth} {name}\n", "| setting | type | default | |", "|---|---|---|---|"], []
    comments = _comments(kind)
    for field in dataclasses.fields(kind):
        if nested := _class(field.type):
            inner.append(_section(f"{name}.{field.name}", nested, 3))
            continue
        default = field.default if field.default is not dataclasses.MISSING else ""
        default = getattr(default, "default", default)
        shown = f"`{default!r}`" if default not in ("", ()) and "Undefined" not in repr(default) else ""
        lines.append(f"| `{field.name}` | {_cell(_type(field.type))} | {shown} | {_cell(comments[field.name])} |")
    return "\n".join([*(lines if len(lines) > 3 else lines[:1]), "", *inner])


def _class(kind: Any) -> Any:
    """The settings class that a field's type names, or None."""
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    made = getattr(_modules(), name, None) if name.isidentifier() else None
    return made if dataclasses.is_dataclass(made) else None


def _modules() -> Any:
    return type("names", (), {k: v for m in _sources() for k, v in vars(m).items()})


def _sources() -> list[Any]:
    from sealr.settings import data, models

    return [models, data, found]


def _type(kind: Any) -> str:
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    if name in vars(_modules()):  # a name for a Literal
        name = str(vars(_modules())[name]).replace("typing.", "")
    return name.removeprefix("Literal[").removesuffix("]").replace("'", "") if name.startswith("Literal[") else name


def _comments(kind: type) -> dict[str, str]:
    """Field -> the comment above it and the one behind it."""
    made = {field.name: "" for field in dataclasses.fields(kind)}
    above: list[str] = []
    name, depth = "", 0
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(kind)).readline):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if token.line.strip().startswith("#"):
                above.append(text)
            elif name:
                made[name] = f"{made[name]} {text}".strip()
        elif (
            token.type == tokenize.NAME
            and depth == 0
            and token.string in made
            and token.line.strip().startswith(token.string)
        ):
            name = token.string
            made[name] = " ".join(above)
            above = []
    return made


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
