"""``sealr run --dry-run`` estimates the cost of fine-tuning without downloading, training or tracking anything."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd

from sealr.config import ConfigError, load_config
from sealr.data.download import data_dir, local_path
from sealr.data.ingest import ingest
from sealr.data.sequences import Sequences, build
from sealr.data.tables import read_table
from sealr.rerank.plan import machine_rates, plan, shape_of, text, workload
from sealr.settings import DataConfig


def dry_run(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Prints parameters, memory, tokens and hours of fine-tuning. Raises ConfigError."""
    config = load_config(data, base, overrides)
    shape = shape_of(config.rerank.base)
    tables = local_tables(config.data)
    work, again = (workload(config, shape, *tables, refit=refit) for refit in (False, True))
    rates = machine_rates(config.rerank, shape)
    made, refitted = (plan(config.rerank, shape, read, rates) for read in (work, again))
    print(text(config.rerank, made, work, rates, refitted))


def local_tables(config: DataConfig) -> tuple[Sequences, pd.DataFrame]:
    """Sequences and items of a data set. Raises ConfigError if its files are not on this machine."""
    paths = {"reviews": local_path(config.reviews, data_dir()), "items": local_path(config.items, data_dir())}
    files = {name: path for name, path in paths.items() if path.exists()} if config.source != "demo" else {}
    if config.source != "demo" and "reviews" not in files:
        raise ConfigError(f"{paths['reviews']} is missing: get the data set with `sealr ingest --data {config.name}`")
    with tempfile.TemporaryDirectory() as folder:
        ingest(config, Path(folder), files)
        items = read_table(Path(folder) / "items.parquet", "items")
        return build(read_table(Path(folder) / "reviews.parquet", "reviews")), items
