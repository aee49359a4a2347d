"""New items for a registered model: a version that has them, without training (`sealr.serving.extend`)."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from sealr import tracking
from sealr.config import from_dict
from sealr.data.manifest import text_digest
from sealr.data.tables import read_json
from sealr.registry import card, gate, promote
from sealr.registry.package import log_packed
from sealr.serving.extend import ItemsError, extend, read_items
from sealr.settings import Config
from sealr.tracked import ORIGIN


@dataclass(frozen=True)
class Added:
    name: str  # of the registered model
    version: str
    items: list[str]
    champion: bool


def add_items(model: str, file: Path) -> Added:
    """Registers a version with the items of a file (`read_items`) beside those of the version at the URI ``model``.

    If the old version is champion, the new one takes its place as if promoted by hand, so a rollback brings it back.
    The same file for the same version is registered once. Raises ItemsError, OSError and promote.PromotionError.
    """
    rows, (name, old) = read_items(file), _resolved(model)
    with tempfile.TemporaryDirectory(prefix="sealr-items-") as scratch:
        folder = Path(mlflow.artifacts.download_artifacts(promote.uri(name, old), dst_path=scratch)) / "artifacts"
        packed = next((path.parent for path in folder.glob("*/model.json")), None)
        if packed is None:
            raise ItemsError(f"version {old} of {name} is no model of sealr: it has no model.json")
        extended = Path(scratch) / "extended" / "model"
        items = extend(packed, rows, extended)
        new = _register(name, old, extended, folder / gate.NOTES, items, text_digest(rows.values.tolist()))
    return Added(name, new, items, promote.champion(name) == new)


def _resolved(model: str) -> tuple[str, str]:
    """Name and version number of models:/NAME@ALIAS or models:/NAME/VERSION."""
    name, _, alias = model.removeprefix("models:/").partition("@")
    if alias:
        return name, str(MlflowClient().get_model_version_by_alias(name, alias).version)
    name, _, version = name.rpartition("/")
    return name, version


def _register(name: str, old: str, packed: Path, notes: Path, items: list[str], rows: str) -> str:
    """The version of a packed folder that has ``items`` more than ``old``. rows: digest of what brought the items."""
    changed = MlflowClient().get_model_version(name, old)
    before = changed.tags
    tags = {k: v for k, v in before.items() if not k.startswith(promote.GATE) and k != promote.ROLLED_BACK}
    tags[promote.CONTENT] = text_digest([before.get(promote.CONTENT, old), rows])
    why = f"{len(items):,} {'item' if len(items) == 1 else 'items'} added to version {old}"
    new = promote.find(name, tags[promote.CONTENT])
    if new is None:
        values: dict[str, Any] = read_json(packed / "model.json")
        config: Config = from_dict(Config, values["config"])
        path = notes / gate.CARD
        about = f"{why}, known by their texts only. Nothing was trained.\n\n{path.read_text(encoding='utf-8')}"
        path.write_text(about, encoding="utf-8")
        tracking.choose_experiment()
        run_tags = {promote.DATA: config.data.name, ORIGIN: changed.run_id}
        with mlflow.start_run(run_name=f"items add {config.data.name}", tags=run_tags):
            logged = log_packed(config, packed, notes, values["weights"]["llm"], items)
        new = promote.create(name, logged.model_uri, logged.run_id, tags, card.description(about), logged.model_id)
    if promote.champion(name) == old:
        promote.promote_manually(name, new, why)
    return new
