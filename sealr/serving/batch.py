"""Batch scoring on one machine (``sealr score``, docs/serving.md): a table of requests in, recommendations out.

Requests are read, answered and written in blocks, so memory is that of the model and one block. What is written takes
its final name only when it is complete. `sealr.serving.spark` does the same on a cluster.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from sealr.config import nearest
from sealr.data.parts import parts
from sealr.data.sources.formats import format_of, read_records
from sealr.data.sources.lines import DataFileError
from sealr.progress import progress_bar
from sealr.serving.packing import find
from sealr.serving.recommender import Recommender
from sealr.serving.request import KNOWN, BadRequest, read_options
from sealr.serving.writers import ADDED, writer
from sealr.settings import DataConfig

log = logging.getLogger(__name__)
ROWS = 2048  # requests of a block
ITEMS = 100_000  # recommended items of a block, at most
FIELDS = KNOWN["field"]


class ScoreError(ValueError):
    """The table, the model or the output cannot be used; the message says what to do."""


@dataclass
class Counts:
    """What was written."""

    requests: int = 0
    items: int = 0
    empty: int = 0  # requests without a recommendation
    warned: int = 0  # requests with a warning
    warning: str = ""  # the first one

    def add(self, answers: Sequence[dict[str, Any]]) -> None:
        self.requests += len(answers)
        for answer in answers:
            self.items += len(answer["items"])
            self.empty += not answer["items"]
            self.warned += bool(answer["warnings"])
            self.warning = self.warning or "; ".join(answer["warnings"])


def score(
    model: str,
    users: Path | None,
    out: str,
    params: dict[str, Any],
    table: str = "",
    overwrite: bool = False,
    available: Path | None = None,
) -> Counts:
    """Writes recommendations for every row of ``users``. Raises ScoreError, or what the writer raises.

    model: models:/NAME@ALIAS, models:/NAME/VERSION or a folder. users: a table with the fields of a request, in any
    format of `sealr.data.sources.formats`; other columns are kept. None: all users whose history the model has.
    out, table, overwrite: see `sealr.serving.writers.writer`. params: see `sealr.serving.request.Options`.
    available: a file of available items.
    """
    options = read_options(params)
    size = max(1, min(ROWS, ITEMS // options.top_k))
    with writer(out, table, overwrite) as write, tempfile.TemporaryDirectory(prefix="sealr-score-") as scratch:
        folder, version = fetched(model, Path(scratch))
        recommender = Recommender.load(folder)
        if available:
            recommender.watch(available)
        known = recommender.users if users is None else []
        rows = _known(known) if users is None else _rows(users)
        counts = Counts()
        # A file is read as it is scored, and its reader shows how far it is
        with progress_bar(label="score", unit="users", total=len(known), hidden=users is not None) as bar:
            while block := list(islice(rows, size)):
                answers = _answers(recommender, block, params)
                write([_kept(row) for _, row in block], answers, version)
                counts.add(answers)
                bar.update(len(block))
        if not counts.requests:
            raise ScoreError(f"{users or 'the model'} has no rows to score")
    return counts


def fetched(model: str, scratch: Path) -> tuple[Path, str | None]:
    """The packed folder of a model, and its number in the registry; None for a folder. Raises ScoreError."""
    version = resolved(model)
    folder = Path(model)
    if version:  # resolved once: the alias may move meanwhile
        address = f"models:/{model.removeprefix('models:/').partition('@')[0].partition('/')[0]}/{version}"
        folder = Path(mlflow.artifacts.download_artifacts(address, dst_path=str(scratch)))
    if (packed := find(folder)) is None:
        raise ScoreError(f"{model} is not a SEALR model: it has no model.json")
    return packed, version


def resolved(model: str) -> str | None:
    """Number in the registry; None for a folder."""
    if not model.startswith("models:/"):
        return None
    name, _, alias = model.removeprefix("models:/").partition("@")
    if alias:
        return str(mlflow.MlflowClient().get_model_version_by_alias(name, alias).version)
    return name.rpartition("/")[2]


def check_columns(path: str, names: Sequence[str]) -> None:
    """Raises ScoreError unless a table has a user or a history, and no name of what recommendations add."""
    if not {"user", "history"} & set(names):
        raise ScoreError(f"{path} needs a column user or history; it has {', '.join(names) or 'none'}")
    if clash := [name for name in names if name in ADDED]:
        raise ScoreError(f"{path} has a column {clash[0]}, a name that the recommendations use: rename it")


def _known(users: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"user {user}", {"user": user}) for user in users)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and values of each row of a file, or of all files of a folder. Raises ScoreError."""
    seen: set[str] = set()
    try:
        for part in parts(path):
            wanted = [] if format_of(part) == "parquet" else FIELDS  # Parquet: all columns; CSV: what tells delimiters
            for row in read_records(part, DataConfig("score"), wanted, lambda names: None):
                if row.values is None:
                    raise ScoreError(f"{part}, row {row.line}: {row.reason}")
                if new := [name for name in row.values if name not in seen]:
                    check_columns(str(part), [*row.values])
                    _warn(part, [name for name in new if name not in FIELDS])
                    seen |= set(new)
                yield f"{part}, row {row.line}", row.values
    except (DataFileError, OSError) as error:
        raise ScoreError(str(error)) from None


def _warn(path: Path, others: Sequence[str]) -> None:
    for name in others:
        if close := nearest(name, FIELDS):
            log.warning("%s: the column %s is kept as it is%s", path, name, close)


def _answers(
    recommender: Recommender, block: Sequence[tuple[str, dict[str, Any]]], params: dict[str, Any]
) -> list[dict[str, Any]]:
    """Answers of a block. A mistake names the row of the file."""
    names = [name for name in FIELDS if any(name in row for _, row in block)]
    columns = {name: pd.Series([_cell(name, row.get(name)) for _, row in block], dtype=object) for name in names}
    try:
        return recommender.predict(pd.DataFrame(columns), params).to_dict("records")  # type: ignore[return-value]
    except BadRequest as error:
        raise ScoreError(re.sub(r"^request (\d+)", lambda found: block[int(found[1])][0], str(error))) from None


def _cell(name: str, value: Any) -> Any:
    """A value of a table; in CSV all are texts, and an empty one is none."""
    if value == "":
        return None
    if name == "available_only" and isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    return value


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in FIELDS}
