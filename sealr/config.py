"""Reading configurations: one YAML file per data set and per base model, checked against `sealr.settings`.

The data config overrides the base config; overrides such as ``retrieve.epochs=3`` override both.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from sealr import resources
from sealr.settings import Config

RENAMED = {
    "retrieve.negatives": "retrieve.n_negatives",
    "retrieve.start": "retrieve.item_init",
    "retrieve.average": "retrieve.ema_decay",
    "retrieve.pool": "retrieve.n_retrieved",
    "rerank.setting": "rerank.user_split",
    "rerank.ratio": "rerank.finetune_share",
    "rerank.candidates": "rerank.n_reranked",
    "rerank.scoring.negatives": "rerank.scoring.negative_source",
    "rerank.scoring.hard": "rerank.scoring.n_hard_negatives",
    "registry.drift_hold": "registry.drift.hold",
    "registry.drift_distribution": "registry.drift.distribution",
    "registry.drift_catalogue": "registry.drift.catalogue",
    "registry.drift_activity": "registry.drift.activity",
    "registry.drift_volume": "registry.drift.volume",
}
REMOVED = dict.fromkeys(
    (
        "label.window_tokens", "label.max_windows", "label.batch_tokens", "label.part_rows", "retrieve.probe",
        "retrieve.caser", "retrieve.bert4rec", "retrieve.ease.neighbours", "retrieve.cooccurrence.neighbours",
        "rerank.scoring.weight_decay", "rerank.checkpoint_steps",
    ),
    "its value is fixed",
) | {
    "label.precision": "the labeller's card decides",
    "retrieve.objective": "every position is a training target",
    "retrieve.weight_decay": "retrievers train without weight decay",
    "rerank.scoring.item_embeddings": "the item table is always trained",
    "rerank.scoring.target_feeling": "it showed no benefit",
    "rerank.candidate_order": "candidates are always shuffled",
}  # fmt: skip


class ConfigError(ValueError):
    """A configuration file or override is wrong; the message names file and field and says what to do."""


class _Loader(yaml.SafeLoader):
    """YAML without dates: the start date 2020-01-01 is a string."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load_config(data: str, base: str = "", overrides: str | list[str] | Mapping[str, Any] = "") -> Config:
    """The configuration of one run.

    data, base: names of files in ``configs/`` (without .yaml) or paths of YAML files; either may be empty.
    overrides: ``"retrieve.epochs=3 data.category='kitchen tools'"`` or a list of such pairs, with values read as YAML;
    or a mapping such as ``{"retrieve.epochs": 3}``.
    Raises ConfigError, which names the field, and the file if the mistake is in one.
    """
    layers = [(path.name, _read_yaml(path)) for path in (_config_path(name) for name in (base, data) if name)]
    try:
        pairs = shlex.split(overrides) if isinstance(overrides, str) else overrides
    except ValueError:
        raise ConfigError(f"a quotation mark is not closed in the settings {overrides!r}") from None
    named = pairs.items() if isinstance(pairs, Mapping) else map(_parse, pairs)
    return _validated(Config, layers + [("", _nested(name, value)) for name, value in named])


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as a nested dict, JSON-serialisable."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: dict[str, Any], place: str = "") -> Any:
    """Inverse of to_dict for ``Config`` or one of its sections.

    place: where the values come from, for the message. Raises ConfigError, which lists every mistake.
    """
    return _validated(cls, [(place, values)])


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``values`` updated with ``changes``, section by section."""
    both = [k for k, v in changes.items() if isinstance(v, dict) and isinstance(values.get(k), dict)]
    return values | changes | {k: merged(values[k], changes[k]) for k in both}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"lora": {"r": 8}}`` -> ``{"lora.r": 8}``, the form of MLflow's parameters."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def nearest(name: str, known: list[str]) -> str:
    """``; did you mean x?`` for the known name closest to ``name``, or an empty string."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _fields(cls: type) -> list[tuple[str, Any]]:
    return [(name, field.annotation) for name, field in getattr(cls, "__pydantic_fields__", {}).items()]


@functools.cache
def _names(cls: type = Config, prefix: str = "") -> list[str]:
    """Dotted names of all settings, without the sections that hold them."""
    return [
        name
        for field, annotation in _fields(cls)
        for name in (_names(annotation, f"{prefix}{field}.") if _fields(annotation) else [f"{prefix}{field}"])
    ]


def _unknown(values: dict[str, Any], section: str) -> Iterator[str]:
    """A sentence for each name in ``values`` that is not a setting, also within the parts of a fusion."""
    for name, value in flatten(values, section).items():
        parents = [name.rsplit(".", depth)[0] for depth in range(name.count(".") + 1)]
        if name in ("retrieve.parts", "retrieve.teacher") and isinstance(value, (list, tuple)):
            for number, part in enumerate(value):
                mistakes = _unknown(part, "retrieve.") if isinstance(part, dict) else ()
                yield from (f"{name}[{number}]: {mistake}" for mistake in mistakes)
        elif any(known == parent or known.startswith(f"{name}.") for known in _names() for parent in parents):
            continue
        elif name in RENAMED:
            yield f"{name} was renamed: use {RENAMED[name]}"
        elif removed := next((parent for parent in parents if parent in REMOVED), ""):
            yield f"{removed} was removed: {REMOVED[removed]}"
        else:
            same_field = [known for known in _names() if known.endswith("." + name.rpartition(".")[2])]
            yield f"unknown setting {name}{nearest(name, same_field) or nearest(name, _names())}"


