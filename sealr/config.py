"""Reading configurations: one YAML per data set and one per base model, checked against the fields of `sealr.settings`.

A run's configuration is ``configs/<base>.yaml``, then ``configs/<data>.yaml``, which knows its budget, over it, and then dotted
overrides such as ``retrieve.epochs=3``. Unknown keys and wrong types are errors that name file and field.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from sealr import resources
from sealr.settings import Config

VECTOR_MODELS = ("gru4rec", "caser", "sasrec", "bert4rec", "bsarec")  # retrievers whose scores are products of two vectors


class ConfigError(ValueError):
    """A configuration file or override is wrong; the message says where and what to do."""


class _Loader(yaml.SafeLoader):
    """YAML without dates: 2020-01-01 is a string, as a start date shall be."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load_config(data: str, base: str = "", overrides: str | list[str] = "") -> Config:
    """The configuration of one run.

    data, base: names of files in ``configs/`` (without .yaml) or paths of YAML files. base may be empty.
    overrides: ``"retrieve.epochs=3 data.category='kitchen tools'"`` or a list of such pairs; values are read as YAML.
    Raises ConfigError naming the file and the field.
    """
    values: dict[str, Any] = {}
    names = [_config_path(n) for n in (base, data) if n]
    for path in names:
        values = merged(values, _read_yaml(path))
    try:
        pairs = shlex.split(overrides) if isinstance(overrides, str) else list(overrides)
    except ValueError as error:
        raise ConfigError(f"overrides {overrides!r}: {error}") from None
    for pair in pairs:
        key, sep, value = pair.partition("=")
        if not sep or not key:
            raise ConfigError(f"override {pair!r} is not of the form section.field=value")
        node: dict[str, Any] = {}
        leaf = node
        *sections, field = key.split(".")
        for section in sections:
            leaf[section] = leaf = {}
        try:
            leaf[field] = _yaml(value)
        except yaml.YAMLError:
            raise ConfigError(f"override {pair!r}: {value!r} is not a YAML value") from None
        values = merged(values, node)
    where = " + ".join([p.name for p in names] + (["overrides"] if pairs else []))
    try:
        config = TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r:.80})" for e in error.errors()]
        raise ConfigError(f"configuration {where}:\n  " + "\n  ".join(lines)) from None
    if config.rerank.n_reranked > config.retrieve.n_retrieved:
        raise ConfigError(
            f"configuration {where}: rerank.n_reranked ({config.rerank.n_reranked}) is more than retrieve.n_retrieved ({config.retrieve.n_retrieved})"
        )
    if config.rerank.user_split == "transductive" and config.rerank.ranker != "scoring":
        raise ConfigError(
            f"configuration {where}: rerank.user_split transductive is for rerank.ranker scoring; the answers of {config.rerank.ranker} "
            "prompts are users' last two items, so it can only be evaluated on other users: add rerank.user_split=inductive"
        )
    if config.rerank.user_split == "transductive" and config.retrieve.tuning_users == "whole":
        raise ConfigError(
            f"configuration {where}: retrieve.tuning_users=whole would train on items that rerank.user_split=transductive evaluates on: "
            "add rerank.user_split=inductive, or leave it at train"
        )
    if config.retrieve.index == "approximate" and config.retrieve.model not in VECTOR_MODELS:
        raise ConfigError(
            f"configuration {where}: retrieve.index=approximate searches vectors, and {config.retrieve.model} has none; "
            f"set retrieve.model to one of {', '.join(VECTOR_MODELS)}, or retrieve.index=exact"
        )
    scoring = config.rerank.scoring
    if config.rerank.ranker == "scoring" and scoring.negative_source == "hard" and scoring.n_hard_negatives < config.rerank.n_reranked:
        raise ConfigError(
            f"configuration {where}: rerank.scoring.n_hard_negatives ({scoring.n_hard_negatives}) is less than rerank.n_reranked ({config.rerank.n_reranked}): "
            "the LLM would learn nothing of the other candidates and put them anywhere"
        )
    if config.rerank.ranker == "scoring" and scoring.negative_source == "hard" and config.retrieve.max_len < config.rerank.max_history:
        raise ConfigError(
            f"configuration {where}: rerank.max_history ({config.rerank.max_history}) is more than retrieve.max_len "
            f"({config.retrieve.max_len}), but with rerank.scoring.negative_source=hard the retriever reads the LLM's histories"
        )
    if config.rerank.processes > 1 and config.rerank.ranker == "palr":
        raise ConfigError(f"configuration {where}: rerank.processes is for rerank.ranker scoring and generative, not for palr")
    if config.rerank.processes > config.rerank.batch_size:
        raise ConfigError(
            f"configuration {where}: rerank.processes ({config.rerank.processes}) is more than rerank.batch_size "
            f"({config.rerank.batch_size}), of which each process takes a share"
        )
    if config.retrieve.hidden % config.retrieve.heads:
        raise ConfigError(
            f"configuration {where}: retrieve.heads ({config.retrieve.heads}) does not divide retrieve.hidden ({config.retrieve.hidden})"
        )
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict of a config dataclass, JSON-serialisable."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Inverse of to_dict for a config dataclass."""
    return TypeAdapter(cls).validate_python(values)


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """values with changes put in, section by section."""
    both = {k: merged(values[k], v) for k, v in changes.items() if isinstance(v, dict) and isinstance(values.get(k), dict)}
    return values | changes | both


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"lora": {"r": 8}}`` -> ``{"lora.r": 8}``, the form MLflow's parameters take."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _config_path(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"configuration file {name} does not exist")
        return path
    folder = resources.folder("configs")
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(
            f"no configuration named {name!r} in configs/; there are: {known}; or give a path ending in .yaml"
        )
    return path


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = _yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections such as data: and retrieve:, found {type(values).__name__}")
    return values


def _yaml(text: str) -> Any:
    return _Loader(text).get_single_data()
