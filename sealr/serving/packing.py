"""The folder of a packed model: safetensors, JSON and Parquet files that load without the data set."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from sealr import __version__
from sealr import weights as model_weights
from sealr.config import ConfigError, from_dict, to_dict
from sealr.content.profiles import Profiles
from sealr.content.readers import identity as reader_identity
from sealr.data.manifest import REFIT
from sealr.data.privacy import salted
from sealr.data.sequences import Sequences
from sealr.data.tables import read_json, write_json
from sealr.emotion.backends import pinned_name
from sealr.emotion.labeller import labeller_id
from sealr.redact import redacted
from sealr.rerank.llm import ADAPTER, AdapterError
from sealr.satisfaction.learn import REASONS
from sealr.satisfaction.model import NUMBERS, TENSORS
from sealr.settings import Config

SATISFACTION = "satisfaction"  # subfolder of the forecast and of what each item's reviews felt
HISTORIES = "histories.parquet"  # of known users, see `histories`
Stage = TypeVar("Stage")


class FormatError(ValueError):
    """Another release wrote the packed model, in another format; the message says which, and what to do."""


@dataclass(frozen=True)
class Weights:
    """What validation chose: weights in z(retriever) + llm * z(LLM) + satisfaction * standardised satisfaction."""

    llm: float = 0.0
    satisfaction: float = 0.0


def served(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """By name, the stages that the served model is made of: a refitted stage takes the place of its twin."""
    refitted = {name.removeprefix(REFIT): made for name, made in stages.items() if name.startswith(REFIT)}
    return {name: made for name, made in stages.items() if not name.startswith(REFIT)} | refitted


def pack(folder: Path, config: Config, weights: Weights, stages: Mapping[str, Path], histories: pd.DataFrame) -> None:
    """Writes a folder that `Recommender.load` reads.

    stages: folders of reviews, candidates and, if it was refitted, the retriever; of the adapter if there is one, of
    satisfaction if it has a weight, and of content where the retriever or the LLM reads texts of items.
    histories: see the function of that name; ``registry.users`` says under which ids they are stored, if at all.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _copy_retriever(stages["candidates"], folder)
    if "retriever" in stages:
        _copy_retriever(stages["retriever"], folder, "retriever.json")  # settings and weights stay those of the job
    shutil.copy(stages["reviews"] / "items.parquet", folder / "items.parquet")
    values: dict[str, Any] = {"weights": asdict(weights), "labeller": labeller_id(config.label)}
    if config.registry.users == "salted":
        hashes = salted()
        histories = histories.assign(user=histories["user"].map(hashes)).sort_values("user")  # or ids could be guessed
        values["salt_check"] = hashes.check
    elif config.registry.users == "none":
        histories = histories.head(0)
    histories.to_parquet(folder / HISTORIES, index=False)
    if "adapter" in stages:
        shutil.copytree(stages["adapter"] / ADAPTER, folder / ADAPTER)
        values["base_digest"] = model_weights.digest(config.rerank.base)
        if config.registry.include_base:
            shutil.copytree(model_weights.resolve(config.rerank.base), folder / "base")
    if "content" in stages:  # what `sealr.serving.extend` makes profiles of new items with
        known = Profiles.load(stages["content"])
        told = [kind for kind, vectors in known.vectors.items() if vectors.any()]
        Profiles({}, *({k: made[k] for k in told} for made in (known.mean, known.deviation))).save(folder)
        values["reader"] = reader(config)
    if weights.satisfaction:
        (folder / SATISFACTION).mkdir()
        for name in (TENSORS, NUMBERS, REASONS):
            shutil.copy(stages["satisfaction"] / name, folder / SATISFACTION / name)
    config = replace(config, label=replace(config.label, model=pinned_name(config.label.model)))
    write_json({"config": redacted(to_dict(config))} | values, folder / "model.json")


def _copy_retriever(made: Path, folder: Path, *kept: str) -> None:
    """Copies what serving needs of a stage's folder. kept: files that are there already and stay."""
    unused = shutil.ignore_patterns("*.parquet", "*.npy", "history.json", "manifest.json", ".*", *kept)
    shutil.copytree(made, folder / "retriever", ignore=unused, dirs_exist_ok=True)


def find(folder: Path) -> Path | None:
    """The packed model that a folder is or holds: that of MLflow, or of a fitted model."""
    return next(
        (f for f in (folder, folder / "model", *folder.glob("artifacts/*")) if (f / "model.json").is_file()), None
    )


def located(source: str | Path) -> Path:
    """The packed model of a folder, or of an address such as ``models:/sealr@champion``, which is downloaded.

    Raises FileNotFoundError if there is none in it, and MLflow's MlflowException if the registry has none.
    """
    folder = Path(source)
    if ":/" in str(source):
        import mlflow

        from sealr import tracking

        tracking.setup()
        folder = Path(mlflow.artifacts.download_artifacts(str(source)))
    if (found := find(folder)) is None:
        raise FileNotFoundError(f"{source} holds no model: name a registered model, or the folder of a fitted one")
    return found


def read_values(folder: Path) -> dict[str, Any]:
    """model.json of a packed model. Raises FormatError for a model of another release.

    SEALR 0.1 had other names of settings, and wrote one number of epochs where there is now one for each part.
    """
    values: dict[str, Any] = read_json(folder / "model.json")
    now, advice = f"this release ({__version__})", "train and register it again, or use the release that made it"
    try:
        from_dict(Config, values["config"])
    except ConfigError as error:
        why = " ".join(str(error).split())
        raise FormatError(f"the model has settings that {now} does not read ({why}): {advice}") from None
    if not isinstance(read_json(folder / "retriever" / "retriever.json").get("epochs"), list):
        raise FormatError(f"the model has the format of SEALR 0.1, which {now} does not read: {advice}")
    return values


def read_config(folder: Path, values: Mapping[str, Any]) -> Config:
    """The configuration of a packed model. values: of model.json.

    Raises weights.WeightsError when the base LLM is not available, and AdapterError if it is not the one of training.
    """
    config: Config = from_dict(Config, values["config"])
    if (folder / "base").exists():
        config = replace(config, rerank=replace(config.rerank, base=str(folder / "base")))
    if values["weights"]["llm"] and model_weights.digest(config.rerank.base) != values["base_digest"]:
        raise AdapterError(
            f"{config.rerank.base} is not the model that the adapter was trained on (another source of the same "
            "name); register the model with registry.include_base=true"
        )
    return config


def read_salt(values: Mapping[str, Any]) -> Callable[[str], str]:
    """A user's id -> the id in HISTORIES. values: of model.json. Raises SaltError without the right salt."""
    if "salt_check" not in values:
        return str
    hashes = salted("the model")
    hashes.agree(values["salt_check"], "the model")
    return hashes


def reader(config: Config) -> str:
    """The model that reads texts of items. Its int8 vectors are close to its others, so the engine does not matter."""
    return reader_identity(config.content).rpartition("-")[0]


def histories(sequences: Sequences, feelings: np.ndarray, stars: np.ndarray | None) -> pd.DataFrame:
    """Each user's whole history: user, items (indices, oldest first), sentiments, expected and stars (NaN unknown).

    feelings (interactions, 2), stars (interactions,): aligned with ``sequences.flat``.
    """
    stars = np.full(len(sequences.flat), np.nan, np.float32) if stars is None else stars
    columns = {"items": sequences.flat, "sentiments": feelings[:, 0], "expected": feelings[:, 1], "stars": stars}
    stops = sequences.offsets[1:-1]
    return pd.DataFrame({"user": sequences.users} | {name: np.split(v, stops) for name, v in columns.items()})