def _validated(cls: type, layers: list[tuple[str, dict[str, Any]]]) -> Any:
    """The ``cls`` that layers of values with their places describe; later layers override earlier ones."""
    section = next((f"{name}." for name, annotation in _fields(Config) if annotation is cls), "")
    mistakes = [(place, mistake) for place, values in layers for mistake in _unknown(values, section)]
    if not mistakes:
        both: dict[str, Any] = {}
        for _, values in layers:
            both = merged(both, values)
        try:
            return TypeAdapter(cls).validate_python(both)
        except ValidationError as error:
            mistakes = list(_describe(error.errors(), section, layers))
    lines = [f"{place}: {mistake}" if place else mistake for place, mistake in mistakes]
    raise ConfigError("\n  ".join(["several settings are wrong:", *lines]) if lines[1:] else lines[0])


def _describe(errors: list[Any], section: str, layers: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Places of pydantic's mistakes, and a sentence about each. A field of several types is one mistake."""
    wanted: dict[str, list[str]] = {}
    given: dict[str, Any] = {}
    chosen: dict[str, list[str]] = {}  # the choices of a field that has some
    for error in errors:
        if error["type"] == "value_error":  # a check in sealr.settings names its fields itself
            yield layers[0][0] if len(layers) == 1 else "", error["msg"].removeprefix("Value error, ")
            continue
        field = ".".join(str(part) for part in error["loc"] if part != "str" and "[" not in str(part))
        wanted.setdefault(field, []).append(_wanted(error, f"{section}{field}"))
        given[field] = error["input"]
        chosen[field] = wanted[field][0].replace(",", "").split() if error["type"] == "literal_error" else []
    for field, kinds in wanted.items():
        place = layers[0][0] if len(layers) == 1 else ""
        inside = f"{field.rpartition('.')[0]}." if kinds == [""] else ""  # of a missing one, its section
        for name, values in layers:  # the last layer that sets the field
            set_here = (
                f"{field}.".startswith(f"{key}.") or inside and key.startswith(inside) for key in flatten(values)
            )
            place = name if any(set_here) else place
        if kinds == [""]:
            yield place, f"{section}{field} is missing"
        else:
            names, got = " or ".join(dict.fromkeys(kinds)), f"{given[field]!r:.80}"
            close = nearest(str(given[field]), chosen[field])
            yield place, f"{section}{field} must be {names}, not {got}{close}"


KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "a text", "tuple": "a list"}
KINDS |= {"dict": "a mapping, such as {name: value}", "dataclass": "a section, such as {name: value}"}
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
PATTERNS = {
    "data.name": "letters, digits, dots, dashes and underscores, with a letter or digit first",
    "data.delimiter": "auto, tab or one character",
}


def _wanted(error: Any, field: str) -> str:
    """What a field must be, to follow "must be"; empty for a missing one."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return ""
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind == "string_pattern_mismatch" and field in PATTERNS:
        return PATTERNS[field]
    if bound := next((name for name in BOUNDS if name in context), ""):
        return f"{BOUNDS[bound]} {context[bound]:g}"
    return KINDS.get(kind.partition("_")[0]) or str(error["msg"]).removeprefix("Input should be ")


def _parse(pair: str) -> tuple[str, Any]:
    """``"lora.r=8"`` -> ``("lora.r", 8)``."""
    name, sign, text = pair.partition("=")
    if not sign or not name:
        raise ConfigError(f"override {pair!r} is not of the form section.field=value")
    try:
        return name, _yaml(text)
    except yaml.YAMLError:
        raise ConfigError(f"override {pair!r}: {text!r} is not a YAML value") from None


def override(name: str, value: Any) -> str:
    """Inverse of what `load_config` reads: ``retrieve.lr=0.001``, and in single quotes what has blanks or brackets."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=sys.maxsize)
    return shlex.quote(f"{name}={text.removesuffix('...' + chr(10)).strip()}")


def shell_quote(text: str) -> str:
    """A text as one word of a shell's command, in double quotes where that keeps single quotes readable."""
    return f'"{text}"' if "'" in text and not set(text) & set('"\\$`!') else shlex.quote(text)


def _nested(name: str, value: Any) -> dict[str, Any]:
    """``"lora.r", 8`` -> ``{"lora": {"r": 8}}``."""
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


def _config_path(name: str) -> Path:
    folder, given = resources.folder("configs"), name.endswith((".yaml", ".yml"))
    path = Path(name) if given else folder / f"{name}.yaml"
    if path.is_file():
        return path
    if Path(name).is_file():
        raise ConfigError(
            f"{name} is no configuration: `sealr inspect {name} --out my-data.yaml` writes one that reads it"
        )
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if given:
        raise ConfigError(f"configuration file {name} does not exist{nearest(Path(name).stem, known)}")
    listed = nearest(name, known) or f"; there are {', '.join(known)};"
    raise ConfigError(f"no configuration is named {name!r}{listed} or give the path of a .yaml file of your own")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = _yaml(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        found = {type(None): "it is empty", list: "found a list"}.get(type(values), "found a single value")
        raise ConfigError(f"{path}: expected sections such as data: and retrieve:, {found}")
    return values


def _yaml(text: str) -> Any:
    return _Loader(text).get_single_data()
